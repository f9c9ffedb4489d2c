//! Firewalls: what a router lets through, rule by rule; the first that matches wins.

use super::World;
use super::eval::Env;
use super::zones::ZoneCache;
use crate::diag::{Diagnostic, codes};
use crate::plan::Protocol;
use crate::plan::routing::{FirewallRow, PortList, RuleRow, Zone};
use crate::syntax::tree::{Expr, ExprId, StmtId};
use crate::vocab::Ty;

/// A port.
pub(crate) const PORT: Ty = Ty::Int(1, 65_535);

impl World<'_> {
    /// Works out every firewall. All addresses must be known.
    pub(crate) fn firewalls(&mut self) {
        let mut cache = ZoneCache::new();
        for router in 0..self.data.routers.len() {
            let row = self.data.routers[router];
            let stmt = self.data.names.decl(row.instance, row.decl).stmt;
            let Some((block, from_default)) = self.part(stmt, "firewall") else { continue };
            let own = self.element_env(row.instance, stmt, row.index);
            let env = if from_default { Env::of(0) } else { own };
            let first_rule = self.data.rules.len() as u32;
            let (default_allow, default_span) = self.firewall_default(block);
            let mut next = self.tree.children(Some(block)).next();
            while let Some(rule) = next {
                next = self.tree.sibling(rule);
                self.rule(env, rule, &mut cache);
            }
            self.data.routers[router].firewall = Some(self.data.firewalls.len() as u32);
            let rule_count = self.data.rules.len() as u32 - first_rule;
            self.data.firewalls.push(FirewallRow { first_rule, rule_count, default_allow, default_span });
        }
    }

    /// A firewall that does not say what becomes of the rest drops it.
    fn firewall_default(&mut self, block: StmtId) -> (bool, crate::source::Span) {
        let clauses = Self::part_block("firewall");
        let Some(stmt) = self.child(block, "default") else { return (false, self.tree.head_span(block)) };
        let span = self.tree.head_span(stmt);
        let verdict = self.clause(stmt, clauses).and_then(|clause| {
            let word = clause.arg(0)?;
            self.choice(word, clause.property.args[0].ty, "default")
        });
        (verdict == Some("accept"), span)
    }

    /// `allow tcp 80, 443 from guests to outside`
    fn rule(&mut self, env: Env, stmt: StmtId, cache: &mut ZoneCache) -> Option<()> {
        let clauses = Self::part_block("firewall");
        let clause = self.clause(stmt, clauses)?;
        let allow = match clause.property.word {
            "allow" => true,
            "deny" => false,
            _ => return None,
        };
        let protocol = match clause.arg(0) {
            Some(word) => Some(self.protocol(word, clause.property.args[0].ty)?),
            None => None,
        };
        let mut ports = PortList::new();
        for word in clause.args(1) {
            if !matches!(protocol, Some(Protocol::Tcp | Protocol::Udp)) {
                self.ports_of_nothing(word, protocol);
                return None;
            }
            ports.push(self.ports(env, word)?);
        }
        ports.sort_unstable();
        let from = self.end(env, clause.option("from"), cache);
        let to = self.end(env, clause.option("to"), cache);
        let span = self.tree.head_span(stmt);
        self.data.rules.push(RuleRow { allow, protocol, ports, from: from?, to: to?, span });
        Some(())
    }

    fn end(&mut self, env: Env, word: Option<ExprId>, cache: &mut ZoneCache) -> Option<Zone> {
        match word {
            Some(word) => self.zone(env, word, cache),
            None => Some(Zone::Any),
        }
    }

    /// The protocol that a word names.
    pub(crate) fn protocol(&mut self, word: ExprId, ty: Ty) -> Option<Protocol> {
        Some(match self.choice(word, ty, "protocol")? {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => Protocol::Icmp,
        })
    }

    /// A port or a half-open range of ports, as first and last.
    fn ports(&mut self, env: Env, word: ExprId) -> Option<(u16, u16)> {
        let Expr::Range(from, until) = self.tree.expr(word) else {
            let port = self.want_int(env, word, PORT, "port")? as u16;
            return Some((port, port));
        };
        let from = self.want_int(env, from, PORT, "port")?;
        let until = self.want_int(env, until, Ty::Int(1, 65_536), "port")?;
        if from >= until {
            let span = self.tree.span(word);
            let text = span.text(self.text);
            self.sink.push(
                Diagnostic::error(codes::BAD_RANGE, format!("`{text}` has no ports"), span)
                    .label("a range ends before its second number"),
            );
            return None;
        }
        // Both are within bounds: 1..=65535 and 2..=65536.
        Some((from as u16, (until - 1) as u16))
    }

    fn ports_of_nothing(&mut self, word: ExprId, protocol: Option<Protocol>) {
        let span = self.tree.span(word);
        let text = span.text(self.text);
        let it = Diagnostic::error(codes::BAD_WORDS, "only tcp and udp have ports", span);
        self.sink.push(match protocol {
            Some(_) => it.label("icmp has none: leave it out"),
            None => it.label("of which protocol?").help(format!("`tcp {text}` or `udp {text}`")),
        });
    }
}
