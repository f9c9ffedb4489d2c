//! What is said when a check does not hold: the path that the packet took, where it ended, and the mend.

use super::World;
use super::checks::{Counterexample, Reach};
use crate::diag::{Diagnostic, codes};
use crate::plan::rows::On;
use crate::plan::{CheckSource, Expect, Range};
use crate::proof::{Diameter, Goal, Header, Loss, Member, Unreached};
use crate::source::Span;
use crate::syntax::tree::StmtId;
use crate::text::thousands;
use std::net::Ipv4Addr;

/// Stations of a path that are written out.
const MAX_STATIONS: usize = 12;

impl World<'_> {
    /// Reports the pair for which a check does not hold.
    pub(crate) fn check_failed(&mut self, stmt: StmtId, reach: &Reach, found: &Counterexample) {
        let [from, to] = reach.words.map(|w| self.tree.span(w).text(self.text));
        let service = match reach.service {
            Some(service) => format!(" {}", Header::to(service.protocol, service.port)),
            None => String::new(),
        };
        let without: Vec<String> = reach.without.iter().map(|l| format!("`{}`", self.data.link_name(*l))).collect();
        let without = if without.is_empty() { String::new() } else { format!(" without {}", without.join(", ")) };
        let span = self.check_span(stmt);
        let pair = format!("{} to {}", self.sender(found), self.goal(found));
        let what = if reach.expect == Expect::Reaches { "fails" } else { "gets through" };
        let label = format!("{}; the first that {what} is {pair}", self.count_of(&reach.from));
        if reach.expect == Expect::CannotReach {
            let mut it = Diagnostic::error(
                codes::CHECK_REACHABLE,
                format!("{from} reaches {to}{service}{without}, and must not"),
                span,
            )
            .label(label);
            if reach.service.is_none() && !self.data.firewalls.is_empty() {
                it = it.note(format!("what gets through: {}", found.header));
            }
            let path = self.path(found, &found.trace.forward, None);
            it = match found.trace.forward.is_empty() {
                true => it.note("both are on one lan"),
                false => it.note(format!("path: {path}")),
            };
            self.sink.push(it.help("take the lan off the router, drop it in a firewall, or take the line out"));
            return;
        }
        let it =
            Diagnostic::error(codes::CHECK_UNREACHABLE, format!("{from} cannot reach {to}{service}{without}"), span)
                .label(label);
        let it = match found.trace.loss {
            Some(loss) => self.explain_loss(it, found, loss),
            None => it,
        };
        self.sink.push(it);
    }

    fn count_of(&self, from: &CheckSource) -> String {
        match from {
            CheckSource::Vms(ranges) => {
                let count = ranges.iter().map(|r: &Range| u64::from(r.count)).sum::<u64>();
                format!("{} VM{} on the left", thousands(count), if count == 1 { "" } else { "s" })
            }
            CheckSource::External(_) => "from outside".to_owned(),
        }
    }

    fn sender(&self, found: &Counterexample) -> String {
        found.from.as_ref().map_or_else(|| "the world outside".to_owned(), |m| self.member_path(m))
    }

    fn goal(&self, found: &Counterexample) -> String {
        match &found.to {
            Some(Goal::Vm(member)) => self.member_path(member),
            Some(Goal::Interface(id)) => self.data.router_name(self.data.interfaces[*id as usize].router),
            Some(Goal::External(id)) => self.external_name(*id),
            Some(Goal::Address { ip, .. }) => Ipv4Addr::from(*ip).to_string(),
            None => String::new(),
        }
    }

    fn member_path(&self, member: &Member) -> String {
        self.vm_path(member.group, member.index)
    }

    fn vm_path(&self, group: u32, index: u32) -> String {
        let row = &self.data.groups[group as usize];
        self.data.names.path(row.instance, row.decl, row.is_array.then_some(index))
    }

    fn external_name(&self, external: u32) -> String {
        self.data.names.path(0, self.data.externals[external as usize].decl, None)
    }

    fn segment_name(&self, segment: u32) -> String {
        let row = &self.data.segments[segment as usize];
        self.data.names.path(row.instance, row.decl, row.index)
    }

    fn router_span(&self, router: u32) -> Span {
        let row = &self.data.routers[router as usize];
        self.data.names.decl(row.instance, row.decl).span
    }

    /// `hq.pc[0] -> hq.gw -> spare -> branch.gw (dropped here)`
    fn path(&self, found: &Counterexample, routers: &[(u32, u32)], end: Option<&str>) -> String {
        let mut stations = vec![self.sender(found)];
        for (at, (router, interface)) in routers.iter().enumerate() {
            let link = self.data.interfaces.get(*interface as usize).map(|i| i.on);
            if let Some(On::Link(link)) = link.filter(|_| at > 0)
                && self.data.links[link as usize].name.as_ref().is_some_and(|n| !n.contains("--"))
            {
                stations.push(self.data.link_name(link));
            }
            stations.push(self.data.router_name(*router));
        }
        if stations.len() > MAX_STATIONS {
            let more = stations.len() - MAX_STATIONS;
            stations.splice(MAX_STATIONS / 2..MAX_STATIONS / 2 + more, [format!("({more} more)")]);
        }
        match end {
            Some(end) => format!("{} ({end})", stations.join(" -> ")),
            None => format!("{} -> {}", stations.join(" -> "), self.goal(found)),
        }
    }

    /// The path of what was lost: the packet's, or its answer's.
    fn lost_path(&self, found: &Counterexample, end: &str) -> String {
        if !found.trace.answer_lost {
            return format!("path: {}", self.path(found, &found.trace.forward, Some(end)));
        }
        let routers = found.trace.back.iter().map(|(r, _)| self.data.router_name(*r));
        let stations: Vec<String> = std::iter::once(self.goal(found)).chain(routers).collect();
        format!("the packet arrives; path of the answer: {} ({end})", stations.join(" -> "))
    }

    fn explain_loss(&self, it: Diagnostic, found: &Counterexample, loss: Loss) -> Diagnostic {
        match loss {
            Loss::NoNic { group, index } => it
                .note(format!("{} is on no lan", self.vm_path(group, index)))
                .help("`on LAN` in its block attaches it"),
            Loss::NoGateway { group, index } => {
                let row = self.data.groups[group as usize];
                let span = self.data.names.decl(row.instance, row.decl).span;
                it.also(span, "no router on its lans")
                    .note(format!(
                        "{} has no way off its own lans: there is no gateway on them",
                        self.vm_path(group, index)
                    ))
                    .help("a router with `on` for both lans joins them")
            }
            Loss::Isolated { segment } => {
                let row = self.data.segments[segment as usize];
                let span = self.data.names.decl(row.instance, row.decl).span;
                it.also(span, "`isolate` keeps its members apart")
                    .note(format!("both are on {}, whose members reach only the gateway", self.segment_name(segment)))
            }
            Loss::NoRoute { router } => it
                .also(self.router_span(router), "no route leads on from here")
                .note(self.lost_path(found, "no route from here"))
                .help(self.route_help(found, router)),
            Loss::Dropped { router, rule } => {
                let firewall = self.data.routers[router as usize].firewall;
                let name = self.data.router_name(router);
                let what = found.header;
                let it = match (rule, firewall) {
                    (Some(rule), _) => {
                        it.also(self.data.rules[rule as usize].span, format!("this rule of {name} drops {what}"))
                    }
                    (None, Some(firewall)) => {
                        let span = self.data.firewalls[firewall as usize].default_span;
                        it.also(span, format!("no rule of {name} allows {what}"))
                    }
                    (None, None) => it,
                };
                it.note(self.lost_path(found, "dropped here"))
                    .help(format!("an `allow` in the firewall of {name}, before what drops it"))
            }
            Loss::Left { router, external } => it
                .also(self.router_span(router), "the default route of this router leads outside")
                .note(self.lost_path(found, &format!("leaves by {}", self.external_name(external))))
                .help(self.route_help(found, router)),
            Loss::Loop { router } => it
                .also(self.router_span(router), "one of the routers on the circle")
                .note(self.lost_path(found, "comes here again and again")),
            Loss::NoNat { router, external } => it
                .also(self.router_span(router), "sends private addresses to the world outside")
                .note(self.lost_path(found, "no answer comes back to a private address"))
                .help(format!("`nat masquerade out {}` in this router", self.external_name(external))),
            Loss::NobodyThere => it.note("nothing in this file has that address"),
            Loss::NoForward { external } => {
                let name = self.external_name(external);
                it.note(format!("from {name} only what is forwarded reaches a private address"))
                    .help(format!("`nat forward tcp PORT on {name} to VM` in the router on it"))
            }
        }
    }

    /// How a router comes to know more.
    fn route_help(&self, found: &Counterexample, router: u32) -> String {
        if let Some(Goal::External(external)) = found.to
            && self.data.speaks_ospf(router)
        {
            let name = self.external_name(external);
            return format!("`ospf {{ originate default }}` in the router that has `on {name} … gateway …`");
        }
        let row = &self.data.routers[router as usize];
        match (row.bgp.is_some(), self.data.speaks_ospf(router)) {
            (true, _) => {
                "it knows what its BGP neighbours tell it: add a link, or `originate` where the lan is".to_owned()
            }
            (_, true) => "it knows what OSPF tells it: give the routers on the way an `ospf` block as well".to_owned(),
            _ => format!("`link {} -- …` joins it to the other side", self.data.router_name(router)),
        }
    }

    /// Compares the diameter with what the file demands.
    pub(crate) fn judge_diameter(&mut self, stmt: StmtId, most: u32, found: &Diameter) {
        let span = self.check_span(stmt);
        let it = match *found {
            Diameter::Hops { hops, .. } if hops <= most => return,
            Diameter::Hops { hops, from, to } => {
                let (from, to) = (self.segment_name(from), self.segment_name(to));
                Diagnostic::error(codes::CHECK_DIAMETER, format!("the diameter is {hops}, not at most {most}"), span)
                    .label(format!("from {from} to {to} it is {hops} hops from router to router"))
                    .help(format!("`check diameter <= {hops}`, or a shorter way between the two"))
            }
            Diameter::NoWay { from, to } => {
                let (from, to) = (self.segment_name(from), self.segment_name(to));
                Diagnostic::error(codes::CHECK_DIAMETER, "the network has no diameter", span)
                    .label(format!("{from} has no way to {to}"))
                    .note("routers join the two, but the routes do not lead from one to the other")
            }
            Diameter::Empty => Diagnostic::error(codes::CHECK_DIAMETER, "the network has no diameter", span)
                .label("no VMs are on lans with a gateway"),
        };
        self.sink.push(it);
    }

    /// Warns of announced networks of which some routers never hear.
    pub(crate) fn announcements(&mut self) {
        for Unreached { origin, deaf, count, of } in crate::proof::unreached(&self.data) {
            let Some(bgp) = self.data.routers[origin as usize].bgp else { continue };
            let span = self.data.bgp[bgp as usize].span;
            let (name, deaf) = (self.data.router_name(origin), self.data.router_name(deaf));
            let others =
                if count == 1 { String::new() } else { format!(" and {} more", thousands(u64::from(count) - 1)) };
            self.sink.push(
                Diagnostic::warning(
                    codes::AS_UNREACHED,
                    format!("{deaf}{others} of {} BGP routers cannot hear of the networks of {name}", thousands(u64::from(of))),
                    span,
                )
                .label("what this one announces stops on the way")
                .note("a network learnt from a peer or a provider is told to customers only, so no path may go down and up again")
                .help(format!("`link … -> …`: let one on the way buy transit, instead of `--`, or link {deaf} to it")),
            );
        }
    }
}
