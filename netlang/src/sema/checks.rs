//! `check` lines: what they are about, and their proof on the plan.

use super::World;
use super::eval::Env;
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::plan::path::Selected;
use crate::plan::rows::On;
use crate::plan::{
    Check, CheckSource, CheckTarget, Claim, Expect, ExternalId, GroupId, LinkId, Protocol, Range, Service,
};
use crate::proof::{Goal, Header, Member, Proof, Trace};
use crate::source::{LineIndex, Span};
use crate::syntax::tree::{Expr, ExprId, Mark, StmtId};
use crate::text::thousands;
use crate::vocab::{Kind, Ty, keyword};
use std::net::Ipv4Addr;

/// A check whose names are resolved.
pub(crate) struct Resolved {
    pub(crate) stmt: StmtId,
    pub(crate) claim: ResolvedClaim,
}

pub(crate) enum ResolvedClaim {
    Reach(Reach),
    /// At most so many hops.
    Diameter(u32),
}

/// What is said about packets.
pub(crate) struct Reach {
    pub(crate) from: CheckSource,
    pub(crate) to: Target,
    pub(crate) expect: Expect,
    pub(crate) service: Option<Service>,
    /// Links that are cut, sorted.
    pub(crate) without: Vec<u32>,
    /// The words that name both sides, for messages.
    pub(crate) words: [ExprId; 2],
}

/// What is to be reached.
pub(crate) enum Target {
    Vms(Vec<Range>),
    /// Interfaces of routers.
    Interfaces(Vec<u32>),
    External(u32),
    Address(u32),
}

/// A pair for which a check does not hold.
pub(crate) struct Counterexample {
    /// `None` is the world outside.
    pub(crate) from: Option<Member>,
    pub(crate) to: Option<Goal>,
    pub(crate) header: Header,
    pub(crate) trace: Trace,
}

/// Groups that all checks name together, each as often as it is named: proofs look at every one of them.
const MAX_NAMED: usize = 1 << 18;

