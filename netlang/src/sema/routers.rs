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
    /// Host number on a lan.
    pub(crate) host: u32,
    /// The word that says so.
    pub(crate) word: ExprId,
}

impl World<'_> {
    /// Works out every router: its kind and what it is on.
    pub(crate) fn routers(&mut self) {
        let block = Self::block_of("router");
        for router in 0..self.data.routers.len() as u32 {
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

    fn router_kind(&mut self, stmt: StmtId) -> RouterKind {
        let block = Self::block_of("router");
        let Some(ty) = block.iter().find(|p| p.word == "kind").map(|p| p.args[0].ty) else { return RouterKind::Linux };
        let word = match *self.tree.words(stmt) {
            [_, _, kind] => Some(kind),
            _ => self.property_of(stmt, "router", "kind").and_then(|(c, _)| c.arg(0)),
        };
        let Some(word) = word else { return RouterKind::Linux };
        match self.choice(word, ty, "kind") {
            Some("linux") | None => {}
            Some(kind) => self.not_yet(&format!("kind {kind}"), self.tree.span(word)),
        }
        RouterKind::Linux
    }

    /// `on seg[*] at 1`: an interface on each of the lans.
    fn attach(&mut self, router: u32, env: Env, stmt: StmtId, block: &'static [crate::vocab::Property]) -> Option<()> {
        let clause = self.clause(stmt, block)?;
        let lan = clause.arg(0)?;
        let segments = self.rows_of(env, lan, &[Kind::Lan], "lan")?;
        if clause.has("gateway") {
            self.not_yet("gateway of a router", self.tree.head_span(stmt));
        }
        let row = self.data.routers[router as usize];
        let (host, word) = match clause.option("at") {
            Some(word) => (self.want_int(env, word, Ty::HostNumber, "at")?, word),
            // The first router of an array takes 1, the next 2, and so on.
            None => (1 + i64::from(row.index.unwrap_or(0)), lan),
        };
        for segment in segments {
            let twice =
                self.attaches.iter().rev().take_while(|a| a.router == router).any(|a| a.on == On::Segment(segment));
            if twice {
                self.sink.push(
                    Diagnostic::error(codes::REPEATED, "this router is on that lan already", self.tree.span(lan))
                        .label("a second interface on the same lan"),
                );
                return None;
            }
            let host = u32::try_from(host).unwrap_or(u32::MAX);
            self.attaches.push(Attach { router, on: On::Segment(segment), host, word });
        }
        Some(())
    }

    /// Turns attachments into interfaces, sorted by router; lans come before links, as they were added.
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
                gateway: None,
                ospf: None,
            });
            self.interface_words.push(attach.word);
        }
        self.data.segment_interfaces = Lists::from_pairs(self.data.segments.len(), &pairs);
    }
}
