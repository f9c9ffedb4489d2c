//! What a router does besides forwarding: BGP, firewall, translation; rows turned into public types.

use super::routing::{PortList, RuleRow, Zone};
use super::rows::{Data, On, Relation};
use super::{ExternalId, LinkId, NatRow, Protocol, RouterId};
use crate::address::prefix::Prefix;
use serde::Serialize;
use std::net::Ipv4Addr;

/// What a router says and hears by BGP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bgp {
    /// Number of its autonomous system.
    pub asn: u32,
    /// Prefixes that it announces as its own.
    pub originate: Vec<Prefix>,
    /// Its sessions: those over links in the order of its interfaces, then those within the autonomous system in the
    /// order of routers.
    pub neighbours: Vec<BgpNeighbour>,
}

/// The other end of a BGP session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct BgpNeighbour {
    /// The other router.
    pub router: RouterId,
    /// The address to speak to: on the link, or within the autonomous system the other's router id.
    pub address: Ipv4Addr,
    /// Number of its autonomous system.
    pub asn: u32,
    /// What it is to the router.
    pub role: BgpRole,
    /// The link that the session is over; `None` within an autonomous system.
    pub link: Option<LinkId>,
}

/// What a BGP neighbour is to a router; decides what is told to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BgpRole {
    /// Buys transit from it, and is told everything.
    Customer,
    /// Sells transit to it, and is told of its own and its customers' networks.
    Provider,
    /// Is told of its own and its customers' networks.
    Peer,
    /// Of the same autonomous system.
    Internal,
}

/// What a router lets through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Firewall {
    /// The rules, the first that matches wins: `allow tcp 80, 443 from 10.1.8.0/24 to any`.
    pub rules: Vec<String>,
    /// Whether what no rule matched passes.
    pub default_allow: bool,
}

/// A translation of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Nat {
    /// Sources of packets that leave to an external network become the router's address there.
    Masquerade {
        /// The network.
        external: ExternalId,
    },
    /// What comes to a port on an external network goes to a VM.
    Forward {
        /// The network.
        external: ExternalId,
        /// TCP or UDP.
        protocol: Protocol,
        /// The port outside.
        port: u16,
        /// The VM's address.
        to: Ipv4Addr,
        /// The VM's port.
        to_port: u16,
    },
}

impl From<NatRow> for Nat {
    fn from(row: NatRow) -> Nat {
        match row {
            NatRow::Masquerade { external, .. } => Nat::Masquerade { external: ExternalId(external) },
            NatRow::Forward { protocol, port, external, to, to_port, .. } => {
                Nat::Forward { external: ExternalId(external), protocol, port, to: Ipv4Addr::from(to), to_port }
            }
        }
    }
}

/// Intervals of a zone that a rule's text lists; the rest are counted.
const MAX_LISTED: usize = 8;

impl Data {
    /// The lowest address of a router, which names it in routing protocols.
    pub(crate) fn router_id(&self, router: u32) -> Option<u32> {
        self.interfaces_of(router).iter().map(|i| i.ip).min()
    }

    /// The AS number of a router that speaks BGP.
    pub(crate) fn asn_of(&self, router: u32) -> Option<u32> {
        let row = self.routers.get(router as usize)?;
        Some(self.bgp.get(row.bgp? as usize)?.asn)
    }

