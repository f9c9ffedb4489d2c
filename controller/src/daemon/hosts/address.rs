//! Addresses as users write them: with a port or without, of IPv6 with brackets or without.

use std::net::{IpAddr, SocketAddr};

/// "host" or "host:port" as "host:port".
pub fn with_port(text: &str, port: u16) -> String {
    if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return SocketAddr::new(ip, port).to_string();
    }
    match text.rsplit_once(':') {
        Some((_, digits)) if digits.parse::<u16>().is_ok() => text.to_owned(),
        _ => format!("{text}:{port}"),
    }
}

/// The address to listen on.
///
/// # Errors
/// In words, when it is none.
pub fn parse_listen(text: &str, port: u16) -> Result<SocketAddr, String> {
    with_port(text, port).parse().map_err(|_| {
        format!("`{text}` is no address to listen on; write an address of this host, as 10.0.0.1 or 0.0.0.0:{port}")
    })
}

/// Where an agent is reached that says `advertised` and calls from `from`: ":PORT" means at the address it calls from.
///
/// # Errors
/// In words, when that is no address.
pub(super) fn reached_at(advertised: &str, from: IpAddr) -> Result<String, String> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
    match advertised.rsplit_once(':') {
        // An IPv4 address that came in over a socket of IPv6 is told as what it is.
        Some(("", digits)) => port(digits).map(|port| SocketAddr::new(from.to_canonical(), port).to_string()),
        Some((host, digits)) => port(digits).filter(|_| !host.is_empty()).map(|_| advertised.to_owned()),
        None => None,
    }
    .ok_or_else(|| format!("`{advertised}` is no address of an agent; it must be ADDRESS:PORT"))
}

/// The address for segments over hosts of an agent that says `underlay`: that of its agent when it says none.
///
/// # Errors
/// In words, when what it says is no address.
pub(super) fn underlay_of(underlay: &str, address: &str) -> Result<String, String> {
    if underlay.is_empty() {
        // A host name stays out: segments over hosts need addresses.
        return Ok(address.parse::<SocketAddr>().map_or_else(|_| String::new(), |address| address.ip().to_string()));
    }
    underlay
        .parse::<IpAddr>()
        .map(|ip| ip.to_string())
        .map_err(|_| format!("the underlay `{underlay}` is no address of IPv4 or IPv6"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_added_where_there_is_none() {
        for (text, full) in [
            ("10.0.0.1", "10.0.0.1:7117"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("::1", "[::1]:7117"),
            ("[::1]", "[::1]:7117"),
            ("[::1]:80", "[::1]:80"),
            ("lab.example", "lab.example:7117"),
            ("lab.example:80", "lab.example:80"),
        ] {
            assert_eq!(with_port(text, 7117), full);
        }
        assert_eq!(parse_listen("0.0.0.0", 7117).unwrap(), "0.0.0.0:7117".parse().unwrap());
        assert!(parse_listen("lab.example", 7117).unwrap_err().contains("lab.example"));
    }

    #[test]
    fn an_agent_that_says_only_its_port_is_where_it_calls_from() {
        let from = "::ffff:10.1.2.3".parse().unwrap();
        assert_eq!(reached_at(":7118", from).unwrap(), "10.1.2.3:7118");
        assert_eq!(reached_at("h1.example:9", from).unwrap(), "h1.example:9");
        for wrong in ["", "h1", "h1:0", ":x", "h1:99999"] {
            assert!(reached_at(wrong, from).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_underlay_is_the_agents_address_unless_it_says_another() {
        assert_eq!(underlay_of("", "10.1.2.3:7118").unwrap(), "10.1.2.3");
        assert_eq!(underlay_of("192.168.7.1", "10.1.2.3:7118").unwrap(), "192.168.7.1");
        assert_eq!(underlay_of("", "h1.example:9").unwrap(), "");
        assert!(underlay_of("eth1", "10.1.2.3:7118").is_err());
    }
}
