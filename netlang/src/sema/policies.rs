//! What lans do with frames besides carrying them, and who lends addresses there.
//!
//! What neither the lan nor `default lan` says is as fleet runs lans: a bridge that learns nothing, because it is told
//! every station, and that answers ARP itself.

use super::World;
use super::eval::Env;
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::plan::rows::On;
use crate::plan::{DhcpRange, LanPolicy, SwitchKind};
use crate::syntax::tree::{ExprId, StmtId};
use crate::vocab::Ty;
use hashbrown::HashMap;

/// Lease time in seconds when the file gives none: an hour.
const LEASE: u32 = 3600;

impl World<'_> {
    /// Works out the policy of every segment.
    pub(crate) fn lan_policies(&mut self) {
        let mut ids: HashMap<LanPolicy, u32> = HashMap::new();
        let mut same: HashMap<StmtId, u32> = HashMap::new();
        for segment in 0..self.data.segments.len() {
            let row = self.data.segments[segment];
            let stmt = self.data.names.decl(row.instance, row.decl).stmt;
            if let Some(policy) = same.get(&stmt) {
                self.data.segments[segment].policy = *policy;
                continue;
            }
            let env = self.element_env(row.instance, stmt, row.index);
            let policy = self.lan_policy(env, segment as u32, stmt);
            let next = self.data.lan_policies.len() as u32;
            self.data.segments[segment].policy = *ids.entry(policy).or_insert_with(|| {
                self.data.lan_policies.push(policy);
                next
            });
            // Only these have values, which instances and elements may have different ones of.
            let varies = ["storm", "dhcp"].into_iter().any(|word| self.child(stmt, word).is_some());
            if !varies && !self.broken_dhcp.contains(&(segment as u32)) {
                same.insert(stmt, self.data.segments[segment].policy);
            }
        }
    }

    fn lan_policy(&mut self, env: Env, segment: u32, stmt: StmtId) -> LanPolicy {
        LanPolicy {
            switch: match self.lan_choice(stmt, "switch") {
                Some("vde") => SwitchKind::Vde,
                _ => SwitchKind::Bridge,
            },
            isolate: self.property_of(stmt, "lan", "isolate").is_some(),
            learn: self.lan_choice(stmt, "learn") == Some("on"),
            flood_arp: self.lan_choice(stmt, "arp") == Some("flood"),
            storm: self.storm(env, stmt),
            dhcp: self.dhcp_range(env, segment, stmt),
        }
    }

    fn lan_choice(&mut self, stmt: StmtId, word: &'static str) -> Option<&'static str> {
        let (clause, _) = self.property_of(stmt, "lan", word)?;
        self.choice(clause.arg(0)?, clause.property.args[0].ty, word)
    }

    fn storm(&mut self, env: Env, stmt: StmtId) -> Option<u64> {
        let (clause, from_default) = self.property_of(stmt, "lan", "storm")?;
        let env = if from_default { Env::of(0) } else { env };
        let word = clause.arg(0)?;
        let Value::PacketRate(rate) = self.want(env, word, clause.property.args[0].ty, "storm")? else { return None };
        if rate == 0 {
            self.sink.push(
                Diagnostic::error(codes::OUT_OF_BOUNDS, "`storm` cannot be 0pps", self.tree.span(word))
                    .label("nobody could find anybody: at least 1pps"),
            );
            return None;
        }
        Some(rate)
    }

    fn dhcp_range(&mut self, env: Env, segment: u32, stmt: StmtId) -> Option<DhcpRange> {
        let (clause, from_default) = self.property_of(stmt, "lan", "dhcp")?;
        let env = if from_default { Env::of(0) } else { env };
        let found = self.dhcp_numbers(env, clause.arg(0)?);
        let lease = match clause.option("lease") {
            Some(word) => self.lease(env, word),
            None => Some(LEASE),
        };
        if found.is_none() {
            self.broken_dhcp.insert(segment);
        }
        let (first, until) = found?;
        Some(DhcpRange { first, until, lease: lease.unwrap_or(LEASE) })
    }

    fn dhcp_numbers(&mut self, env: Env, word: ExprId) -> Option<(u32, u32)> {
        let (first, until) = self.range(env, word)?;
        let span = self.tree.span(word);
        let text = span.text(self.text);
        if first >= until {
            self.sink.push(
                Diagnostic::error(codes::BAD_RANGE, format!("`{text}` has no host numbers"), span)
                    .label("a range ends before its second number"),
            );
            return None;
        }
        if first == 0 {
            self.sink.push(
                Diagnostic::error(codes::BAD_DHCP_RANGE, "host number 0 cannot be lent: it is the network's", span)
                    .label(format!("help: `1..{until}`")),
            );
            return None;
        }
        Some((u32::try_from(first).ok()?, u32::try_from(until).ok()?))
    }

    fn lease(&mut self, env: Env, word: ExprId) -> Option<u32> {
        let Value::Duration(time) = self.want(env, word, Ty::Duration, "lease")? else { return None };
        let seconds = u32::try_from(time / 1_000_000_000).ok().filter(|s| *s > 0 && time % 1_000_000_000 == 0);
        if seconds.is_none() {
            self.sink.push(
                Diagnostic::error(
                    codes::OUT_OF_BOUNDS,
                    format!("`lease` cannot be {}", self.tree.span(word).text(self.text)),
                    self.tree.span(word),
                )
                .label("DHCP counts whole seconds, in 32 bits"),
            );
        }
        seconds
    }

    /// What a segment lends by DHCP.
    pub(crate) fn dhcp_of(&self, segment: u32) -> Option<DhcpRange> {
        let policy = self.data.segments.get(segment as usize)?.policy;
        self.data.lan_policies.get(policy as usize)?.dhcp
    }

    /// Reports a NIC that asks for its address where nobody lends any.
    pub(crate) fn check_dhcp_nic(&mut self, lan: ExprId, segment: u32) {
        if self.dhcp_of(segment).is_some() || self.broken_dhcp.contains(&segment) {
            return;
        }
        let row = self.data.segments[segment as usize];
        let decl = self.data.names.decl(row.instance, row.decl);
        let name = self.data.names.interner.name(decl.symbol);
        self.sink.push(
            Diagnostic::error(codes::NO_DHCP, format!("`{name}` lends no addresses"), self.tree.span(lan))
                .label("the guest would ask, and nobody would answer")
                .also(decl.span, "this lan has no `dhcp`")
                .help(format!("`lan {name} {{ dhcp 100..200 }}`, or leave out `dhcp` here")),
        );
    }

    /// Checks each DHCP range against the lan's prefix, and that a router is there to serve it.
    pub(crate) fn verify_dhcp(&mut self) {
        for segment in 0..self.data.segments.len() as u32 {
            let Some(range) = self.dhcp_of(segment) else { continue };
            let row = self.data.segments[segment as usize];
            let decl = *self.data.names.decl(row.instance, row.decl);
            let Some((clause, _)) = self.property_of(decl.stmt, "lan", "dhcp") else { continue };
            let span = clause.arg(0).map_or(decl.span, |w| self.tree.span(w));
            let most = row.prefix.max_host_number();
            if u64::from(range.until) > most + 1 {
                let last = range.until - 1;
                self.sink.push(
                    Diagnostic::error(codes::BAD_DHCP_RANGE, format!("{} has no host number {last}", row.prefix), span)
                        .label(format!("host numbers go from 1 to {}", crate::text::thousands(most)))
                        .also(decl.span, "this lan")
                        .help(format!("`dhcp {}..{}`", u64::from(range.first).min(most), most + 1)),
                );
            }
            // Several routers on a lan with VMs: which one is the gateway was asked already.
            let asked =
                self.data.segment_interfaces.of(segment).len() > 1 && !self.data.segment_nics.of(segment).is_empty();
            if row.gateway.is_none() && self.broken_routers.is_empty() && !asked {
                let name = self.data.names.interner.name(decl.symbol);
                self.sink.push(
                    Diagnostic::error(codes::NO_DHCP_SERVER, format!("nobody lends addresses on `{name}`"), span)
                        .label("the gateway is who serves them")
                        .also(decl.span, "this lan has no gateway")
                        .help(format!("`router gw {{ on {name} }}`")),
                );
            }
        }
        for at in 0..self.attaches.len() {
            let attach = self.attaches[at];
            if let On::Segment(segment) = attach.on
                && let Some(range) = self.dhcp_of(segment)
                && (range.first..range.until).contains(&attach.host)
            {
                self.dhcp_number(attach.word, attach.host, range, false);
            }
        }
    }

    /// Reports a fixed host number on the wrong side of a DHCP range.
    pub(crate) fn dhcp_number(&mut self, word: ExprId, host: u32, range: DhcpRange, by_dhcp: bool) {
        let DhcpRange { first, until, .. } = range;
        let it = match by_dhcp {
            true => Diagnostic::error(
                codes::DHCP_NUMBER,
                format!("host number {host} is not lent on this lan"),
                self.tree.span(word),
            )
            .label(format!("`dhcp {first}..{until}` lends {first} to {}", until - 1))
            .help("another number, or leave out `dhcp`"),
            false => Diagnostic::error(
                codes::DHCP_NUMBER,
                format!("host number {host} is one that the lan lends"),
                self.tree.span(word),
            )
            .label(format!("`dhcp {first}..{until}` lends {first} to {}", until - 1))
            .help("another number, or for a VM `dhcp` behind it: then it is reserved"),
        };
        self.sink.push(it);
    }
}
