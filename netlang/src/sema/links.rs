//! Links: `A -- B`, `mesh SET`, `each SET -> K of SET`.
//!
//! A link's block of addresses is an element of its statement's array, at a place that depends on the two ends alone,
//! so that a router more or less moves no other link: a mesh has its links at `j * (j - 1) / 2 + i` for the elements
//! i < j, `each` that of elements i and j at (i, j). Which routers `each` chooses is decided by rendezvous hashing of
//! the two paths: a router that is added or removed changes only the links that it wins or had.
//!
//! For very many routers all pairs would need more addresses than there are. Then the links of element i are at (i, 0),
//! (i, 1), … in the order of preference: one that it wins or loses may renumber its other ones, but nobody else's.

use super::World;
use super::allot::grow;
use super::eval::Env;
use super::value::Value;
use crate::address::extents::Place;
use crate::address::prefix::Prefix;
use crate::diag::{Diagnostic, codes};
use crate::plan::LinkPolicy;
use crate::plan::route::LAN_COST;
use crate::plan::rows::{LinkRow, On, Relation};
use crate::source::Span;
use crate::syntax::tree::{Expr, ExprId, Mark, StmtId};
use crate::text::{fnv64, mix64};
use crate::vocab::{Kind, Ty, keyword};
use hashbrown::{HashMap, HashSet};

/// Links that a plan has at most.
const MAX_LINKS: u64 = 400_000;
/// Pairs of routers that one `each` compares.
const MAX_PAIRS: u64 = 1 << 25;

/// Links whose blocks are one array in the lock.
#[derive(Debug)]
pub(crate) struct LinkClass {
    /// Path in the lock.
    pub(crate) key: String,
    /// The most elements in each dimension.
    pub(crate) sizes: Place,
    /// The same for places by preference, of `each`.
    pub(crate) ranked_sizes: Place,
    pub(crate) span: Span,
}

/// A link before it has addresses.
#[derive(Debug, Clone)]
pub(crate) struct LinkSource {
    /// Entry of [`World::link_classes`].
    pub(crate) class: u32,
    /// Its place in the array of its class.
    pub(crate) place: Place,
    /// Its place by preference, of `each`.
    pub(crate) ranked: Option<Place>,
}

/// What the words of a link say.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// `A -- B`
    Plain([ExprId; 2]),
    /// `mesh SET`
    Mesh(ExprId),
    /// `each SET -- K of SET`
    Each { from: ExprId, count: ExprId, to: ExprId },
}

/// The words of a link statement.
#[derive(Debug, Clone, Copy)]
struct LinkHead {
    shape: Shape,
    relation: Relation,
    name: Option<ExprId>,
}

/// What all links of a statement in an instance have in common.
struct Common {
    instance: u32,
    stmt: StmtId,
    head: LinkHead,
    class: u32,
    policy: u32,
    cost: u32,
    mtu: u16,
}