impl World<'_> {
    /// Resolves and proves every check.
    pub(crate) fn check_lines(&mut self) {
        let lines = LineIndex::new(self.text);
        let mut resolved = Vec::new();
        let mut named = 0;
        for at in 0..self.checks.len() {
            let loose = self.checks[at];
            for of in 0..self.module_instances[loose.module as usize].len() {
                let instance = self.module_instances[loose.module as usize][of];
                let Some(check) = self.resolve_check(instance, loose.stmt) else { continue };
                named += check.groups();
                if named > MAX_NAMED {
                    self.too_many_checks(loose.stmt);
                }
                if self.sink.is_flooded() || named > MAX_NAMED {
                    return;
                }
                resolved.push(check);
            }
        }
        for check in &resolved {
            let span = self.tree.head_span(check.stmt);
            let text = span.text(self.text).split_whitespace().collect::<Vec<_>>().join(" ");
            let claim = self.claim(check);
            self.data.checks.push(Check { text, line: lines.line(span.start), claim });
        }
        // Checks with the same links cut share their tables.
        let mut cuts: Vec<&[u32]> = resolved.iter().map(|c| c.cut()).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut failed = Vec::new();
        for cut in cuts {
            let mut proof = Proof::new(&self.data, cut.to_vec());
            for check in resolved.iter().filter(|c| c.cut() == cut) {
                match &check.claim {
                    ResolvedClaim::Reach(reach) => {
                        failed.extend(prove(&mut proof, reach).map(|found| (check, Ok(found))));
                    }
                    ResolvedClaim::Diameter(_) => failed.push((check, Err(proof.diameter()))),
                }
            }
        }
        for (check, found) in failed {
            match (&check.claim, found) {
                (ResolvedClaim::Reach(reach), Ok(found)) => self.check_failed(check.stmt, reach, &found),
                (ResolvedClaim::Diameter(most), Err(found)) => self.judge_diameter(check.stmt, *most, &found),
                _ => {}
            }
        }
    }

    fn too_many_checks(&mut self, stmt: StmtId) {
        let span = self.tree.head_span(stmt);
        let most = thousands(MAX_NAMED as u64);
        self.sink.push(
            Diagnostic::error(codes::TOO_LARGE, format!("the checks name more than {most} groups, all together"), span)
                .label("with this line they do")
                .help("one check of `[*]` covers what many lines say one by one"),
        );
    }

    /// Resolves the names of checks only: there are other errors, so proofs would be about another network.
    pub(crate) fn check_names(&mut self) {
        for at in 0..self.checks.len() {
            let loose = self.checks[at];
            if let Some(instance) = self.module_instances[loose.module as usize].first().copied() {
                self.resolve_check(instance, loose.stmt);
            }
        }
    }

    fn claim(&self, check: &Resolved) -> Claim {
        let reach = match &check.claim {
            ResolvedClaim::Diameter(most) => return Claim::Diameter { most: *most },
            ResolvedClaim::Reach(reach) => reach,
        };
        let address = |i: &u32| Ipv4Addr::from(self.data.interfaces[*i as usize].ip);
        Claim::Reach {
            from: reach.from.clone(),
            to: match &reach.to {
                Target::Vms(ranges) => CheckTarget::Vms(ranges.clone()),
                Target::Interfaces(list) => CheckTarget::Addresses(list.iter().map(address).collect()),
                Target::Address(ip) => CheckTarget::Addresses(vec![Ipv4Addr::from(*ip)]),
                Target::External(id) => CheckTarget::External(ExternalId(*id)),
            },
            expect: reach.expect,
            service: reach.service,
            without: reach.without.iter().map(|l| LinkId(*l)).collect(),
        }
    }

    fn resolve_check(&mut self, instance: u32, stmt: StmtId) -> Option<Resolved> {
        let env = Env::of(instance);
        let words = self.tree.words(stmt).to_vec();
        let (from, to, expect, rest) = match words.as_slice() {
            [_, first, mark, most]
                if self.is_word(*first, "diameter") && self.tree.expr(*mark) == Expr::Mark(Mark::AtMost) =>
            {
                let most = self.want_int(env, *most, Ty::Int(0, i64::from(u32::MAX)), "diameter")?;
                return Some(Resolved { stmt, claim: ResolvedClaim::Diameter(most as u32) });
            }
            [_, from, verb, to, rest @ ..] if self.is_word(*verb, "reaches") => (*from, *to, Expect::Reaches, rest),
            [_, from, no, verb, to, rest @ ..] if self.is_word(*no, "cannot") && self.is_word(*verb, "reach") => {
                (*from, *to, Expect::CannotReach, rest)
            }
            _ => {
                keyword("check").into_iter().for_each(|found| self.bad_head(stmt, found));
                return None;
            }
        };
        let (service, rest) = match rest {
            [protocol, port, rest @ ..] if self.is_word(*protocol, "tcp") || self.is_word(*protocol, "udp") => {
                let is_tcp = self.is_word(*protocol, "tcp");
                let span = self.tree.span(*protocol).to(self.tree.span(*port));
                let port = self.want_int(env, *port, Ty::Int(1, 65_535), "port");
                let text = span.text(self.text).to_owned();
                self.not_yet(&format!("check … {text}"), span);
                let protocol = if is_tcp { Protocol::Tcp } else { Protocol::Udp };
                (Some(Service { protocol, port: port? as u16 }), rest)
            }
            rest => (None, rest),
        };
        let without = match rest {
            [] => Vec::new(),
            [word, links @ ..] if self.is_word(*word, "without") && !links.is_empty() => {
                self.not_yet("check … without", self.tree.span(*word));
                self.link_list(env, links, "without")?
            }
            _ => {
                keyword("check").into_iter().for_each(|found| self.bad_head(stmt, found));
                return None;
            }
        };
        let words = [from, to];
        let (from, to) = (self.check_source(env, from), self.check_target(env, to));
        let claim = ResolvedClaim::Reach(Reach { from: from?, to: to?, expect, service, without, words });
        Some(Resolved { stmt, claim })
    }

    fn check_source(&mut self, env: Env, word: ExprId) -> Option<CheckSource> {
        let selected = self.select(env, word, "vm")?;
        if let [only] = selected.as_slice()
            && only.kind == Kind::External
        {
            self.not_yet("an external network in a check", self.tree.span(word));
            return self.one(env, word, &[Kind::External], "external").map(|e| CheckSource::External(ExternalId(e)));
        }
        self.vms_among(&selected, word).map(CheckSource::Vms)
    }

    /// The VMs of what was selected; anything else is reported, and so is nothing.
    pub(crate) fn vms_among(&mut self, selected: &[Selected], word: ExprId) -> Option<Vec<Range>> {
        if let Some(other) = selected.iter().find(|s| !matches!(s.kind, Kind::Vm | Kind::Instance)) {
            self.wrong_kind(*other, self.tree.span(word), &[Kind::Vm]);
            return None;
        }
        let ranges = self.data.vms_of(selected);
        if ranges.is_empty() {
            let text = self.tree.span(word).text(self.text);
            self.nothing(word, format!("`{text}` is no VM at all"), "nothing would be checked");
            return None;
        }
        Some(ranges)
    }

    fn nothing(&mut self, word: ExprId, what: impl Into<String>, label: &str) {
        self.sink.push(Diagnostic::error(codes::NOTHING, what, self.tree.span(word)).label(label));
    }

    fn check_target(&mut self, env: Env, word: ExprId) -> Option<Target> {
        if !matches!(self.tree.expr(word), Expr::Name(_) | Expr::Field(..) | Expr::At(..)) {
            return match self.want(env, word, Ty::Address, "check")? {
                Value::Address(ip) => Some(Target::Address(ip)),
                _ => None,
            };
        }
        let selected = self.select(env, word, "vm or router")?;
        match selected.first().map(|s| s.kind) {
            Some(Kind::Let | Kind::Param) => match self.want(env, word, Ty::Address, "check")? {
                Value::Address(ip) => Some(Target::Address(ip)),
                _ => None,
            },
            Some(Kind::External) => {
                self.not_yet("an external network in a check", self.tree.span(word));
                self.one(env, word, &[Kind::External], "external").map(Target::External)
            }
            Some(Kind::Router) => {
                let routers = self.rows_of(env, word, &[Kind::Router], "router")?;
                let mut interfaces = Vec::new();
                for router in routers {
                    let row = self.data.routers[router as usize];
                    interfaces.extend((row.interface_count > 0).then_some(row.first_interface));
                }
                if interfaces.is_empty() {
                    self.nothing(word, "this router has no address", "it is on no lan and no link");
                    return None;
                }
                Some(Target::Interfaces(interfaces))
            }
            // Of a lan: all VMs on it.
            Some(Kind::Lan) => {
                let segments = self.rows_of(env, word, &[Kind::Lan], "lan")?;
                let ranges = self.vms_on(&segments);
                if ranges.is_empty() {
                    self.nothing(word, "no VM is on this lan", "nothing would be checked");
                    return None;
                }
                Some(Target::Vms(ranges))
            }
            _ => self.vms_among(&selected, word).map(Target::Vms),
        }
    }

    /// The VMs that are on some segments, as ranges.
    fn vms_on(&self, segments: &[u32]) -> Vec<Range> {
        let mut vms: Vec<(u32, u32)> = Vec::new();
        for segment in segments {
            for nic in self.data.segment_nics.of(*segment) {
                let group = self.data.nics[*nic as usize].group;
                vms.extend(self.data.indices_on(*nic, *segment).flatten().map(|i| (group, i)));
            }
        }
        vms.sort_unstable();
        vms.dedup();
        let runs = vms.chunk_by(|a, b| a.0 == b.0 && a.1 + 1 == b.1);
        runs.map(|r| Range { group: GroupId(r[0].0), first: r[0].1, count: r.len() as u32 }).collect()
    }

    /// The span of a check's first word.
    pub(crate) fn check_span(&self, stmt: StmtId) -> Span {
        self.tree.words(stmt).first().map_or_else(Span::default, |w| self.tree.span(*w))
    }
}

