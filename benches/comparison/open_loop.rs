//! Requests that are sent when they are due, whether those before them are answered or not.
//!
//! That is how cells beat. Who waits for an answer before he asks again measures a stall once; here
//! everybody who would have beaten meanwhile has waited, too, and each wait counts from the moment
//! the request was due.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::Connection;
use crate::{Result, sleep_until};

/// Over how many connections, each with a thread of its own.
const CONNECTIONS: usize = 64;

/// Requests that are being sent.
pub struct OpenLoop {
    schedule: Arc<Schedule>,
    senders: Vec<JoinHandle<io::Result<Vec<Duration>>>>,
}

struct Schedule {
    begins: Instant,
    rate: u32,
    /// In microseconds after the beginning. What was due by then is still sent.
    ends: AtomicU64,
}

/// How long each request waited for its answer.
pub struct Waits {
    /// The longest last.
    sorted: Vec<Duration>,
    /// How many were answered a second.
    pub rate: f64,
}

impl OpenLoop {
    /// Sends `rate` requests a second to `address`, made of their numbers, until it is ended.
    pub fn start(
        address: SocketAddr,
        rate: u32,
        request: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<Self> {
        let connections = (0..CONNECTIONS).map(|_| Connection::to(address));
        let connections: Vec<_> = connections.collect::<io::Result<_>>()?;
        let schedule = Arc::new(Schedule {
            begins: Instant::now(),
            rate,
            ends: AtomicU64::new(u64::MAX),
        });
        let request = Arc::new(request);
        let send = |(first, connection)| {
            let (schedule, request) = (Arc::clone(&schedule), Arc::clone(&request));
            thread::spawn(move || schedule.keep(first, connection, &*request))
        };
        let senders = connections.into_iter().enumerate().map(send).collect();
        Ok(Self { schedule, senders })
    }

    /// Ends it once what is due by now is answered.
    pub fn end(self) -> Result<Waits> {
        let lasted = self.schedule.begins.elapsed();
        let ends = u64::try_from(lasted.as_micros())?;
        self.schedule.ends.store(ends, Ordering::SeqCst);
        let mut sorted = Vec::new();
        for sender in self.senders {
            sorted.extend(sender.join().map_err(|_| "a sender panicked")??);
        }
        let took = self.schedule.begins.elapsed();
        sorted.sort_unstable();
        Ok(Waits {
            rate: sorted.len() as f64 / took.as_secs_f64(),
            sorted,
        })
    }
}

impl Schedule {
    /// Sends what falls to one of the connections, and returns how long each waited.
    fn keep(
        &self,
        first: usize,
        mut connection: Connection,
        request: &dyn Fn(usize) -> Vec<u8>,
    ) -> io::Result<Vec<Duration>> {
        let mut waits = Vec::new();
        for number in (first..).step_by(CONNECTIONS) {
            let request = request(number);
            let after = Duration::from_secs(number as u64) / self.rate;
            sleep_until(self.begins + after);
            if after.as_micros() > u128::from(self.ends.load(Ordering::SeqCst)) {
                break;
            }
            let status = connection.ask(&request)?.status;
            if status != 200 {
                return Err(io::Error::other(format!("answered {status}")));
            }
            waits.push((self.begins + after).elapsed());
        }
        Ok(waits)
    }
}

impl Waits {
    /// The wait that this part of all did not exceed, in milliseconds.
    pub fn quantile(&self, part: f64) -> f64 {
        crate::report::quantile(&self.sorted, part).as_secs_f64() * 1e3
    }

    /// How many were answered.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }

    /// The longest.
    pub fn longest(&self) -> f64 {
        self.quantile(1.0)
    }
}