impl World<'_> {
    /// Works out every link of every instance.
    pub(crate) fn links(&mut self) {
        let mut classes: HashMap<String, u32> = HashMap::new();
        let mut policies: HashMap<LinkPolicy, u32> = HashMap::new();
        for at in 0..self.links.len() {
            let loose = self.links[at];
            let Some(head) = self.link_head(loose.stmt) else { continue };
            for of in 0..self.module_instances[loose.module as usize].len() {
                if self.sink.is_flooded() {
                    return;
                }
                let instance = self.module_instances[loose.module as usize][of];
                let first = self.data.links.len() as u32;
                self.link(instance, loose.stmt, head, &mut classes, &mut policies);
                self.name_links(instance, head, first);
            }
        }
    }

    fn link_head(&mut self, stmt: StmtId) -> Option<LinkHead> {
        let words = self.tree.words(stmt);
        let is = |word: ExprId, text: &str| {
            self.tree.as_name(word).is_some_and(|s| self.data.names.interner.name(s) == text)
        };
        let relation = |word: ExprId| match self.tree.expr(word) {
            Expr::Mark(Mark::Peer) => Some(Relation::Peer),
            Expr::Mark(Mark::Transit) => Some(Relation::Transit),
            _ => None,
        };
        let (words, name) = match words {
            [before @ .., with, name] if is(*with, "as") && self.tree.as_name(*name).is_some() => (before, Some(*name)),
            _ => (words, None),
        };
        let found = match *words {
            [_, mesh, set] if is(mesh, "mesh") => Some((Shape::Mesh(set), Relation::Peer)),
            [_, each, from, mark, count, of, to] if is(each, "each") && is(of, "of") => {
                relation(mark).map(|r| (Shape::Each { from, count, to }, r))
            }
            [_, a, mark, b] => relation(mark).map(|r| (Shape::Plain([a, b]), r)),
            _ => None,
        };
        let Some((shape, relation)) = found else {
            keyword("link").into_iter().for_each(|found| self.bad_head(stmt, found));
            return None;
        };
        Some(LinkHead { shape, relation, name })
    }

    fn link(
        &mut self,
        instance: u32,
        stmt: StmtId,
        head: LinkHead,
        classes: &mut HashMap<String, u32>,
        policies: &mut HashMap<LinkPolicy, u32>,
    ) -> Option<()> {
        let env = Env::of(instance);
        let cost = self.link_number(env, stmt, "cost").unwrap_or(LAN_COST);
        let mtu = self.link_number(env, stmt, "mtu").unwrap_or(u32::from(super::lans::DEFAULT_MTU)) as u16;
        let policy = self.link_policy(env, stmt);
        let next = self.data.link_policies.len() as u32;
        let policy = *policies.entry(policy).or_insert_with(|| {
            self.data.link_policies.push(policy);
            next
        });
        let key = self.link_key(instance, head);
        let span = self.tree.head_span(stmt);
        let next = self.link_classes.len() as u32;
        let class = *classes.entry(key).or_insert_with_key(|key| {
            self.link_classes.push(LinkClass {
                key: key.clone(),
                sizes: Place::new(),
                ranked_sizes: Place::new(),
                span,
            });
            next
        });
        let common = Common { instance, stmt, head, class, policy, cost, mtu };
        match head.shape {
            Shape::Plain([a, b]) => self.plain_link(env, &common, a, b),
            Shape::Mesh(set) => self.mesh(env, &common, set),
            Shape::Each { from, count, to } => self.each(env, &common, from, count, to),
        }
    }

    /// The path in the lock: the link's name or its words, within its instance.
    fn link_key(&self, instance: u32, head: LinkHead) -> String {
        let prefix = &self.instance_classes[self.class_of[instance as usize] as usize].prefix;
        let text = |w: ExprId| self.tree.span(w).text(self.text).replace(char::is_whitespace, "");
        let own = match (head.name, head.shape) {
            (Some(name), _) => text(name),
            (None, Shape::Plain([a, b])) => format!("{}--{}", text(a), text(b)),
            (None, Shape::Mesh(set)) => format!("mesh:{}", text(set)),
            (None, Shape::Each { from, to, .. }) => format!("each:{}--{}", text(from), text(to)),
        };
        format!("{prefix}{own}")
    }

    fn plain_link(&mut self, env: Env, common: &Common, a: ExprId, b: ExprId) -> Option<()> {
        let (left, right) = (self.link_end(env, a), self.link_end(env, b));
        let (left, right) = (left?, right?);
        if left == right {
            self.sink.push(
                Diagnostic::error(
                    codes::BAD_LINK,
                    "a link joins two different routers",
                    self.tree.head_span(common.stmt),
                )
                .label("both ends are the same"),
            );
            return None;
        }
        let text = |w: ExprId| self.tree.span(w).text(self.text).replace(char::is_whitespace, "");
        let name = match common.head.name {
            Some(name) => text(name),
            None => format!("{}--{}", text(a), text(b)),
        };
        let key = (common.instance, name.clone());
        if let Some(first) = self.link_names.get(&key).copied() {
            let mut it = Diagnostic::error(
                codes::BAD_LINK,
                format!("there is a link `{name}` already"),
                self.tree.head_span(common.stmt),
            )
            .label("a second one")
            .also(self.tree.head_span(first), "the first");
            if common.head.name.is_none() {
                it = it.help(format!("name it: `link {} -- {} as {}`", text(a), text(b), "second"));
            }
            self.sink.push(it);
            return None;
        }
        self.link_names.insert(key, common.stmt);
        let prefix = &self.instance_classes[self.class_of[common.instance as usize] as usize].prefix;
        let name = format!("{prefix}{name}").into_boxed_str();
        let place = self.place_of(common.instance);
        self.push_link(common, Some(name), [left, right], [a, b], place, None);
        Some(())
    }

    fn mesh(&mut self, env: Env, common: &Common, set: ExprId) -> Option<()> {
        let routers = self.link_ends(env, set)?;
        let pairs = routers.len() as u64 * (routers.len() as u64).saturating_sub(1) / 2;
        if routers.len() < 2 {
            self.sink.push(
                Diagnostic::error(codes::BAD_LINK, "a mesh of one router has no links", self.tree.span(set))
                    .label("at least two routers are needed"),
            );
            return None;
        }
        self.room_for_links(pairs, set)?;
        let places: Vec<Place> = routers.iter().map(|r| self.relative_router_place(*r, common.instance)).collect();
        let base = self.place_of(common.instance);
        for (n, right) in routers.iter().enumerate() {
            for (m, left) in routers[..n].iter().enumerate() {
                let mut place = base.clone();
                match (&places[m][..], &places[n][..]) {
                    // The closed form: a mesh that grows only adds links behind those that there are.
                    ([i], [j]) => {
                        let slot = u64::from(*j) * u64::from(j.saturating_sub(1)) / 2 + u64::from(*i);
                        // Far beyond what there may be of links: indices that are few, but very large.
                        let Ok(slot) = u32::try_from(slot) else { return self.room_for_links(u64::MAX, set) };
                        place.push(slot);
                    }
                    (i, j) => place.extend(i.iter().chain(j).copied()),
                }
                self.push_link(common, None, [*left, *right], [set, set], place, None);
            }
        }
        Some(())
    }

    fn each(&mut self, env: Env, common: &Common, from: ExprId, count: ExprId, to: ExprId) -> Option<()> {
        let (left, right) = (self.link_ends(env, from), self.link_ends(env, to));
        let wanted = self.want_int(env, count, Ty::Int(1, 1 << 16), "each")? as usize;
        let (left, right) = (left?, right?);
        if left.len() as u64 * right.len() as u64 > MAX_PAIRS {
            self.room_for_links(u64::MAX, to)?;
        }
        self.room_for_links(left.len() as u64 * wanted as u64, to)?;
        let hash = |r: &u32| {
            let row = &self.data.routers[*r as usize];
            fnv64(self.data.names.path(row.instance, row.decl, row.index).as_bytes())
        };
        let (left_hash, right_hash): (Vec<u64>, Vec<u64>) =
            (left.iter().map(hash).collect(), right.iter().map(hash).collect());
        let mut chosen: Vec<(u32, u32, u32)> = Vec::with_capacity(left.len() * wanted);
        let mut scores: Vec<(u64, u32)> = Vec::with_capacity(right.len());
        for (x, x_hash) in left.iter().zip(&left_hash) {
            scores.clear();
            let others = right.iter().zip(&right_hash).filter(|(y, _)| *y != x);
            scores.extend(others.map(|(y, y_hash)| (mix64(x_hash ^ y_hash.rotate_left(32)), *y)));
            if scores.len() < wanted {
                self.too_few(to, wanted, scores.len());
                return None;
            }
            if wanted < scores.len() {
                scores.select_nth_unstable_by(wanted - 1, |a, b| b.cmp(a));
                scores.truncate(wanted);
            }
            scores.sort_unstable_by(|a, b| b.cmp(a));
            chosen.extend((0..).zip(&scores).map(|(rank, (_, y))| (*x, *y, rank)));
        }
        self.push_chosen(common, [from, to], &left, &right, &chosen);
        Some(())
    }

    /// Makes the links of `each`, given as (element, choice, rank of the choice).
    fn push_chosen(
        &mut self,
        common: &Common,
        words: [ExprId; 2],
        left: &[u32],
        right: &[u32],
        chosen: &[(u32, u32, u32)],
    ) {
        let places = |routers: &[u32]| -> HashMap<u32, Place> {
            routers.iter().map(|r| (*r, self.relative_router_place(*r, common.instance))).collect()
        };
        let (left, right) = (places(left), places(right));
        let base = self.place_of(common.instance);
        let mut seen: HashSet<(u32, u32)> = HashSet::new();
        for (x, y, rank) in chosen {
            let (mut x, mut y) = (*x, *y);
            // Peers that could have chosen each other: one link, and the same whoever chose.
            if common.head.relation == Relation::Peer
                && right.contains_key(&x)
                && left.contains_key(&y)
                && left[&y] < left[&x]
            {
                std::mem::swap(&mut x, &mut y);
            }
            if !seen.insert((x, y)) || (common.head.relation == Relation::Transit && seen.contains(&(y, x))) {
                continue;
            }
            let (mut place, mut ranked) = (base.clone(), base.clone());
            place.extend(left[&x].iter().chain(&right[&y]).copied());
            ranked.extend(left[&x].iter().copied());
            ranked.push(*rank);
            self.push_link(common, None, [x, y], words, place, Some(ranked));
        }
    }

    fn too_few(&mut self, set: ExprId, wanted: usize, found: usize) {
        let span = self.tree.span(set);
        let others = if found == 1 { "only one other".to_owned() } else { format!("only {found} others") };
        self.sink.push(
            Diagnostic::error(
                codes::TOO_FEW_PEERS,
                format!("each router is to have {wanted} links, of {others}"),
                span,
            )
            .label(format!("{found} to choose from"))
            .help(match found {
                0 => "leave the line out, or add routers".to_owned(),
                n => format!("`{n} of {}`", span.text(self.text)),
            }),
        );
    }

    fn room_for_links(&mut self, more: u64, word: ExprId) -> Option<()> {
        if more.saturating_add(self.data.links.len() as u64) <= MAX_LINKS {
            return Some(());
        }
        let most = crate::text::thousands(MAX_LINKS);
        self.sink.push(
            Diagnostic::error(codes::TOO_LARGE, format!("more than {most} links"), self.tree.span(word))
                .label("with these the file has too many"),
        );
        None
    }

    fn push_link(
        &mut self,
        common: &Common,
        name: Option<Box<str>>,
        routers: [u32; 2],
        words: [ExprId; 2],
        place: Place,
        ranked: Option<Place>,
    ) {
        let class = &mut self.link_classes[common.class as usize];
        grow(&mut class.sizes, &place);
        if let Some(ranked) = &ranked {
            grow(&mut class.ranked_sizes, ranked);
        }
        let id = self.data.links.len() as u32;
        for (router, word) in routers.into_iter().zip(words) {
            self.attaches.push(super::routers::Attach { router, on: On::Link(id), host: 0, word, gateway: None });
        }
        self.data.links.push(LinkRow {
            name,
            stmt: common.stmt,
            relation: common.head.relation,
            policy: common.policy,
            routers,
            interfaces: [0, 0],
            prefix: Prefix::new(0, 31),
            cost: common.cost,
            mtu: common.mtu,
        });
        self.link_sources.push(LinkSource { class: common.class, place, ranked });
    }

    /// Gives the declared name of a link statement its rows.
    fn name_links(&mut self, instance: u32, head: LinkHead, first: u32) {
        let Some(symbol) = head.name.and_then(|n| self.tree.as_name(n)) else { return };
        let module = self.data.names.instances[instance as usize].module;
        let Some(decl) = self.data.names.modules[module as usize].table.get(&symbol).copied() else { return };
        let count = self.data.links.len() as u32 - first;
        if self.data.names.decl(instance, decl).kind == Kind::Link
            && let Some(rows) = self.data.names.instances[instance as usize].rows.get_mut(decl as usize)
        {
            *rows = crate::plan::names::Rows { base: first, first: 0, count, is_array: false };
        }
    }

    /// The indices of a router below an instance.
    fn relative_router_place(&self, router: u32, scope: u32) -> Place {
        let row = &self.data.routers[router as usize];
        let mut place = self.place_of(row.instance);
        place.extend(row.index);
        let mut at = row.instance;
        while at != 0 && at != scope {
            at = self.data.names.instances[at as usize].parent;
        }
        let shared = if at == scope { self.place_of(scope).len() } else { 0 };
        place.drain(..shared);
        place
    }

    /// The routers at an end; other things cannot be linked.
    fn link_ends(&mut self, env: Env, word: ExprId) -> Option<Vec<u32>> {
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
        self.rows_of(env, word, &[Kind::Router], "router")
    }

    fn link_end(&mut self, env: Env, word: ExprId) -> Option<u32> {
        self.link_ends(env, word)?;
        self.one(env, word, &[Kind::Router], "router")
    }

    fn link_number(&mut self, env: Env, stmt: StmtId, word: &'static str) -> Option<u32> {
        match self.link_value(env, stmt, word, None)? {
            Value::Int(value) => u32::try_from(value).ok(),
            _ => None,
        }
    }

    /// A value of a link's block or of `default link`; of `option` when given.
    fn link_value(&mut self, env: Env, stmt: StmtId, word: &'static str, option: Option<&str>) -> Option<Value> {
        let (clause, from_default) = self.property_of(stmt, "link", word)?;
        let env = if from_default { Env::of(0) } else { env };
        match option {
            None => self.want(env, clause.arg(0)?, clause.property.args[0].ty, word),
            Some(option) => self.want(env, clause.option(option)?, clause.option_type(option)?, option),
        }
    }

    fn link_policy(&mut self, env: Env, stmt: StmtId) -> LinkPolicy {
        let mut policy = LinkPolicy::default();
        if let Some(Value::Duration(delay)) = self.link_value(env, stmt, "delay", None) {
            policy.delay = delay;
        }
        if let Some(Value::Duration(jitter)) = self.link_value(env, stmt, "delay", Some("jitter")) {
            policy.jitter = jitter;
        }
        if let Some(Value::Rate(rate)) = self.link_value(env, stmt, "rate", None) {
            policy.rate = Some(rate);
        }
        if let Some(Value::Ratio(loss)) = self.link_value(env, stmt, "loss", None) {
            policy.loss = loss;
        }
        policy
    }
}