    /// The sessions of a router over its links: the link, the other router, and what it is.
    pub(crate) fn external_sessions(&self, router: u32) -> impl Iterator<Item = (u32, u32, BgpRole)> + '_ {
        let own = self.asn_of(router);
        self.interfaces_of(router).iter().filter_map(move |interface| {
            let On::Link(id) = interface.on else { return None };
            let link = &self.links[id as usize];
            let is_left = link.routers[0] == router;
            let other = link.routers[usize::from(is_left)];
            let role = match (link.relation, is_left) {
                (Relation::Peer, _) => BgpRole::Peer,
                (Relation::Transit, true) => BgpRole::Provider,
                (Relation::Transit, false) => BgpRole::Customer,
            };
            (own? != self.asn_of(other)?).then_some((id, other, role))
        })
    }

    /// What a router does by BGP.
    pub(crate) fn bgp_of(&self, router: u32) -> Option<Bgp> {
        let row = self.bgp.get(self.routers.get(router as usize)?.bgp? as usize)?;
        let mut neighbours: Vec<BgpNeighbour> = Vec::new();
        for (link, other, role) in self.external_sessions(router) {
            let ends = &self.links[link as usize];
            let interface = ends.interfaces[usize::from(ends.routers[1] == other)];
            neighbours.push(BgpNeighbour {
                router: RouterId(other),
                address: Ipv4Addr::from(self.interfaces[interface as usize].ip),
                asn: self.asn_of(other)?,
                role,
                link: Some(LinkId(link)),
            });
        }
        for other in (0..self.routers.len() as u32).filter(|r| *r != router && self.asn_of(*r) == Some(row.asn)) {
            neighbours.extend(self.router_id(other).map(|ip| BgpNeighbour {
                router: RouterId(other),
                address: Ipv4Addr::from(ip),
                asn: row.asn,
                role: BgpRole::Internal,
                link: None,
            }));
        }
        Some(Bgp { asn: row.asn, originate: row.originate.to_vec(), neighbours })
    }

    /// What a router lets through.
    pub(crate) fn firewall_of(&self, router: u32) -> Option<Firewall> {
        let row = self.firewalls.get(self.routers.get(router as usize)?.firewall? as usize)?;
        let rules = self.rules.get(row.first_rule as usize..(row.first_rule + row.rule_count) as usize)?;
        let rules = rules.iter().map(|r| self.rule_text(r)).collect();
        Some(Firewall { rules, default_allow: row.default_allow })
    }

    /// The translations of a router.
    pub(crate) fn nats_of(&self, router: u32) -> &[NatRow] {
        let Some(row) = self.routers.get(router as usize) else { return &[] };
        self.nats.get(row.first_nat as usize..(row.first_nat + row.nat_count) as usize).unwrap_or_default()
    }

    fn rule_text(&self, rule: &RuleRow) -> String {
        let mut text = String::from(if rule.allow { "allow" } else { "deny" });
        if let Some(protocol) = rule.protocol {
            text.push_str(&format!(" {protocol}"));
        }
        text.push_str(&ports_text(&rule.ports));
        for (word, zone) in [("from", rule.from), ("to", rule.to)] {
            if zone != Zone::Any {
                text.push_str(&format!(" {word} {}", self.zone_text(zone)));
            }
        }
        text
    }

    /// A zone in words: prefixes where its intervals are some, else first and last address.
    pub(crate) fn zone_text(&self, zone: Zone) -> String {
        let id = match zone {
            Zone::Any => return "any".to_owned(),
            Zone::External(e) => {
                return self
                    .externals
                    .get(e as usize)
                    .map_or_else(String::new, |row| self.names.path(0, row.decl, None));
            }
            Zone::Addresses(id) => id,
        };
        let set = self.zones.intervals(id);
        if set.is_empty() {
            return "nothing".to_owned();
        }
        let mut parts: Vec<String> = set.iter().take(MAX_LISTED).map(|(first, last)| interval(*first, *last)).collect();
        if set.len() > MAX_LISTED {
            parts.push(format!("{} more", crate::text::thousands((set.len() - MAX_LISTED) as u64)));
        }
        parts.join(", ")
    }
}

fn interval(first: u32, last: u32) -> String {
    let size = u64::from(last) - u64::from(first) + 1;
    if size == 1 {
        return Ipv4Addr::from(first).to_string();
    }
    if size.is_power_of_two() && u64::from(first).is_multiple_of(size) {
        // A power of two of at most 2^32.
        return Prefix::new(first, 32 - size.trailing_zeros() as u8).to_string();
    }
    format!("{}-{}", Ipv4Addr::from(first), Ipv4Addr::from(last))
}

fn ports_text(ports: &PortList) -> String {
    let parts: Vec<String> = ports
        .iter()
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    if parts.is_empty() { String::new() } else { format!(" {}", parts.join(", ")) }
}
