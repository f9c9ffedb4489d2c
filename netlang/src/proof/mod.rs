//! Proofs on the plan: what reaches what, before anything runs.
//!
//! ```text
//! checks (sema) ─▶ Proof ─ member: VMs by classes, a few represent all
//!                    ├──── fib: forwarding tables ─ topology, ospf, bgp
//!                    └──── walk: a packet through routers, firewalls and NAT, and its answer ─ header
//! ```
//!
//! A check holds when the packet arrives and its answer as well.

mod bgp;
mod cuts;
mod diameter;
mod domains;
mod fib;
mod header;
mod member;
mod ospf;
#[cfg(test)]
mod tests;
mod topology;
mod valley;
mod walk;

pub(crate) use cuts::{Cuts, Part};
pub(crate) use diameter::Diameter;
pub(crate) use domains::Domains;
pub(crate) use header::Header;
pub(crate) use member::Member;
pub(crate) use valley::{Unreached, unreached};
pub(crate) use walk::Loss;

use crate::plan::Range;
use crate::plan::routing::NatRow;
use crate::plan::rows::{Data, On};
use fib::{Fib, Forwarding};
use hashbrown::HashMap;
use member::Classes;
use std::rc::Rc;
use topology::{NONE, Topology};
use walk::{Destination, Packet, Way, is_private, nats_of, send};

/// An address in the world outside: of the range for benchmarks (RFC 2544), which nobody has.
const OUTSIDE: u32 = u32::from_be_bytes([198, 18, 0, 1]);

/// What became of a packet and its answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace {
    /// The routers that the packet passed, each with the interface by which it came.
    pub(crate) forward: Vec<(u32, u32)>,
    /// The same of the answer.
    pub(crate) back: Vec<(u32, u32)>,
    /// Why it failed; `None` when the answer arrived.
    pub(crate) loss: Option<Loss>,
    /// It was the answer that was lost.
    pub(crate) answer_lost: bool,
}

/// Something that a VM sends to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Goal {
    Vm(Member),
    /// An interface of a router.
    Interface(u32),
    /// The world outside, over an external network.
    External(u32),
    /// An address on a network of the plan.
    Address {
        on: On,
        ip: u32,
    },
}

/// Answers questions about a plan with some links cut.
pub(crate) struct Proof<'d> {
    data: &'d Data,
    forwarding: Forwarding<'d>,
    classes: Classes<'d>,
    /// No router drops or translates anything, so only the tables decide.
    plain: bool,
    /// For plain plans: whether packets for a segment arrive from each router.
    arrivals: HashMap<u32, Rc<Vec<bool>>>,
}

