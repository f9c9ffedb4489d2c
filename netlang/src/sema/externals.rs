//! External networks: a host's interface, and the prefix on it.
//!
//! Their addresses are those of the world outside: they come from no pool and are not in the lock, but no lan may
//! overlap them where a router joins the two.

use super::World;
use super::eval::Env;
use super::value::Value;
use crate::address::prefix::Prefix;
use crate::diag::{Diagnostic, codes};
use crate::plan::rows::On;
use crate::source::Span;
use crate::syntax::tree::{ExprId, StmtId};
use crate::vocab::{Kind, Ty};
use hashbrown::HashMap;
use std::net::Ipv4Addr;

/// Stands for a prefix that could not be worked out: it has room for every address, so nothing is said twice.
pub(crate) const UNKNOWN: Prefix = Prefix::ALL;

/// The longest prefix of an external network: a line between two routers.
const LONGEST: u8 = 31;

/// The longest name of an interface on Linux: IFNAMSIZ less the zero at the end.
const LONGEST_INTERFACE: usize = 15;

impl World<'_> {
    /// Works out every external network.
    pub(crate) fn externals(&mut self) {
        for external in 0..self.data.externals.len() {
            let decl = *self.data.names.decl(0, self.data.externals[external].decl);
            let host = self.external_word(decl.stmt, decl.span, "host").and_then(|w| self.text_value(w, "host"));
            let interface = self.external_word(decl.stmt, decl.span, "interface").and_then(|w| self.interface_name(w));
            let prefix = self
                .external_word(decl.stmt, decl.span, "net")
                .and_then(|word| self.network_prefix(Env::of(0), word, Kind::External, LONGEST));
            let row = &mut self.data.externals[external];
            row.host = host.unwrap_or_default();
            row.interface = interface.unwrap_or_default();
            row.prefix = prefix.unwrap_or(UNKNOWN);
        }
    }

    fn external_word(&mut self, stmt: StmtId, name: Span, word: &'static str) -> Option<ExprId> {
        let block = Self::block_of("external");
        if self.child(stmt, word).is_none() && !self.tree.stmt(stmt).broken {
            let example = match word {
                "host" => "`host \"edge01\"`: the host that has the interface",
                "interface" => "`interface \"eth1\"`: the interface of the host",
                _ => "`net 192.0.2.0/30`: the prefix on that interface",
            };
            self.sink.push(
                Diagnostic::error(codes::MISSING, format!("this external network has no `{word}`"), name)
                    .label("all of `host`, `interface` and `net` are needed")
                    .help(format!("add {example}")),
            );
        }
        self.find_clause(stmt, block, word)?.arg(0)
    }

    /// A text that is not empty.
    fn text_value(&mut self, word: ExprId, what: &str) -> Option<Box<str>> {
        let Value::Text(span) = self.want(Env::of(0), word, Ty::Text, what)? else { return None };
        let text = span.text(self.text).trim_matches('"');
        if text.is_empty() {
            self.sink.push(
                Diagnostic::error(codes::OUT_OF_BOUNDS, format!("`{what}` is empty"), span).label("a name is wanted"),
            );
            return None;
        }
        Some(text.into())
    }

    fn interface_name(&mut self, word: ExprId) -> Option<Box<str>> {
        let name = self.text_value(word, "interface")?;
        if name.len() > LONGEST_INTERFACE || name.contains(|c: char| c == '/' || c.is_whitespace()) {
            self.sink.push(
                Diagnostic::error(
                    codes::OUT_OF_BOUNDS,
                    format!("no interface can be named `{name}`"),
                    self.tree.span(word),
                )
                .label(format!("at most {LONGEST_INTERFACE} characters, no `/` and no spaces")),
            );
            return None;
        }
        Some(name)
    }

    /// Checks the addresses on external networks: numbers, gateways, and that no two have the same.
    pub(crate) fn verify_externals(&mut self) {
        let mut owners: HashMap<(u32, u32), ExprId> = HashMap::new();
        let mut uplinks: HashMap<u32, ExprId> = HashMap::new();
        for at in 0..self.attaches.len() {
            let attach = self.attaches[at];
            let On::External(external) = attach.on else { continue };
            let row = &self.data.externals[external as usize];
            let (prefix, declared) = (row.prefix, self.data.names.decl(0, row.decl).span);
            if prefix == UNKNOWN {
                continue;
            }
            let span = self.tree.span(attach.word);
            if !is_host_number(prefix, attach.host) {
                self.sink.push(
                    Diagnostic::error(
                        codes::OUTSIDE_PREFIX,
                        format!("{prefix} has no host number {}", attach.host),
                        span,
                    )
                    .label(numbers(prefix))
                    .also(declared, "this external network"),
                );
                continue;
            }
            if let Some(first) = owners.insert((external, attach.host), attach.word) {
                let ip = Ipv4Addr::from(prefix.first() + attach.host);
                let mut it = Diagnostic::error(
                    codes::DUPLICATE_ADDRESS,
                    format!("two routers have the address {ip} on one external network"),
                    span,
                )
                .label(format!("host number {}", attach.host));
                if first != attach.word {
                    it = it.also(self.tree.span(first), "the same here");
                }
                self.sink.push(it.help("another number after `at` for one of them"));
            }
            let Some((gateway, word)) = attach.gateway else { continue };
            let span = self.tree.span(word);
            if gateway == attach.host || !is_host_number(prefix, gateway) {
                let (message, label) = match gateway == attach.host {
                    true => ("the gateway is the router itself".to_owned(), "the same number as after `at`".to_owned()),
                    false => (format!("the gateway would be outside of {prefix}"), numbers(prefix)),
                };
                self.sink.push(
                    Diagnostic::error(codes::BAD_UPLINK, message, span)
                        .label(label)
                        .also(declared, "this external network")
                        .help("give the host number of the router outside that leads on"),
                );
            }
            if let Some(first) = uplinks.insert(attach.router, word)
                && first != word
            {
                let name = self.data.router_name(attach.router);
                self.sink.push(
                    Diagnostic::error(codes::TWO_UPLINKS, format!("`{name}` has two default gateways"), span)
                        .label("a second one")
                        .also(self.tree.span(first), "the first")
                        .help("leave out one of them, or give each its own router"),
                );
            }
        }
    }
}

/// Whether a host can have this number. Of a /31 both are good.
fn is_host_number(prefix: Prefix, number: u32) -> bool {
    (prefix.len() == 31 || number > 0) && u64::from(number) <= prefix.max_host_number()
}

fn numbers(prefix: Prefix) -> String {
    let least = u32::from(prefix.len() < 31);
    format!("host numbers go from {least} to {}", crate::text::thousands(prefix.max_host_number()))
}
