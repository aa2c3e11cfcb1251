//! Clients that break off.

use super::*;

/// How many there are in a round.
const RESETS: usize = 5000;
/// How many at a time.
const AT_ONCE: usize = 8;

/// Sends some of a request, reads some of an answer where there can be one, and resets the
/// connection.
fn break_off(address: SocketAddr) -> io::Result<()> {
    let body = members::beat(MEMBERS + random(10));
    let request = match random(3) {
        0 => head("GET", "/peers", "", "keep-alive"),
        1 => head("POST", "/heartbeat", &body, "keep-alive") + &body,
        _ => head("POST", "/register", "{}", "close") + "{}",
    };
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect(&address.into())?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    let half = random(2) == 0;
    let length = if half {
        random(request.len())
    } else {
        request.len()
    };
    stream.write_all(&request.as_bytes()[..length])?;
    if !half {
        let mut some = vec![0; random(20_000)];
        let _ = stream.read(&mut some);
    }
    Ok(())
}

#[test]
fn five_thousand_resets_cost_no_member_its_place() {
    let trial = Trial::start("5,000 resets at random points", usual(&[]));
    trial.run(|discovery| {
        let address: SocketAddr = discovery.address.parse().expect("an address");
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    for _ in 0..RESETS / AT_ONCE {
                        // It may be closed on our side as well.
                        let _ = break_off(address);
                    }
                });
            }
        });
    });
}
