//! Routers and their interfaces.

use super::World;
use super::eval::Env;
use crate::diag::{Diagnostic, codes};
use crate::plan::RouterKind;
use crate::plan::rows::{InterfaceRow, Lists, On};
use crate::syntax::tree::{ExprId, StmtId};
use crate::vocab::{Kind, Ty};

/// An interface that a router will have. Its address comes later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attach {
    pub(crate) router: u32,
    pub(crate) on: On,
    /// Host number on a lan or external network.
    pub(crate) host: u32,
    /// The word that says so.
    pub(crate) word: ExprId,
    /// Host number of the gateway on an external network, and its word.
    pub(crate) gateway: Option<(u32, ExprId)>,
}

impl World<'_> {
    /// Works out every router: its kind and what it is on.
    pub(crate) fn routers(&mut self) {
        let block = Self::block_of("router");
        for router in 0..self.data.routers.len() as u32 {
            if self.sink.is_flooded() {
                return;
            }
            let row = self.data.routers[router as usize];
            let stmt = self.data.names.decl(row.instance, row.decl).stmt;
            self.data.routers[router as usize].kind = self.router_kind(stmt);
            let env = self.element_env(row.instance, stmt, row.index);
            let mut next = self.tree.children(Some(stmt)).next();
            while let Some(child) = next {
                next = self.tree.sibling(child);
                if self.tree.keyword(child).map(|k| self.data.names.interner.name(k)) != Some("on") {
                    continue;
                }
                if self.attach(router, env, child, block).is_none() {
                    self.broken_routers.insert(router);
                }
            }
        }
    }

    /// What the file says, or frr for a router that speaks OSPF or BGP, or else the kernel with static routes.
    fn router_kind(&mut self, stmt: StmtId) -> RouterKind {
        let block = Self::block_of("router");
        let Some(ty) = block.iter().find(|p| p.word == "kind").map(|p| p.args[0].ty) else { return RouterKind::Linux };
        let word = match *self.tree.words(stmt) {
            [_, _, kind] => Some(kind),
            _ => self.property_of(stmt, "router", "kind").and_then(|(c, _)| c.arg(0)),
        };
        let speaks = ["ospf", "bgp"].into_iter().find_map(|protocol| Some((protocol, self.part(stmt, protocol)?.0)));
        let Some(word) = word else {
            return if speaks.is_some() { RouterKind::Frr } else { RouterKind::Linux };
        };
        let kind = match self.choice(word, ty, "kind") {
            Some("frr") => RouterKind::Frr,
            Some("bird") => RouterKind::Bird,
            Some("vm") => RouterKind::Vm,
            Some(_) => RouterKind::Linux,
            // A slip: the router is whatever fits the rest.
            None => return if speaks.is_some() { RouterKind::Frr } else { RouterKind::Linux },
        };
        match (kind, speaks) {
            (RouterKind::Linux, Some((protocol, block))) => {
                let name = self.tree.words(stmt).get(1).map_or("", |w| self.tree.span(*w).text(self.text));
                self.sink.push(
                    Diagnostic::error(
                        codes::KIND_CANNOT,
                        format!("a router of the kind `linux` does not speak {}", protocol.to_uppercase()),
                        self.tree.head_span(block),
                    )
                    .label("needs a routing daemon")
                    .also(self.tree.span(word), "the kernel alone, with static routes")
                    .help(format!("`router {name} frr`, or no kind at all")),
                );
            }
            (RouterKind::Linux, None) => {}
            _ => self.not_yet(&format!("kind {}", self.tree.span(word).text(self.text)), self.tree.span(word)),
        }
        kind
    }

    /// A block such as `ospf` of a router, its own or that of `default router`, which then is the flag.
    pub(crate) fn part(&self, stmt: StmtId, word: &str) -> Option<(StmtId, bool)> {
        if let Some(own) = self.child(stmt, word) {
            return Some((own, false));
        }
        let (_, default) = self.defaults.iter().find(|(kind, _)| *kind == "router")?;
        Some((self.child(*default, word)?, true))
    }

    /// `on seg[*] at 1`: an interface on each of the lans. `on isp at 2 gateway 1`: one on an external network.
    fn attach(&mut self, router: u32, env: Env, stmt: StmtId, block: &'static [crate::vocab::Property]) -> Option<()> {
        let clause = self.clause(stmt, block)?;
        let net = clause.arg(0)?;
        let selected = self.select(env, net, "lan or external network")?;
        let is_external = selected.first().is_some_and(|s| s.kind == Kind::External);
        let kind = if is_external { Kind::External } else { Kind::Lan };
        let rows = self.rows_of(env, net, &[kind], "lan")?;
        let row = self.data.routers[router as usize];
        let (host, word) = match clause.option("at") {
            Some(word) => (self.want_int(env, word, Ty::HostNumber, "at")?, word),
            None if is_external => {
                let text = self.tree.span(net).text(self.text);
                self.sink.push(
                    Diagnostic::error(
                        codes::MISSING,
                        "which address has the router on the external network?",
                        self.tree.span(net),
                    )
                    .label("fleet cannot know what is free outside")
                    .help(format!("`on {text} at 2`, or any other host number of its prefix")),
                );
                return None;
            }
            // The first router of an array takes 1, the next 2, and so on.
            None => (1 + i64::from(row.index.unwrap_or(0)), net),
        };
        let gateway = match clause.option("gateway") {
            Some(word) if is_external => {
                let number = self.want_int(env, word, Ty::HostNumber, "gateway")?;
                Some((u32::try_from(number).unwrap_or(u32::MAX), word))
            }
            Some(word) => {
                self.sink.push(
                    Diagnostic::error(
                        codes::BAD_UPLINK,
                        "only on an external network a router has a gateway",
                        self.tree.span(word),
                    )
                    .label("this is a lan")
                    .help("routers of the file find their ways themselves: leave `gateway` out"),
                );
                return None;
            }
            None => None,
        };
        let host = u32::try_from(host).unwrap_or(u32::MAX);
        for row in rows {
            let on = if is_external { On::External(row) } else { On::Segment(row) };
            let twice = self.attaches.iter().rev().take_while(|a| a.router == router).any(|a| a.on == on);
            if twice {
                let (what, net_word) = if is_external { ("external network", "network") } else { ("lan", "lan") };
                self.sink.push(
                    Diagnostic::error(
                        codes::REPEATED,
                        format!("this router is on that {what} already"),
                        self.tree.span(net),
                    )
                    .label(format!("a second interface on the same {net_word}")),
                );
                return None;
            }
            self.attaches.push(Attach { router, on, host, word, gateway });
        }
        Some(())
    }

    /// Turns attachments into interfaces, sorted by router; lans and external networks come before links, as they were
    /// added.
    pub(crate) fn interfaces(&mut self) {
        let mut order: Vec<u32> = (0..self.attaches.len() as u32).collect();
        order.sort_by_key(|a| self.attaches[*a as usize].router);
        let mut pairs = Vec::new();
        for at in order {
            let attach = self.attaches[at as usize];
            let id = self.data.interfaces.len() as u32;
            let ip = match attach.on {
                On::Segment(s) => {
                    pairs.push((s, id));
                    self.data.segments[s as usize].prefix.first().saturating_add(attach.host)
                }
                On::Link(l) => {
                    let link = &mut self.data.links[l as usize];
                    let end = usize::from(link.routers[0] != attach.router);
                    link.interfaces[end] = id;
                    let first = link.prefix.first() + u32::from(link.prefix.len() < 31);
                    first.saturating_add(end as u32)
                }
                On::External(e) => self.data.externals[e as usize].prefix.first().saturating_add(attach.host),
            };
            let row = &mut self.data.routers[attach.router as usize];
            if row.interface_count == 0 {
                row.first_interface = id;
            }
            row.interface_count += 1;
            self.data.interfaces.push(InterfaceRow {
                router: attach.router,
                on: attach.on,
                ip,
                gateway: match (attach.on, attach.gateway) {
                    (On::External(e), Some((number, _))) => {
                        Some(self.data.externals[e as usize].prefix.first().saturating_add(number))
                    }
                    _ => None,
                },
                ospf: None,
            });
            self.interface_words.push(attach.word);
        }
        self.data.segment_interfaces = Lists::from_pairs(self.data.segments.len(), &pairs);
    }
}
