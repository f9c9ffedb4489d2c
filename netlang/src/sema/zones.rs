//! Where packets come from or go to: a word of a rule to a set of addresses.
//!
//! Sets are made when all addresses are known. Those of a file-level name are made once, however many routers name it.

use super::World;
use super::eval::Env;
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::plan::Range;
use crate::plan::form::Form;
use crate::plan::path::Selected;
use crate::plan::routing::Zone;
use crate::syntax::tree::{Expr, ExprId};
use crate::vocab::Kind;
use hashbrown::HashMap;

/// The word for all that is on no lan of the file.
const OUTSIDE: &str = "outside";

/// Zones that were worked out: by instance (0 for those that are the same in all) and word.
pub(crate) type ZoneCache = HashMap<(u32, ExprId), Option<Zone>>;

impl World<'_> {
    /// The zone that a word stands for.
    pub(crate) fn zone(&mut self, env: Env, word: ExprId, cache: &mut ZoneCache) -> Option<Zone> {
        if env.index.is_some_and(|(name, _)| self.mentions(word, name)) {
            return self.make_zone(env, word);
        }
        let scope = if self.is_of_file(env.instance, word) { 0 } else { env.instance };
        if let Some(zone) = cache.get(&(scope, word)) {
            return *zone;
        }
        let zone = self.make_zone(env, word);
        cache.insert((scope, word), zone);
        zone
    }

    /// Whether an expression means the same in every instance.
    fn is_of_file(&self, instance: u32, word: ExprId) -> bool {
        match self.tree.expr(word) {
            Expr::Name(symbol) => self.data.names.lookup(instance, symbol).is_none_or(|(scope, ..)| scope == 0),
            Expr::Field(base, _) => self.is_of_file(instance, base),
            Expr::At(base, index) => self.is_of_file(instance, base) && self.is_of_file(instance, index),
            Expr::Range(l, r) | Expr::Binary(l, r, _) => self.is_of_file(instance, l) && self.is_of_file(instance, r),
            Expr::Call(callee, args) => {
                self.is_of_file(instance, callee) && self.tree.args(args).iter().all(|a| self.is_of_file(instance, *a))
            }
            _ => true,
        }
    }

    fn make_zone(&mut self, env: Env, word: ExprId) -> Option<Zone> {
        let found = self.tree.as_name(word).map(|symbol| {
            let kind = self.data.names.lookup(env.instance, symbol).map(|(_, _, decl)| decl.kind);
            (self.data.names.interner.name(symbol) == OUTSIDE, kind)
        });
        match (found, self.tree.expr(word)) {
            (Some((true, None)), _) => return Some(self.outside()),
            (Some((_, Some(Kind::Let | Kind::Param))), _) => return self.value_zone(env, word),
            (_, Expr::Name(_) | Expr::Field(..) | Expr::At(..)) => {}
            _ => return self.value_zone(env, word),
        }
        let selected = self.select(env, word, "lan, vm, router or external network")?;
        let kinds = [Kind::Lan, Kind::Vm, Kind::Router, Kind::Instance, Kind::External];
        if let Some(other) = selected.iter().find(|s| !kinds.contains(&s.kind)) {
            self.wrong_kind(*other, self.tree.span(word), &kinds);
            return None;
        }
        if let Some(external) = selected.iter().find(|s| s.kind == Kind::External) {
            return Some(Zone::External(self.data.names.rows(external.instance, external.decl).base));
        }
        let mut intervals = Vec::new();
        for it in selected {
            self.push_addresses(it, &mut intervals);
        }
        Some(Zone::Addresses(self.data.zones.intern(intervals)))
    }

    fn value_zone(&mut self, env: Env, word: ExprId) -> Option<Zone> {
        let interval = match self.eval(env, word)? {
            Value::Prefix(prefix) => (prefix.first(), prefix.last()),
            Value::Address(address) => (address, address),
            other => {
                self.sink.push(
                    Diagnostic::error(
                        codes::WRONG_TYPE,
                        format!("addresses are wanted here, found {}", other.a()),
                        self.tree.span(word),
                    )
                    .label("vms, routers, a lan, a prefix, an address or `outside`"),
                );
                return None;
            }
        };
        Some(Zone::Addresses(self.data.zones.intern(vec![interval])))
    }

    /// The addresses of what a path selected; of an instance those of its lans.
    fn push_addresses(&self, it: Selected, intervals: &mut Vec<(u32, u32)>) {
        let names = &self.data.names;
        let rows = names.rows(it.instance, it.decl);
        let base = rows.base + (it.first - rows.first);
        match it.kind {
            Kind::Lan => {
                let segments = &self.data.segments[base as usize..(base + it.count) as usize];
                intervals.extend(segments.iter().map(|s| (s.prefix.first(), s.prefix.last())));
            }
            Kind::Router => {
                for router in base..base + it.count {
                    intervals.extend(self.data.interfaces_of(router).iter().map(|i| (i.ip, i.ip)));
                }
            }
            Kind::Vm => {
                let range = Range { group: crate::plan::GroupId(rows.base), first: it.first, count: it.count };
                self.push_vms(range, intervals);
            }
            Kind::Instance => {
                for instance in base..base + it.count {
                    let within = names.everything(instance).into_iter();
                    for part in within.filter(|p| matches!(p.kind, Kind::Lan | Kind::Instance)) {
                        self.push_addresses(part, intervals);
                    }
                }
            }
            _ => {}
        }
    }

    /// The addresses of all NICs of VMs, in one step where they follow one another.
    fn push_vms(&self, range: Range, intervals: &mut Vec<(u32, u32)>) {
        let group = &self.data.groups[range.group.0 as usize];
        if range.count == 0 {
            return;
        }
        for nic in group.first_nic..group.first_nic + u32::from(group.nic_count) {
            let row = self.data.nics[nic as usize];
            let address = |index: u32| self.data.nic_at(nic, index).map(|(_, ip)| ip);
            if let (Form::Const(_), Form::Plus(_)) = (row.segment, row.host) {
                let last = range.first + range.count - 1;
                intervals.extend(address(range.first).zip(address(last)));
            } else {
                intervals.extend(range.indices().filter_map(address).map(|ip| (ip, ip)));
            }
        }
    }

    /// All addresses that are on no lan of the file.
    fn outside(&mut self) -> Zone {
        if let Some(zone) = self.outside_zone {
            return zone;
        }
        let mut lans: Vec<(u32, u32)> =
            self.data.segments.iter().map(|s| (s.prefix.first(), s.prefix.last())).collect();
        lans.sort_unstable();
        let mut rest = Vec::new();
        let mut next = 0u64;
        for (first, last) in lans {
            if u64::from(first) > next {
                rest.push((next as u32, first - 1));
            }
            next = next.max(u64::from(last) + 1);
        }
        if let Ok(next) = u32::try_from(next) {
            rest.push((next, u32::MAX));
        }
        let zone = Zone::Addresses(self.data.zones.intern(rest));
        self.outside_zone = Some(zone);
        zone
    }
}
