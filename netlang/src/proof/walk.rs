//! A packet on its way through the routers: forwarding, firewalls, address translation; and its answer.

use super::fib::{Forwarding, Hop};
use super::header::Header;
use super::topology::NONE;
use crate::plan::routing::{NatRow, Zone};
use crate::plan::rows::On;

/// Why a packet does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// This VM is on no lan, and so has no address.
    NoNic { group: u32, index: u32 },
    /// This VM's lans have no gateway.
    NoGateway { group: u32, index: u32 },
    /// Both are on a lan that keeps its members apart.
    Isolated { segment: u32 },
    /// This router knows no way.
    NoRoute { router: u32 },
    /// A firewall drops it, by this rule or by its default.
    Dropped { router: u32, rule: Option<u32> },
    /// It leaves for the world outside.
    Left { router: u32, external: u32 },
    /// Routers send it in circles.
    Loop { router: u32 },
    /// The world outside knows no way back to a private address, and nothing translates it.
    NoNat { router: u32, external: u32 },
    /// Nobody has the address.
    NobodyThere,
    /// From outside, nothing leads to a private address.
    NoForward { external: u32 },
}

/// The routers that a packet passed, and what became of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Way {
    /// Routers in order, each with the interface by which the packet came; [`NONE`] at the first from a lan.
    pub(crate) routers: Vec<(u32, u32)>,
    /// It arrived at this external network with another source address.
    pub(crate) translated: bool,
}

/// Where a packet is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) on: On,
    pub(crate) ip: u32,
    /// A router's own address.
    pub(crate) router: Option<u32>,
}

/// A packet at its first router.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) source: u32,
    pub(crate) header: Header,
    /// First router, and the interface by which it came.
    pub(crate) router: u32,
    pub(crate) interface: u32,
}

/// Sends a packet from its first router; `seen` are the routers whose state lets it pass, for an answer.
pub(crate) fn send(
    forwarding: &mut Forwarding<'_>,
    packet: Packet,
    to: Destination,
    seen: &[(u32, u32)],
) -> (Way, Result<(), Loss>) {
    let table = forwarding.table(to.on, to.ip);
    let topology = &forwarding.topology;
    let data = topology.data;
    let mut way = Way::default();
    let (mut router, mut interface) = (packet.router, packet.interface);
    loop {
        way.routers.push((router, interface));
        if way.routers.len() > topology.routers() {
            return (way, Err(Loss::Loop { router }));
        }
        // Firewalls filter what is forwarded; the router's own addresses are not.
        if to.router == Some(router) {
            return (way, Ok(()));
        }
        let (out, next) = match table[router as usize] {
            Hop::None => return (way, Err(Loss::NoRoute { router })),
            Hop::Attached => (topology.interface_on(router, to.on).unwrap_or(NONE), None),
            Hop::Via { out, far } => (out, Some(far)),
            Hop::Leave { out } => (out, None),
        };
        let state = seen.iter().any(|(r, _)| *r == router);
        if !state && let Some(rule) = dropped_by(forwarding, router, interface, out, packet, to.ip) {
            return (way, Err(Loss::Dropped { router, rule }));
        }
        let Some(far) = next else {
            let result = match topology.data.interfaces.get(out as usize).map(|i| i.on) {
                Some(On::External(external)) => leave(forwarding, &mut way, router, external, packet, to),
                // A link's far router has the address, and takes it.
                Some(On::Link(_)) if to.router.is_some() => {
                    way.routers.extend(to.router.map(|r| (r, NONE)));
                    Ok(())
                }
                Some(_) => {
                    if let Some(last) = to.router.filter(|r| *r != router) {
                        way.routers.push((last, NONE));
                    }
                    Ok(())
                }
                None => Err(Loss::NoRoute { router }),
            };
            return (way, result);
        };
        router = data.interfaces[far as usize].router;
        interface = far;
    }
}

/// The end of the way at an external network.
fn leave(
    forwarding: &Forwarding<'_>,
    way: &mut Way,
    router: u32,
    external: u32,
    packet: Packet,
    to: Destination,
) -> Result<(), Loss> {
    if to.on != On::External(external) {
        return Err(Loss::Left { router, external });
    }
    let nats = nats_of(forwarding, router);
    way.translated = nats.iter().any(|n| matches!(n, NatRow::Masquerade { external: e, .. } if *e == external));
    if !way.translated && is_private(packet.source) {
        return Err(Loss::NoNat { router, external });
    }
    Ok(())
}

/// The translation rules of a router.
pub(crate) fn nats_of<'f>(forwarding: &'f Forwarding<'_>, router: u32) -> &'f [NatRow] {
    let data = forwarding.topology.data;
    let row = &data.routers[router as usize];
    &data.nats[row.first_nat as usize..(row.first_nat + row.nat_count) as usize]
}

/// Addresses that the internet does not route: RFC 1918 and RFC 6598.
pub(crate) fn is_private(ip: u32) -> bool {
    matches!(ip >> 24, 10) || ip >> 20 == 0xac1 || ip >> 16 == 0xc0a8 || ip >> 22 == 0x6440_0000 >> 22
}

/// What of a router's firewall drops a packet: a rule, or the default (`Some(None)`).
#[allow(clippy::option_option)]
fn dropped_by(
    forwarding: &Forwarding<'_>,
    router: u32,
    came_by: u32,
    leaves_by: u32,
    packet: Packet,
    to: u32,
) -> Option<Option<u32>> {
    let data = forwarding.topology.data;
    let firewall = &data.firewalls[data.routers[router as usize].firewall? as usize];
    let network = |interface: u32| data.interfaces.get(interface as usize).map(|i| i.on);
    let inside = |zone: Zone, interface: u32, ip: u32| match zone {
        Zone::Any => true,
        Zone::External(e) => network(interface) == Some(On::External(e)),
        Zone::Addresses(set) => data.zones.contains(set, ip),
    };
    let rules = firewall.first_rule..firewall.first_rule + firewall.rule_count;
    let hit = rules.into_iter().find(|r| {
        let rule = &data.rules[*r as usize];
        packet.header.fits(rule) && inside(rule.from, came_by, packet.source) && inside(rule.to, leaves_by, to)
    });
    match hit {
        Some(rule) => (!data.rules[rule as usize].allow).then_some(Some(rule)),
        None => (!firewall.default_allow).then_some(None),
    }
}