impl Resolved {
    /// How many groups of VMs it names, on both sides.
    fn groups(&self) -> usize {
        let ResolvedClaim::Reach(reach) = &self.claim else { return 0 };
        let from = if let CheckSource::Vms(ranges) = &reach.from { ranges.len() } else { 1 };
        let to = if let Target::Vms(ranges) = &reach.to { ranges.len() } else { 1 };
        from + to
    }

    fn cut(&self) -> &[u32] {
        match &self.claim {
            ResolvedClaim::Reach(reach) => &reach.without,
            ResolvedClaim::Diameter(_) => &[],
        }
    }
}

/// The first pair for which a check does not hold.
fn prove(proof: &mut Proof<'_>, reach: &Reach) -> Option<Counterexample> {
    let headers = match (reach.service, reach.expect) {
        (Some(service), _) => vec![Header::to(service.protocol, service.port)],
        (None, Expect::Reaches) => vec![Header::ECHO],
        // Nothing at all may get there.
        (None, Expect::CannotReach) => proof.header_kinds(),
    };
    let wanted = reach.expect == Expect::Reaches;
    let goals: Vec<Goal> = match &reach.to {
        Target::Vms(ranges) => proof.members(ranges).into_iter().map(Goal::Vm).collect(),
        Target::Interfaces(list) => list.iter().map(|i| Goal::Interface(*i)).collect(),
        Target::External(id) => vec![Goal::External(*id)],
        Target::Address(ip) => {
            vec![Goal::Address { on: proof.network_of(*ip).unwrap_or(On::Segment(u32::MAX)), ip: *ip }]
        }
    };
    match &reach.from {
        CheckSource::External(ExternalId(external)) => {
            for goal in &goals {
                let Goal::Vm(member) = goal else { continue };
                for header in &headers {
                    let trace = proof.trace_from_outside(*external, member, *header);
                    if trace.loss.is_none() != wanted {
                        return Some(Counterexample { from: None, to: Some(goal.clone()), header: *header, trace });
                    }
                }
            }
        }
        CheckSource::Vms(ranges) => {
            for from in proof.members(ranges) {
                for goal in &goals {
                    if let Goal::Vm(to) = goal
                        && !from.matters_with(to)
                    {
                        continue;
                    }
                    for header in &headers {
                        if proof.reaches(&from, goal, *header) != wanted {
                            let trace = proof.trace(&from, goal, *header);
                            let to = Some(goal.clone());
                            return Some(Counterexample { from: Some(from), to, header: *header, trace });
                        }
                    }
                }
            }
        }
    }
    None
}
