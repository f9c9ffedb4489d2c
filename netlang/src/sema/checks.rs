//! `check` lines: what they are about, and their proof on the plan.

use super::World;
use super::eval::Env;
use crate::diag::{Diagnostic, codes};
use crate::plan::path::Selected;
use crate::plan::rows::On;
use crate::plan::{Check, CheckTarget, Expect, Range};
use crate::proof::{Reach, Verdict};
use crate::source::{LineIndex, Span};
use crate::syntax::tree::{Expr, ExprId, StmtId};
use crate::text::thousands;
use crate::vocab::{Kind, keyword};
use std::net::Ipv4Addr;

/// A check whose names are resolved.
struct Resolved {
    stmt: StmtId,
    from: Vec<Range>,
    to: Target,
    expect: Expect,
}

/// What is to be reached.
enum Target {
    Vms(Vec<Range>),
    /// Interfaces of routers.
    Interfaces(Vec<u32>),
}

impl World<'_> {
    /// Resolves and proves every check.
    pub(crate) fn check_lines(&mut self) {
        let lines = LineIndex::new(self.text);
        for at in 0..self.checks.len() {
            let loose = self.checks[at];
            for instance in 0..self.data.names.instances.len() as u32 {
                if self.data.names.instances[instance as usize].module != loose.module {
                    continue;
                }
                if let Some(resolved) = self.resolve_check(instance, loose.stmt) {
                    // What cannot be planned yet, such as `link mesh`, is missing from the rows: a proof would be about
                    // another network.
                    if self.data.unsupported.is_empty() {
                        self.prove(&resolved);
                    }
                    let span = self.tree.head_span(loose.stmt);
                    let to = match resolved.to {
                        Target::Vms(ranges) => CheckTarget::Vms(ranges),
                        Target::Interfaces(list) => CheckTarget::Addresses(
                            list.iter().map(|i| Ipv4Addr::from(self.data.interfaces[*i as usize].ip)).collect(),
                        ),
                    };
                    let text = span.text(self.text).split_whitespace().collect::<Vec<_>>().join(" ");
                    let check =
                        Check { text, line: lines.line(span.start), from: resolved.from, to, expect: resolved.expect };
                    self.data.checks.push(check);
                }
            }
        }
    }

    /// Resolves the names of checks only: there are other errors, so proofs would be about another network.
    pub(crate) fn check_names(&mut self) {
        for at in 0..self.checks.len() {
            let loose = self.checks[at];
            let instances = &self.data.names.instances;
            let of = (0..instances.len() as u32).find(|i| instances[*i as usize].module == loose.module);
            if let Some(instance) = of {
                self.resolve_check(instance, loose.stmt);
            }
        }
    }

    fn resolve_check(&mut self, instance: u32, stmt: StmtId) -> Option<Resolved> {
        let env = Env::of(instance);
        let words = self.tree.words(stmt).to_vec();
        let name = |w: &ExprId| self.tree.as_name(*w).map(|s| self.data.names.interner.name(s));
        let (from, to, expect, rest) = match words.as_slice() {
            [_, first, ..] if name(first) == Some("diameter") => {
                self.not_yet("check diameter", self.tree.head_span(stmt));
                return None;
            }
            [_, from, verb, to, rest @ ..] if name(verb) == Some("reaches") => (*from, *to, Expect::Reaches, rest),
            [_, from, no, verb, to, rest @ ..] if name(no) == Some("cannot") && name(verb) == Some("reach") => {
                (*from, *to, Expect::CannotReach, rest)
            }
            _ => {
                if let Some(found) = keyword("check") {
                    self.bad_head(stmt, found);
                }
                return None;
            }
        };
        if let Some(first) = rest.first() {
            let span = self.tree.span(*first);
            let text = span.text(self.text);
            match name(first) {
                Some("tcp" | "udp" | "without") => self.not_yet(&format!("check … {text}"), span),
                _ => {
                    keyword("check").into_iter().for_each(|found| self.bad_head(stmt, found));
                }
            }
            return None;
        }
        let (from, to) = (self.check_vms(env, from), self.check_target(env, to));
        Some(Resolved { stmt, from: from?, to: to?, expect })
    }

    fn check_vms(&mut self, env: Env, word: ExprId) -> Option<Vec<Range>> {
        let selected = self.select(env, word, "vm")?;
        self.vms_among(&selected, word)
    }

    /// The VMs of what was selected; anything else is reported, and so is nothing.
    pub(crate) fn vms_among(&mut self, selected: &[Selected], word: ExprId) -> Option<Vec<Range>> {
        if let Some(other) = selected.iter().find(|s| !matches!(s.kind, Kind::Vm | Kind::Instance)) {
            self.wrong_kind(*other, self.tree.span(word), &[Kind::Vm]);
            return None;
        }
        let ranges = self.data.vms_of(selected);
        if ranges.is_empty() {
            let span = self.tree.span(word);
            let text = span.text(self.text);
            self.sink.push(
                Diagnostic::error(codes::NOTHING, format!("`{text}` is no VM at all"), span)
                    .label("nothing would be checked"),
            );
            return None;
        }
        Some(ranges)
    }

    fn check_target(&mut self, env: Env, word: ExprId) -> Option<Target> {
        if matches!(self.tree.expr(word), Expr::Ipv4(_) | Expr::Prefix(..)) {
            self.not_yet("an address in a check", self.tree.span(word));
            return None;
        }
        let selected = self.select(env, word, "vm or router")?;
        match selected.first().map(|s| s.kind) {
            Some(Kind::External) => {
                self.not_yet("an external network in a check", self.tree.span(word));
                None
            }
            Some(Kind::Router) => {
                let routers = self.rows_of(env, word, &[Kind::Router], "router")?;
                let mut interfaces = Vec::new();
                for router in routers {
                    let row = self.data.routers[router as usize];
                    interfaces.extend((row.interface_count > 0).then_some(row.first_interface));
                }
                if interfaces.is_empty() {
                    let span = self.tree.span(word);
                    self.sink.push(
                        Diagnostic::error(codes::NOTHING, "this router has no address", span)
                            .label("it is on no lan and no link"),
                    );
                    return None;
                }
                Some(Target::Interfaces(interfaces))
            }
            // Of a lan: all VMs on it.
            Some(Kind::Lan) => {
                let segments = self.rows_of(env, word, &[Kind::Lan], "lan")?;
                let ranges = self.vms_on(&segments);
                if ranges.is_empty() {
                    let span = self.tree.span(word);
                    self.sink.push(
                        Diagnostic::error(codes::NOTHING, "no VM is on this lan", span)
                            .label("nothing would be checked"),
                    );
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
                let row = self.data.groups[group as usize];
                let on = |i: &u32| self.data.nic_at(*nic, *i).is_some_and(|(s, _)| s == *segment);
                vms.extend((row.first..row.first + row.count).filter(on).map(|i| (group, i)));
            }
        }
        vms.sort_unstable();
        vms.dedup();
        let runs = vms.chunk_by(|a, b| a.0 == b.0 && a.1 + 1 == b.1);
        runs.map(|r| Range { group: crate::plan::GroupId(r[0].0), first: r[0].1, count: r.len() as u32 }).collect()
    }

    fn prove(&mut self, check: &Resolved) {
        let reach = Reach::new(&self.data);
        let sources = reach.members(&check.from);
        let mut found: Option<(Verdict, String)> = None;
        let wanted = |v: Verdict| (v == Verdict::Reaches) == (check.expect == Expect::Reaches);
        match &check.to {
            Target::Vms(ranges) => {
                let targets = reach.members(ranges);
                'pairs: for from in &sources {
                    for to in &targets {
                        let verdict = reach.between(from, to);
                        if !wanted(verdict) {
                            let name = |m: &crate::proof::Member| self.vm_path(m.group, m.index);
                            found = Some((verdict, format!("{} to {}", name(from), name(to))));
                            break 'pairs;
                        }
                    }
                }
            }
            Target::Interfaces(list) => {
                'all: for from in &sources {
                    for interface in list {
                        let row = self.data.interfaces[*interface as usize];
                        let on = if let On::Segment(s) = row.on { Some(s) } else { None };
                        let verdict = reach.to_router(from, row.router, on);
                        if !wanted(verdict) {
                            let router = self.data.routers[row.router as usize];
                            let name = self.data.names.path(router.instance, router.decl, router.index);
                            found = Some((verdict, format!("{} to {name}", self.vm_path(from.group, from.index))));
                            break 'all;
                        }
                    }
                }
            }
        }
        if let Some((verdict, pair)) = found {
            self.check_failed(check, verdict, &pair);
        }
    }

    fn vm_path(&self, group: u32, index: u32) -> String {
        let row = &self.data.groups[group as usize];
        self.data.names.path(row.instance, row.decl, row.is_array.then_some(index))
    }

    fn check_failed(&mut self, check: &Resolved, verdict: Verdict, pair: &str) {
        let words = self.tree.words(check.stmt);
        let (from, to) = (words.get(1).copied(), words.last().copied());
        let text = |w: Option<ExprId>| w.map_or("", |w| self.tree.span(w).text(self.text));
        let (from, to) = (text(from), text(to));
        let word = words.first().map_or_else(Span::default, |w| self.tree.span(*w));
        let count: u64 = check.from.iter().map(|r| u64::from(r.count)).sum();
        let label = format!(
            "{} VM{} on the left; the first pair is {pair}",
            thousands(count),
            if count == 1 { "" } else { "s" }
        );
        if check.expect == Expect::CannotReach {
            self.sink.push(
                Diagnostic::error(codes::CHECK_REACHABLE, format!("{from} reaches {to}, and must not"), word)
                    .label(label)
                    .note("both are on one lan, or their lans are joined by routers")
                    .help("take the lan off the router, or the line out of the file"),
            );
            return;
        }
        let mut it =
            Diagnostic::error(codes::CHECK_UNREACHABLE, format!("{from} cannot reach {to}"), word).label(label);
        it = match verdict {
            Verdict::Reaches => it,
            Verdict::NoNic { group, index } => it
                .note(format!("{} is on no lan", self.vm_path(group, index)))
                .help("`on LAN` in its block attaches it"),
            Verdict::NoGateway { group, index } => {
                let row = self.data.groups[group as usize];
                let span = self.data.names.decl(row.instance, row.decl).span;
                it.also(span, "no router on its lans")
                    .note(format!(
                        "{} has no way off its own lans: there is no gateway on them",
                        self.vm_path(group, index)
                    ))
                    .help("a router with `on` for both lans joins them")
            }
            Verdict::NoRoute { segment } => {
                let row = self.data.segments[segment as usize];
                let gateway = row.gateway.map(|g| self.data.routers[self.data.interfaces[g as usize].router as usize]);
                let lan = self.data.names.path(row.instance, row.decl, row.index);
                match gateway {
                    Some(router) => {
                        let name = self.data.names.path(router.instance, router.decl, router.index);
                        let span = self.data.names.decl(router.instance, router.decl).span;
                        it.also(span, "no line or lan leads on from here")
                            .note(format!("path: {lan} -> {name} (no route from here)"))
                            .help(format!("`link {name} -- …` joins it to the other side"))
                    }
                    None => it,
                }
            }
        };
        self.sink.push(it);
    }
}
