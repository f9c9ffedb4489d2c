//! Routers, their interfaces on lans, and the links between them.

use super::World;
use super::eval::Env;
use crate::address::prefix::Prefix;
use crate::diag::{Diagnostic, codes};
use crate::plan::RouterKind;
use crate::plan::route::LAN_COST;
use crate::plan::rows::{InterfaceRow, LinkRow, Lists, On};
use crate::syntax::tree::{Expr, ExprId, Mark, StmtId};
use crate::vocab::{Kind, Ty, keyword};

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

/// A link before it has addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkSource {
    pub(crate) stmt: StmtId,
    /// Instance in which it is declared.
    pub(crate) instance: u32,
}

/// The words of `link A -- B as NAME`.
struct LinkHead {
    ends: [ExprId; 2],
    name: Option<ExprId>,
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

    /// Works out every link of every instance.
    pub(crate) fn links(&mut self) {
        for at in 0..self.links.len() {
            let loose = self.links[at];
            let Some(head) = self.link_head(loose.stmt) else { continue };
            for instance in 0..self.data.names.instances.len() as u32 {
                if self.data.names.instances[instance as usize].module == loose.module {
                    self.link(instance, loose.stmt, &head);
                }
            }
        }
    }

    fn link_head(&mut self, stmt: StmtId) -> Option<LinkHead> {
        let words = self.tree.words(stmt);
        let is = |word: ExprId, text: &str| {
            self.tree.as_name(word).is_some_and(|s| self.data.names.interner.name(s) == text)
        };
        let head = match *words {
            [_, first, ..] if is(first, "mesh") || is(first, "each") => {
                self.not_yet(if is(first, "mesh") { "link mesh" } else { "link each" }, self.tree.head_span(stmt));
                return None;
            }
            [_, _, mark, ..] if self.tree.expr(mark) == Expr::Mark(Mark::Transit) => {
                self.not_yet("->", self.tree.head_span(stmt));
                return None;
            }
            [_, a, mark, b] if self.tree.expr(mark) == Expr::Mark(Mark::Peer) => LinkHead { ends: [a, b], name: None },
            [_, a, mark, b, with, name]
                if self.tree.expr(mark) == Expr::Mark(Mark::Peer)
                    && is(with, "as")
                    && self.tree.as_name(name).is_some() =>
            {
                LinkHead { ends: [a, b], name: Some(name) }
            }
            _ => {
                if let Some(found) = keyword("link") {
                    self.bad_head(stmt, found);
                }
                return None;
            }
        };
        Some(head)
    }

    fn link(&mut self, instance: u32, stmt: StmtId, head: &LinkHead) -> Option<()> {
        let env = Env::of(instance);
        let [a, b] = head.ends;
        let (left, right) = (self.link_end(env, a), self.link_end(env, b));
        let (left, right) = (left?, right?);
        if left == right {
            self.sink.push(
                Diagnostic::error(codes::BAD_LINK, "a link joins two different routers", self.tree.head_span(stmt))
                    .label("both ends are the same"),
            );
            return None;
        }
        let prefix = self.instance_classes[self.class_of[instance as usize] as usize].prefix.clone();
        let text = |w: ExprId| self.tree.span(w).text(self.text).replace(' ', "");
        let name = match head.name {
            Some(name) => text(name),
            None => format!("{}--{}", text(a), text(b)),
        };
        let key = (instance, name.clone());
        let clash = self.link_names.get(&key).copied();
        if let Some(first) = clash {
            let mut it = Diagnostic::error(
                codes::BAD_LINK,
                format!("there is a link `{name}` already"),
                self.tree.head_span(stmt),
            )
            .label("a second one")
            .also(self.tree.head_span(first), "the first");
            if head.name.is_none() {
                it = it.help(format!("name it: `link {} -- {} as {}`", text(a), text(b), "second"));
            }
            self.sink.push(it);
            return None;
        }
        self.link_names.insert(key, stmt);
        let cost = self.link_number(env, stmt, "cost").unwrap_or(LAN_COST);
        let mtu = self.link_number(env, stmt, "mtu").unwrap_or(u32::from(super::lans::DEFAULT_MTU));
        let id = self.data.links.len() as u32;
        for (router, word) in [(left, a), (right, b)] {
            self.attaches.push(Attach { router, on: On::Link(id), host: 0, word });
        }
        self.data.links.push(LinkRow {
            name: format!("{prefix}{name}").into_boxed_str(),
            routers: [left, right],
            interfaces: [0, 0],
            prefix: Prefix::new(0, 31),
            cost,
            mtu: mtu as u16,
        });
        self.link_sources.push(LinkSource { stmt, instance });
        Some(())
    }

    /// The router at an end; other things cannot be linked.
    fn link_end(&mut self, env: Env, word: ExprId) -> Option<u32> {
        let selected = self.select(env, word, "router")?;
        if let Some(other) = selected.iter().find(|s| s.kind != Kind::Router) {
            let decl = *self.data.names.decl(other.instance, other.decl);
            let text = self.tree.span(word).text(self.text);
            self.sink.push(
                Diagnostic::error(
                    codes::BAD_LINK,
                    format!("`{text}` is {}: links join routers", decl.kind.a()),
                    self.tree.span(word),
                )
                .label("not a router")
                .also(decl.span, "declared here")
                .help("put both on a lan instead: `on LAN` in their blocks"),
            );
            return None;
        }
        self.one(env, word, &[Kind::Router], "router")
    }

    fn link_number(&mut self, env: Env, stmt: StmtId, word: &'static str) -> Option<u32> {
        let (clause, from_default) = self.property_of(stmt, "link", word)?;
        let env = if from_default { Env::of(0) } else { env };
        let value = self.want_int(env, clause.arg(0)?, clause.property.args[0].ty, word)?;
        u32::try_from(value).ok()
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
            };
            let row = &mut self.data.routers[attach.router as usize];
            if row.interface_count == 0 {
                row.first_interface = id;
            }
            row.interface_count += 1;
            self.data.interfaces.push(InterfaceRow { router: attach.router, on: attach.on, ip });
            self.interface_words.push(attach.word);
        }
        self.data.segment_interfaces = Lists::from_pairs(self.data.segments.len(), &pairs);
    }
}
