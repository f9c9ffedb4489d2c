//! What a packet is, as far as firewalls look at it.

use crate::plan::Protocol;
use crate::plan::routing::RuleRow;
use crate::plan::rows::Data;
use std::collections::BTreeSet;
use std::fmt;

/// A port that no service has: the lowest of those that systems choose for clients (RFC 6335, section 6).
const CLIENT_PORT: u16 = 49_152;

/// Protocol and destination port of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Header {
    /// `None` is a protocol that no rule names.
    pub(crate) protocol: Option<Protocol>,
    /// Of TCP and UDP.
    pub(crate) port: u16,
}

impl Header {
    /// The echo that `check` lines without a protocol are proved with.
    pub(crate) const ECHO: Header = Header { protocol: Some(Protocol::Icmp), port: 0 };

    /// A packet to a service.
    pub(crate) fn to(protocol: Protocol, port: u16) -> Header {
        Header { protocol: Some(protocol), port }
    }

    /// The answer: it goes to a port that the client chose.
    pub(crate) fn answer(self) -> Header {
        Header { port: if self.port == 0 { 0 } else { CLIENT_PORT }, ..self }
    }

    /// Whether a rule's protocol and ports fit.
    pub(crate) fn fits(self, rule: &RuleRow) -> bool {
        let protocol = rule.protocol.is_none_or(|p| Some(p) == self.protocol);
        protocol
            && (rule.ports.is_empty() || rule.ports.iter().any(|(first, last)| (*first..=*last).contains(&self.port)))
    }

    /// Headers that stand for all that a plan's firewalls tell apart: a packet of any kind is treated like one of them.
    pub(crate) fn kinds(data: &Data) -> Vec<Header> {
        let mut kinds = vec![Header::ECHO, Header { protocol: None, port: 0 }];
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut ports = BTreeSet::from([CLIENT_PORT]);
            for rule in data.rules.iter().filter(|r| r.protocol.is_none_or(|p| p == protocol)) {
                for (first, last) in &rule.ports {
                    ports.extend([*first, last.saturating_add(1).max(1)]);
                }
            }
            kinds.extend(ports.into_iter().map(|port| Header::to(protocol, port)));
        }
        kinds
    }
}

impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Some(Protocol::Tcp) => write!(f, "tcp {}", self.port),
            Some(Protocol::Udp) => write!(f, "udp {}", self.port),
            Some(Protocol::Icmp) => write!(f, "icmp"),
            None => write!(f, "other protocols"),
        }
    }
}
