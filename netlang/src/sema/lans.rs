//! Lans to segments: their given prefixes, MTUs and gateways.

use super::World;
use super::eval::Env;
use super::value::Value;
use crate::address::prefix::Prefix;
use crate::diag::{Diagnostic, codes};
use crate::syntax::tree::{ExprId, StmtId};
use crate::vocab::{Kind, Ty, keyword};

/// The MTU of lans and links without one: what a vxlan over an ordinary network of 1500 carries, so that a network
/// does not change when it is spread over several hosts.
pub(crate) const DEFAULT_MTU: u16 = 1450;

/// The longest prefix that a lan can have.
const LONGEST_LAN: u8 = 30;

impl World<'_> {
    /// The block of a keyword, from the vocabulary.
    pub(crate) fn block_of(word: &str) -> &'static [crate::vocab::Property] {
        keyword(word).map_or(&[], |k| k.block)
    }

    /// A property of a declaration, or of `default` for its kind. The flag says that it is the default's.
    pub(crate) fn property_of(
        &self,
        stmt: StmtId,
        kind: &'static str,
        word: &str,
    ) -> Option<(super::clause::Clause, bool)> {
        let block = Self::block_of(kind);
        if let Some(clause) = self.find_clause(stmt, block, word) {
            return Some((clause, false));
        }
        let (_, default) = self.defaults.iter().find(|(k, _)| *k == kind)?;
        Some((self.find_clause(*default, block, word)?, true))
    }

    /// Works out what segments' own statements say. Prefixes that are left out come later, from the pool.
    pub(crate) fn lans(&mut self) {
        self.given_prefix = vec![None; self.data.segments.len()];
        for segment in 0..self.data.segments.len() {
            if self.sink.is_flooded() {
                return;
            }
            let row = self.data.segments[segment];
            let stmt = self.data.names.decl(row.instance, row.decl).stmt;
            let env = self.element_env(row.instance, stmt, row.index);
            if let [_, _, _, prefix] = *self.tree.words(stmt) {
                self.given_prefix[segment] = Some(self.lan_prefix(env, prefix));
            }
            if let Some((clause, from_default)) = self.property_of(stmt, "lan", "mtu")
                && let Some(word) = clause.arg(0)
            {
                let env = if from_default { Env::of(0) } else { env };
                if let Some(mtu) = self.want_int(env, word, clause.property.args[0].ty, "mtu") {
                    self.data.segments[segment].mtu = mtu as u16;
                }
            }
        }
    }

    /// `None` means given but wrong.
    fn lan_prefix(&mut self, env: Env, word: ExprId) -> Option<Prefix> {
        self.network_prefix(env, word, Kind::Lan, LONGEST_LAN)
    }

    /// The prefix of a lan or an external network; its length is at most `longest`.
    pub(crate) fn network_prefix(&mut self, env: Env, word: ExprId, of: Kind, longest: u8) -> Option<Prefix> {
        let what = if of == Kind::Lan { "lan" } else { "net" };
        let Value::Prefix(prefix) = self.want(env, word, Ty::Prefix, what)? else { return None };
        let span = self.tree.span(word);
        if prefix.len() > longest || prefix.len() == 0 {
            self.sink.push(
                Diagnostic::error(codes::BAD_PREFIX, format!("{} cannot have the prefix {prefix}", of.a()), span)
                    .label(format!("lengths from /1 to /{longest} can be {what}s")),
            );
            return None;
        }
        let top = prefix.first() >> 24;
        if top == 0 || top == 127 || top >= 224 {
            self.sink.push(
                Diagnostic::error(codes::BAD_PREFIX, format!("{prefix} cannot be used for hosts"), span)
                    .label("reserved: this network, loopback, multicast or experimental")
                    .help("take a part of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"),
            );
            return None;
        }
        Some(prefix)
    }

    /// Finds each segment's gateway: the router that the file names, or the only one on it.
    pub(crate) fn gateways(&mut self) {
        for segment in 0..self.data.segments.len() as u32 {
            if self.sink.is_flooded() {
                return;
            }
            let row = self.data.segments[segment as usize];
            let stmt = self.data.names.decl(row.instance, row.decl).stmt;
            let on_it = self.data.segment_interfaces.of(segment).to_vec();
            let named = self.property_of(stmt, "lan", "gateway");
            if let Some((clause, from_default)) = named {
                let env = if from_default { Env::of(0) } else { self.element_env(row.instance, stmt, row.index) };
                let Some(word) = clause.arg(0) else { continue };
                let Some(router) = self.one(env, word, &[Kind::Router], "router") else { continue };
                let found = on_it.iter().find(|i| self.data.interfaces[**i as usize].router == router);
                if found.is_none() && !self.broken_routers.contains(&router) {
                    self.gateway_elsewhere(segment, router, word);
                }
                self.data.segments[segment as usize].gateway = found.copied();
                continue;
            }
            match on_it.as_slice() {
                [only] => self.data.segments[segment as usize].gateway = Some(*only),
                [] => {}
                several if self.data.segment_nics.of(segment).is_empty() => {
                    // Routers among themselves: nobody there needs a gateway.
                    let _ = several;
                }
                several => self.ambiguous_gateway(segment, several),
            }
        }
    }

    fn gateway_elsewhere(&mut self, segment: u32, router: u32, word: ExprId) {
        let row = self.data.routers[router as usize];
        let lan = self.data.segments[segment as usize];
        let decl = *self.data.names.decl(row.instance, row.decl);
        let lan_name = self.data.names.interner.name(self.data.names.decl(lan.instance, lan.decl).symbol).to_owned();
        let name = self.data.names.path(row.instance, row.decl, row.index);
        self.sink.push(
            Diagnostic::error(
                codes::GATEWAY_ELSEWHERE,
                format!("the gateway `{name}` is not on this lan"),
                self.tree.span(word),
            )
            .label("named as gateway here")
            .also(decl.span, "this router")
            .help(format!("add `on {lan_name}` to it")),
        );
    }

    fn ambiguous_gateway(&mut self, segment: u32, several: &[u32]) {
        let row = self.data.segments[segment as usize];
        let decl = *self.data.names.decl(row.instance, row.decl);
        let path = self.data.names.path(row.instance, row.decl, row.index);
        let mut it = Diagnostic::error(
            codes::AMBIGUOUS_GATEWAY,
            format!("{} routers are on `{path}`: which one is its gateway?", several.len()),
            decl.span,
        )
        .label("its VMs need one default route");
        let mut name = String::new();
        for interface in several.iter().take(3).rev() {
            let router = self.data.routers[self.data.interfaces[*interface as usize].router as usize];
            let router_decl = self.data.names.decl(router.instance, router.decl);
            name = self.data.names.interner.name(router_decl.symbol).to_owned();
            it = it.also(router_decl.span, "one of them");
        }
        let lan = self.data.names.interner.name(decl.symbol);
        self.sink.push(it.help(format!("`lan {lan} {{ gateway {name} }}`")));
    }
}
