//! Where a discovery is.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use ureq::http::Uri;

/// The address of a discovery: `http://host:port`, perhaps with a path before its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveryUrl {
    text: String,
    host: String,
    port: u16,
}

impl DiscoveryUrl {
    /// Reads an address as it is given in settings.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        const ALLOWED: &str = "allowed is http://HOST:PORT or https://HOST:PORT";
        let text = text.trim().trim_end_matches('/');
        let uri: Uri = text.parse().map_err(|_| ALLOWED.to_owned())?;
        let usual_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") if cfg!(feature = "tls") => 443,
            Some("https") => return Err("this build speaks no https, only http".to_owned()),
            _ => return Err(ALLOWED.to_owned()),
        };
        let authority = uri.authority().ok_or(ALLOWED)?;
        if uri.query().is_some() || text.contains('#') || authority.as_str().contains('@') {
            return Err(ALLOWED.to_owned());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(ALLOWED)?;
        let has_port = authority.as_str().len() > host.len();
        let port = match authority.port_u16() {
            Some(0) => return Err(ALLOWED.to_owned()),
            Some(port) => port,
            None if has_port => return Err(ALLOWED.to_owned()),
            None => usual_port,
        };
        Ok(Self {
            text: text.to_owned(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        })
    }

    /// The address of this host that packets to discovery leave from, for a cell that listens on
    /// `listens`: that very address, unless it stands for all.
    ///
    /// # Errors
    /// When discovery's name cannot be resolved, or there is no way to it.
    pub fn local_address(&self, listens: IpAddr) -> io::Result<IpAddr> {
        if !listens.is_unspecified() {
            return Ok(listens);
        }
        let name = (self.host.as_str(), self.port);
        let mut addresses: Vec<SocketAddr> = name.to_socket_addrs()?.collect();
        // Whoever listens on 0.0.0.0 is not reached over IPv6.
        addresses.sort_by_key(|address| listens.is_ipv4() && !address.is_ipv4());
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for discovery in addresses {
            match local_address_towards(discovery) {
                Ok(ip) => return Ok(ip),
                Err(e) => last = e,
            }
        }
        Err(last)
    }
}

/// Connecting a UDP socket sends nothing; it only asks the kernel for the route.
fn local_address_towards(remote: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => [0; 16].into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(remote)?;
    Ok(socket.local_addr()?.ip())
}

impl fmt::Display for DiscoveryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_discovery() {
        for (text, host, port) in [
            ("http://127.0.0.1:8001", "127.0.0.1", 8001),
            ("http://aios-discovery", "aios-discovery", 80),
            ("http://[::1]:8001/", "::1", 8001),
            ("http://ingress/mesh/", "ingress", 80),
        ] {
            let url = DiscoveryUrl::parse(text).expect(text);
            assert_eq!((url.host.as_str(), url.port), (host, port));
            assert_eq!(url.to_string(), text.trim_end_matches('/'));
        }
        for bad in [
            "",
            "127.0.0.1:8001",
            "ftp://h",
            "http://",
            "http://h?x",
            "http://u@h",
            "http://h h",
            "http://h:",
            "http://h:0",
            "http://h:99999",
            "http://h:x",
        ] {
            assert!(DiscoveryUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
