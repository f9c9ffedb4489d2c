//! OSPF: which area each interface of a router is in, and its timers.
//!
//! A router with an `ospf` block runs it on all of its lans and links, and never on external networks. What the block
//! leaves out is the backbone, and the hello interval of the router, of `default router`, or of RFC 2328.

use super::World;
use super::clause::Clause;
use super::eval::Env;
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::plan::OspfInterface;
use crate::plan::rows::On;
use crate::syntax::tree::{ExprId, StmtId};
use crate::vocab::{Kind, Property, Ty, property};
use hashbrown::{HashMap, HashSet};

/// The area that all others must be attached to.
pub(crate) const BACKBONE: u32 = 0;
/// Hello interval in milliseconds, from the sample values of RFC 2328, appendix C.3.
const HELLO: u32 = 10_000;
/// The dead interval in hello intervals, from the same place.
const DEAD_HELLOS: u32 = 4;
/// The hello packet counts whole seconds, in 16 bits (RFC 2328, A.3.2).
const MAX_SECONDS: u64 = 65_535;

/// What an `ospf` block says.
#[derive(Debug, Default)]
struct Spec {
    /// The area of interfaces that have none of their own.
    area: Option<(u32, ExprId)>,
    own_area: HashMap<On, (u32, ExprId)>,
    passive: HashSet<u32>,
}