impl<'d> Proof<'d> {
    /// For a plan whose gateways are known.
    pub(crate) fn new(data: &'d Data, cut: Vec<u32>) -> Proof<'d> {
        Proof {
            data,
            forwarding: Forwarding::new(Topology::new(data, cut)),
            classes: Classes::new(data),
            plain: data.firewalls.is_empty() && data.nats.is_empty() && data.externals.is_empty(),
            arrivals: HashMap::new(),
        }
    }

    /// Representatives of the VMs in some ranges.
    pub(crate) fn members(&self, ranges: &[Range]) -> Vec<Member> {
        self.classes.members(ranges)
    }

    /// Headers that stand for all kinds of packets.
    pub(crate) fn header_kinds(&self) -> Vec<Header> {
        // Without a firewall all packets are alike.
        if self.data.firewalls.is_empty() { vec![Header::ECHO] } else { Header::kinds(self.data) }
    }

    /// The network that an address is in.
    pub(crate) fn network_of(&self, ip: u32) -> Option<On> {
        self.classes.network_of(ip)
    }

    /// Whether a packet and its answer arrive; much faster than a trace where no router looks at packets.
    pub(crate) fn reaches(&mut self, from: &Member, goal: &Goal, header: Header) -> bool {
        if self.plain
            && let Goal::Vm(to) = goal
            && let ([(segment, _)], [(target, _)]) = (from.nics.as_slice(), to.nics.as_slice())
            && segment != target
        {
            let router = |s: u32| {
                let gateway = self.data.segments[s as usize].gateway?;
                Some(self.data.interfaces[gateway as usize].router)
            };
            let (Some(first), Some(last)) = (router(*segment), router(*target)) else { return false };
            return self.arrivals(*target)[first as usize] && self.arrivals(*segment)[last as usize];
        }
        self.trace(from, goal, header).loss.is_none()
    }

    fn arrivals(&mut self, segment: u32) -> Rc<Vec<bool>> {
        if let Some(known) = self.arrivals.get(&segment) {
            return known.clone();
        }
        let table = self.table_of(segment);
        let hops = diameter::hops(&table, &self.forwarding.topology);
        let arrive = Rc::new(hops.into_iter().map(|h| h.is_some()).collect::<Vec<bool>>());
        // Bounded like the tables themselves.
        if self.arrivals.len().saturating_mul(arrive.len()) > fib::MAX_KEPT {
            self.arrivals.clear();
        }
        self.arrivals.insert(segment, arrive.clone());
        arrive
    }

    /// Follows a packet of a VM and its answer.
    pub(crate) fn trace(&mut self, from: &Member, goal: &Goal, header: Header) -> Trace {
        let (group, index) = (from.group, from.index);
        if from.nics.is_empty() {
            return Trace::lost(Loss::NoNic { group, index });
        }
        let to = match self.destination(goal) {
            Ok(to) => to,
            Err(loss) => return Trace::lost(loss),
        };
        if let On::Segment(segment) = to.on
            && let Some((_, source)) = from.nics.iter().find(|n| n.0 == segment)
        {
            if self.classes.isolates(segment) && to.router.is_none() && to.ip != *source {
                return Trace::lost(Loss::Isolated { segment });
            }
            return Trace::default();
        }
        let Some((_, source, router, interface)) = self.classes.default_route(from) else {
            return Trace::lost(Loss::NoGateway { group, index });
        };
        let (way, result) = send(&mut self.forwarding, Packet { source, header, router, interface }, to, &[]);
        let mut trace = Trace { forward: way.routers.clone(), ..Trace::default() };
        if let Err(loss) = result {
            trace.loss = Some(loss);
            return trace;
        }
        self.answer(from, source, goal, to, header, &way, &mut trace);
        trace
    }

    #[allow(clippy::too_many_arguments)]
    fn answer(
        &mut self,
        from: &Member,
        source: u32,
        goal: &Goal,
        to: Destination,
        header: Header,
        way: &Way,
        trace: &mut Trace,
    ) {
        let Some((segment, _)) = from.nics.iter().find(|n| n.1 == source).copied() else { return };
        let back = Destination { on: On::Segment(segment), ip: source, router: None };
        let header = header.answer();
        let first = match goal {
            Goal::Vm(member) => {
                if member.nics.iter().any(|n| n.0 == segment) {
                    return;
                }
                match self.classes.default_route(member) {
                    Some((_, _, router, interface)) => (router, interface),
                    None => {
                        trace.lose_answer(Loss::NoGateway { group: member.group, index: member.index });
                        return;
                    }
                }
            }
            // Routers answer by their own tables; from outside the answer comes back to where the packet left.
            _ => match way.routers.last() {
                Some((router, _)) => (*router, NONE),
                None => return,
            },
        };
        let packet = Packet { source: to.ip, header, router: first.0, interface: first.1 };
        let (way, result) = send(&mut self.forwarding, packet, back, &way.routers);
        trace.back = way.routers;
        if let Err(loss) = result {
            trace.lose_answer(loss);
        }
    }

    fn destination(&self, goal: &Goal) -> Result<Destination, Loss> {
        Ok(match goal {
            Goal::Vm(member) => {
                let Some((segment, ip)) = member.nics.first().copied() else {
                    return Err(Loss::NoNic { group: member.group, index: member.index });
                };
                Destination { on: On::Segment(segment), ip, router: None }
            }
            Goal::Interface(id) => {
                let row = &self.data.interfaces[*id as usize];
                Destination { on: row.on, ip: row.ip, router: Some(row.router) }
            }
            Goal::External(id) => {
                let on = On::External(*id);
                let gateway = self.data.interfaces.iter().filter(|i| i.on == on).find_map(|i| i.gateway);
                Destination { on, ip: gateway.unwrap_or(OUTSIDE), router: None }
            }
            Goal::Address { on: On::Segment(u32::MAX), .. } => return Err(Loss::NobodyThere),
            Goal::Address { on, ip } => {
                let router = self.data.interfaces.iter().find(|i| i.on == *on && i.ip == *ip).map(|i| i.router);
                let taken = match on {
                    On::Segment(segment) => self.classes.is_taken(*segment, *ip),
                    On::Link(_) => router.is_some(),
                    On::External(_) => true,
                };
                if !taken {
                    return Err(Loss::NobodyThere);
                }
                Destination { on: *on, ip: *ip, router }
            }
        })
    }

    /// Follows a packet from the world outside to a VM, and its answer.
    pub(crate) fn trace_from_outside(&mut self, external: u32, to: &Member, header: Header) -> Trace {
        let Some((segment, ip)) = to.nics.first().copied() else {
            return Trace::lost(Loss::NoNic { group: to.group, index: to.index });
        };
        let on = On::External(external);
        let forwards = |nat: &NatRow| match nat {
            NatRow::Forward { protocol, external: e, to, to_port, .. } => {
                *e == external && *to == ip && Header::to(*protocol, *to_port) == header
            }
            NatRow::Masquerade { .. } => false,
        };
        let routers = self.forwarding.topology.attached(on);
        let entry = routers.iter().copied().find(|r| nats_of(&self.forwarding, *r).iter().any(forwards));
        let entry = entry.or_else(|| routers.first().copied().filter(|_| !is_private(ip)));
        let Some(router) = entry else { return Trace::lost(Loss::NoForward { external }) };
        let interface = self.forwarding.topology.interface_on(router, on).unwrap_or(NONE);
        let there = Destination { on: On::Segment(segment), ip, router: None };
        let packet = Packet { source: OUTSIDE, header, router, interface };
        let (way, result) = send(&mut self.forwarding, packet, there, &[]);
        let mut trace = Trace { forward: way.routers.clone(), ..Trace::default() };
        if let Err(loss) = result {
            trace.loss = Some(loss);
            return trace;
        }
        let Some((_, _, first, interface)) = self.classes.default_route(to) else {
            trace.lose_answer(Loss::NoGateway { group: to.group, index: to.index });
            return trace;
        };
        let back = Destination { on, ip: OUTSIDE, router: None };
        let packet = Packet { source: ip, header: header.answer(), router: first, interface };
        let (answer, result) = send(&mut self.forwarding, packet, back, &way.routers);
        trace.back = answer.routers;
        match result {
            // The router that translated the packet translates its answer.
            Err(Loss::NoNat { router: last, .. }) if last == router => {}
            Err(loss) => trace.lose_answer(loss),
            Ok(()) => {}
        }
        trace
    }

    /// The table for packets to a segment.
    fn table_of(&mut self, segment: u32) -> Rc<Fib> {
        let ip = self.data.segments[segment as usize].prefix.first();
        self.forwarding.table(On::Segment(segment), ip)
    }
}

impl Trace {
    fn lost(loss: Loss) -> Trace {
        Trace { loss: Some(loss), ..Trace::default() }
    }

    fn lose_answer(&mut self, loss: Loss) {
        self.loss = Some(loss);
        self.answer_lost = true;
    }
}