impl World<'_> {
    /// The vocabulary of a block of routers.
    pub(crate) fn part_block(word: &str) -> &'static [Property] {
        property(Self::block_of("router"), word).map_or(&[], |p| p.block)
    }

    /// Works out OSPF on every router's interfaces.
    pub(crate) fn ospf(&mut self) {
        for router in 0..self.data.routers.len() as u32 {
            let row = self.data.routers[router as usize];
            let stmt = self.data.names.decl(row.instance, row.decl).stmt;
            let Some((block, from_default)) = self.part(stmt, "ospf") else { continue };
            let own = self.element_env(row.instance, stmt, row.index);
            let env = if from_default { Env::of(0) } else { own };
            let clauses = Self::part_block("ospf");
            self.data.routers[router as usize].originates_default = self.child(block, "originate").is_some();
            if let Some(clause) = self.find_clause(block, clauses, "originate")
                && let Some(word) = clause.arg(0)
            {
                self.choice(word, clause.property.args[0].ty, "originate");
            }
            let spec = self.ospf_spec(router, env, block);
            let (hello, dead) = self.ospf_timers(stmt, block, own, env);
            for id in row.first_interface..row.first_interface + row.interface_count {
                let interface = &mut self.data.interfaces[id as usize];
                if matches!(interface.on, On::External(_)) {
                    continue;
                }
                let given = spec.own_area.get(&interface.on).copied().or(spec.area);
                if let Some((_, word)) = given {
                    self.area_words.insert(id, word);
                }
                let area = given.map_or(BACKBONE, |(area, _)| area);
                let passive = matches!(interface.on, On::Segment(s) if spec.passive.contains(&s));
                interface.ospf = Some(OspfInterface { area, passive, hello, dead });
            }
        }
    }

    fn ospf_spec(&mut self, router: u32, env: Env, block: StmtId) -> Spec {
        let mut spec = Spec::default();
        let clauses = Self::part_block("ospf");
        for stmt in self.children_of(block, "area") {
            let Some(clause) = self.clause(stmt, clauses) else { continue };
            let Some(word) = clause.arg(0) else { continue };
            let Some(area) = self.want_int(env, word, clause.property.args[0].ty, "area") else { continue };
            // The vocabulary bounds it to 32 bits.
            let area = area as u32;
            if !clause.has("on") {
                if let Some((_, first)) = spec.area {
                    self.area_twice(word, first);
                }
                spec.area.get_or_insert((area, word));
                continue;
            }
            for on in clause.option_args("on").to_vec() {
                for network in self.ospf_networks(router, env, on) {
                    if let Some((_, first)) = spec.own_area.get(&network).copied() {
                        self.area_twice(on, first);
                    }
                    spec.own_area.entry(network).or_insert((area, on));
                }
            }
        }
        if let Some(clause) = self.find_clause(block, clauses, "passive") {
            for word in Clause::args(&clause, 0) {
                spec.passive.extend(self.ospf_networks(router, env, word).into_iter().filter_map(|on| match on {
                    On::Segment(s) => Some(s),
                    On::Link(_) | On::External(_) => None,
                }));
            }
        }
        spec
    }

    fn area_twice(&mut self, word: ExprId, first: ExprId) {
        self.sink.push(
            Diagnostic::error(codes::REPEATED, "`area` is given twice for one interface", self.tree.span(word))
                .label("a second time")
                .also(self.tree.span(first), "given here first")
                .help("name the lans or links of each area: `area 1 on lab`"),
        );
    }

    /// The lans or links that a word names, of those that the router is on.
    fn ospf_networks(&mut self, router: u32, env: Env, word: ExprId) -> Vec<On> {
        let Some(selected) = self.select(env, word, "lan or link") else { return Vec::new() };
        let is_link = selected.first().is_some_and(|s| s.kind == Kind::Link);
        let kind = if is_link { Kind::Link } else { Kind::Lan };
        let Some(rows) = self.rows_of(env, word, &[kind], "lan or link") else { return Vec::new() };
        let rows: HashSet<u32> = rows.into_iter().collect();
        let on = self.data.interfaces_of(router).iter().map(|i| i.on);
        let found: Vec<On> = on
            .filter(|on| match on {
                On::Segment(s) => !is_link && rows.contains(s),
                On::Link(l) => is_link && rows.contains(l),
                On::External(_) => false,
            })
            .collect();
        if found.is_empty() && !self.broken_routers.contains(&router) {
            let row = self.data.routers[router as usize];
            let decl = self.data.names.decl(row.instance, row.decl).span;
            let name = self.data.router_name(router);
            let text = self.tree.span(word).text(self.text);
            let what = if is_link { "at no end of this link" } else { "not on this lan" };
            let it = Diagnostic::error(codes::OSPF_ELSEWHERE, format!("`{name}` is {what}"), self.tree.span(word))
                .label("OSPF has no interface there")
                .also(decl, "this router");
            self.sink.push(match is_link {
                true => it.help("leave it out, or name a link of this router"),
                false => it.help(format!("add `on {text}` to the router, or leave it out here")),
            });
        }
        found
    }

    /// Hello and dead intervals in milliseconds.
    fn ospf_timers(&mut self, stmt: StmtId, block: StmtId, own: Env, env: Env) -> (u32, u32) {
        let clauses = Self::part_block("ospf");
        let hello = match self.find_clause(block, clauses, "hello") {
            Some(clause) => clause.arg(0).map(|word| (word, env)),
            None => self
                .property_of(stmt, "router", "hello")
                .and_then(|(clause, from_default)| Some((clause.arg(0)?, if from_default { Env::of(0) } else { own }))),
        };
        let hello = hello.and_then(|(word, env)| self.seconds(env, word, "hello")).unwrap_or(HELLO);
        let dead = self.find_clause(block, clauses, "dead").and_then(|c| c.arg(0));
        let Some(word) = dead else { return (hello, hello.saturating_mul(DEAD_HELLOS)) };
        let Some(dead) = self.seconds(env, word, "dead") else { return (hello, hello.saturating_mul(DEAD_HELLOS)) };
        if dead <= hello {
            self.sink.push(
                Diagnostic::error(
                    codes::OUT_OF_BOUNDS,
                    "every neighbour would be dead before its next hello",
                    self.tree.span(word),
                )
                .label(format!("hello is {}s, so more than that", hello / 1000))
                .help(format!("`dead {}s`, or leave it out", hello / 1000 * DEAD_HELLOS)),
            );
        }
        (hello, dead)
    }

    /// A duration of whole seconds, in milliseconds.
    fn seconds(&mut self, env: Env, word: ExprId, what: &str) -> Option<u32> {
        let Value::Duration(time) = self.want(env, word, Ty::Duration, what)? else { return None };
        let seconds = time / 1_000_000_000;
        if time % 1_000_000_000 != 0 || !(1..=MAX_SECONDS).contains(&seconds) {
            self.sink.push(
                Diagnostic::error(
                    codes::OUT_OF_BOUNDS,
                    format!("`{what}` cannot be {}", self.tree.span(word).text(self.text)),
                    self.tree.span(word),
                )
                .label("OSPF counts whole seconds, from 1s to 65535s"),
            );
            return None;
        }
        u32::try_from(seconds * 1000).ok()
    }
}
