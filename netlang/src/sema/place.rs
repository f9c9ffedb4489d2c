//! `place` statements and the properties `apart`, `together` and `place` of VMs: rules about hosts.
//!
//! Each becomes a row: some VMs and routers, and what is demanded of their hosts. Which hosts there are is not known
//! here; what contradicts itself on any hosts is an error.

use super::World;
use super::clause::Clause;
use super::eval::Env;
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::plan::path::Selected;
use crate::plan::placement::{PlaceRow, PlaceRule, Spread};
use crate::plan::{GroupId, Range};
use crate::source::Span;
use crate::syntax::tree::{ExprId, StmtId};
use crate::vocab::{Kind, Property, Ty, keyword, property};
use hashbrown::HashMap;

/// A rule under construction, with the places in the text that gave it.
#[derive(Debug, Default)]
struct Draft {
    rule: PlaceRule,
    spread_span: Span,
    hosts_span: Span,
    /// A part of it was wrong, which was reported.
    failed: bool,
}

/// What the head of a `place` statement is about.
#[derive(Debug, Clone, Copy)]
enum About {
    /// `place together`: the instance.
    Here(Spread),
    /// `place TARGET { … }`
    Target(ExprId),
}

impl World<'_> {
    /// Works out every rule about hosts.
    pub(crate) fn places(&mut self) {
        self.group_rules();
        for at in 0..self.places.len() {
            let loose = self.places[at];
            let Some(about) = self.place_head(loose.stmt) else { continue };
            let text = self.place_text(loose.module, loose.stmt);
            for instance in 0..self.data.names.instances.len() as u32 {
                if self.data.names.instances[instance as usize].module == loose.module {
                    self.place_in(instance, loose.stmt, about, text);
                }
            }
        }
        self.contradictions();
    }

    fn place_head(&mut self, stmt: StmtId) -> Option<About> {
        let about = match *self.tree.words(stmt) {
            [_, word] => match self.tree.as_name(word).map(|s| self.data.names.interner.name(s)) {
                Some("together") if !self.tree.has_block(stmt) => Some(About::Here(Spread::Together)),
                Some("apart") if !self.tree.has_block(stmt) => Some(About::Here(Spread::Apart)),
                _ => Some(About::Target(word)),
            },
            _ => None,
        };
        if about.is_none() {
            keyword("place").into_iter().for_each(|found| self.bad_head(stmt, found));
        }
        about
    }

    /// The statement as `fleet plan` names it.
    fn place_text(&mut self, module: u32, stmt: StmtId) -> u32 {
        let mut text = self.tree.head_span(stmt).text(self.text).to_owned();
        if let Some(name) = self.data.names.modules[module as usize].name {
            text.push_str(&format!(" in module {}", self.data.names.interner.name(name)));
        }
        self.data.place_texts.push(text.into());
        self.data.place_texts.len() as u32 - 1
    }

    fn place_in(&mut self, instance: u32, stmt: StmtId, about: About, text: u32) {
        let span = self.tree.head_span(stmt);
        let (selected, draft) = match about {
            About::Here(spread) => {
                let rule = PlaceRule { spread: Some(spread), ..PlaceRule::default() };
                let draft = Draft { rule, spread_span: span, hosts_span: span, failed: false };
                (self.data.names.everything(instance), draft)
            }
            About::Target(word) => {
                let Some(selected) = self.place_target(instance, word) else { return };
                let draft = self.place_block(Env::of(instance), stmt);
                if draft.failed {
                    return;
                }
                if draft.rule.is_empty() {
                    self.says_nothing(span, "`place` says nothing about these VMs", "{ together }");
                    return;
                }
                (selected, draft)
            }
        };
        let (ranges, routers) = self.data.placed_of(&selected);
        if ranges.is_empty() && routers.is_empty() {
            let what = match about {
                About::Here(_) => "there are no VMs here".to_owned(),
                About::Target(word) => {
                    format!("`{}` has no VMs and no routers", self.tree.span(word).text(self.text))
                }
            };
            self.sink.push(Diagnostic::error(codes::NOTHING, what, span).label("nothing to place"));
            return;
        }
        if draft.rule.spread.is_some() && ranges.is_empty() {
            self.sink.push(
                Diagnostic::error(codes::NOTHING, "there are only routers here", draft.spread_span)
                    .label("this is about VMs")
                    .help("`hosts tag \"…\"` or `hosts rack \"…\"` chooses hosts for routers"),
            );
            return;
        }
        self.push_place(ranges, routers, draft, text);
    }

    fn push_place(&mut self, ranges: Vec<Range>, routers: Vec<u32>, draft: Draft, text: u32) {
        self.data.places.push(PlaceRow {
            ranges: ranges.into(),
            routers: routers.into(),
            rule: draft.rule,
            text,
            spread_span: draft.spread_span,
            hosts_span: draft.hosts_span,
        });
    }

    fn place_target(&mut self, instance: u32, word: ExprId) -> Option<Vec<Selected>> {
        const KINDS: &[Kind] = &[Kind::Vm, Kind::Router, Kind::Instance];
        let selected = self.select(Env::of(instance), word, "vm, router or instance")?;
        if let Some(wrong) = selected.iter().find(|s| !KINDS.contains(&s.kind)) {
            self.wrong_kind(*wrong, self.tree.span(word), KINDS);
            return None;
        }
        Some(selected)
    }

    /// The rule that a `place` block gives.
    fn place_block(&mut self, env: Env, stmt: StmtId) -> Draft {
        let block = Self::block_of("place");
        let mut draft = Draft { hosts_span: self.tree.head_span(stmt), ..Draft::default() };
        let mut next = self.tree.children(Some(stmt)).next();
        while let Some(child) = next {
            next = self.tree.sibling(child);
            let Some(clause) = self.clause(child, block) else {
                draft.failed = true;
                continue;
            };
            self.add_clause(env, child, &clause, &mut draft);
        }
        if draft.rule.spread == Some(Spread::Apart) && draft.rule.per_host.is_some() {
            self.sink.push(
                Diagnostic::warning(codes::PLACE_NO_EFFECT, "`per host` has no effect beside `apart`", {
                    self.tree.head_span(stmt)
                })
                .label("`apart` allows one on a host")
                .help("remove one of the two"),
            );
        }
        draft
    }

    fn add_clause(&mut self, env: Env, stmt: StmtId, clause: &Clause, draft: &mut Draft) {
        let span = self.tree.head_span(stmt);
        match clause.property.word {
            "together" => self.set_spread(draft, Spread::Together, span),
            "apart" => self.set_spread(draft, Spread::Apart, span),
            "per" => {
                let what = clause.property.args[0].ty;
                if let Some(word) = clause.arg(0)
                    && self.choice(word, what, "per").is_none()
                {
                    draft.failed = true;
                    return;
                }
                let count = clause.arg(1).and_then(|w| self.want_int(env, w, clause.property.args[1].ty, "per host"));
                draft.failed |= count.is_none();
                draft.rule.per_host = count.and_then(|n| u32::try_from(n).ok());
                if draft.rule.spread.is_none() {
                    draft.spread_span = span;
                }
            }
            // `hosts` of a `place` statement, `place` of a vm.
            word => {
                draft.hosts_span = span;
                for (option, slot) in [("rack", 0), ("tag", 1)] {
                    let Some(given) = clause.option(option) else { continue };
                    let value = match self.want(env, given, Ty::Text, option) {
                        Some(Value::Text(text)) => Some(text.text(self.text).trim_matches('"').to_owned()),
                        _ => None,
                    };
                    draft.failed |= value.is_none();
                    if slot == 0 {
                        draft.rule.rack = value;
                    } else {
                        draft.rule.tag = value;
                    }
                }
                if clause.option("rack").is_none() && clause.option("tag").is_none() {
                    self.says_nothing(span, &format!("`{word}` does not say which hosts"), "tag \"core\"");
                    draft.failed = true;
                }
            }
        }
    }

    fn set_spread(&mut self, draft: &mut Draft, spread: Spread, span: Span) {
        if draft.rule.spread.is_some_and(|other| other != spread) {
            self.together_and_apart(span, draft.spread_span, "the same VMs");
            draft.failed = true;
        }
        draft.rule.spread = Some(spread);
        draft.spread_span = span;
    }

    fn says_nothing(&mut self, span: Span, what: &str, help: &str) {
        self.sink.push(
            Diagnostic::error(codes::MISSING, what, span)
                .label("what is demanded?")
                .help(format!("for example `{} {help}`", span.text(self.text))),
        );
    }

    /// The properties of groups, from their own blocks or from `default vm`.
    fn group_rules(&mut self) {
        let block = Self::block_of("vm");
        let default = self.defaults.iter().find(|(k, _)| *k == "vm").map(|(_, s)| *s);
        let default_has = default.is_some_and(|s| self.has_place_words(s));
        let mut texts: HashMap<StmtId, (bool, Option<u32>)> = HashMap::new();
        for group in 0..self.data.groups.len() as u32 {
            let row = self.data.groups[group as usize];
            let stmt = self.data.names.decl(row.instance, row.decl).stmt;
            let (own, text) = *texts.entry(stmt).or_insert_with(|| (self.has_place_words(stmt), None));
            if row.count == 0 || !(own || default_has) {
                continue;
            }
            let draft = self.group_rule(row.instance, stmt, default.filter(|_| default_has), block);
            if draft.failed || draft.rule.is_empty() {
                continue;
            }
            let text = text.unwrap_or_else(|| {
                let text = format!("vm {}", self.data.names.plain_path(row.instance, row.decl));
                self.data.place_texts.push(text.into());
                self.data.place_texts.len() as u32 - 1
            });
            texts.insert(stmt, (own, Some(text)));
            let range = Range { group: GroupId(group), first: row.first, count: row.count };
            self.push_place(vec![range], Vec::new(), draft, text);
        }
    }

    /// Whether a block says anything about hosts. Most say nothing, and are done with here.
    fn has_place_words(&self, stmt: StmtId) -> bool {
        let interner = &self.data.names.interner;
        let words = ["apart", "together", "place"].map(|word| interner.find(word));
        self.tree.children(Some(stmt)).any(|child| {
            let keyword = self.tree.keyword(child);
            keyword.is_some() && words.contains(&keyword)
        })
    }

    fn group_rule(
        &mut self,
        instance: u32,
        stmt: StmtId,
        default: Option<StmtId>,
        block: &'static [Property],
    ) -> Draft {
        let mut draft = Draft::default();
        for (owner, env) in [(Some(stmt), Env::of(instance)), (default, Env::of(0))] {
            let Some(owner) = owner else { continue };
            // A group's own words take the place of the default's.
            let spread_known = draft.rule.spread.is_some();
            let hosts_known = draft.rule.rack.is_some() || draft.rule.tag.is_some();
            let mut next = self.tree.children(Some(owner)).next();
            while let Some(child) = next {
                next = self.tree.sibling(child);
                let word = self.tree.keyword(child).map(|k| self.data.names.interner.name(k));
                let wanted = match word {
                    Some("apart" | "together") => !spread_known,
                    Some("place") => !hosts_known,
                    _ => false,
                };
                let known = word.is_some_and(|w| property(block, w).is_some());
                if wanted
                    && known
                    && let Some(clause) = self.clause(child, block)
                {
                    self.add_clause(env, child, &clause, &mut draft);
                }
            }
        }
        draft
    }

    /// Rules about the same VMs that no host could fulfil.
    fn contradictions(&mut self) {
        let mut pairs = Vec::new();
        for (row, place) in self.data.places.iter().enumerate() {
            pairs.extend(place.ranges.iter().map(|range| (range.group.0, row as u32)));
        }
        let by_group = crate::plan::rows::Lists::from_pairs(self.data.groups.len(), &pairs);
        // VMs that a `together` and an `apart` have in common; the rack that a `together` was given.
        let mut common: HashMap<(u32, u32), u64> = HashMap::new();
        let mut racks: HashMap<u32, u32> = HashMap::new();
        let mut found: Vec<(u32, u32, bool)> = Vec::new();
        for group in 0..self.data.groups.len() as u32 {
            let rows = by_group.of(group);
            for (at, a) in rows.iter().enumerate() {
                for b in &rows[at + 1..] {
                    let shared = self.shared(*a, *b, group);
                    if shared == 0 || a == b {
                        continue;
                    }
                    let (first, second) = (&self.data.places[*a as usize].rule, &self.data.places[*b as usize].rule);
                    let spreads = (first.spread, second.spread);
                    if let (Some(x), Some(y)) = spreads
                        && x != y
                    {
                        let sum = common.entry((*a, *b)).or_insert(0);
                        let before = *sum;
                        *sum += shared;
                        if before < 2 && *sum >= 2 {
                            found.push((*a, *b, true));
                        }
                    }
                    if first.rack.is_some() && second.rack.is_some() && first.rack != second.rack {
                        found.push((*a, *b, false));
                    }
                    for (one, other) in [(*a, *b), (*b, *a)] {
                        let place = |row: u32| &self.data.places[row as usize].rule;
                        if place(one).spread == Some(Spread::Together) && place(other).rack.is_some() {
                            let before = *racks.entry(one).or_insert(other);
                            if place(before).rack != place(other).rack && before != other {
                                found.push((before, other, false));
                            }
                        }
                    }
                }
            }
        }
        for (a, b, spread) in found {
            let (a, b) = (&self.data.places[a as usize], &self.data.places[b as usize]);
            if spread {
                let (apart, together) = if a.rule.spread == Some(Spread::Apart) { (a, b) } else { (b, a) };
                let (apart, together) = (apart.spread_span, together.spread_span);
                let (later, earlier) = if apart > together { (apart, together) } else { (together, apart) };
                self.together_and_apart(later, earlier, "some of the same VMs");
            } else {
                self.two_racks(a.hosts_span.max(b.hosts_span), a.hosts_span.min(b.hosts_span));
            }
        }
    }

    /// How many VMs of a group two rows have in common.
    fn shared(&self, a: u32, b: u32, group: u32) -> u64 {
        let of = |row: u32| {
            let ranges = &self.data.places[row as usize].ranges;
            let from = ranges.partition_point(|r| r.group.0 < group);
            ranges[from..].iter().take_while(move |r| r.group.0 == group)
        };
        let mut shared = 0;
        for x in of(a) {
            for y in of(b) {
                let (x, y) = (x.indices(), y.indices());
                shared += u64::from(x.end.min(y.end).saturating_sub(x.start.max(y.start)));
            }
        }
        shared
    }

    fn together_and_apart(&mut self, span: Span, other: Span, whom: &str) {
        self.sink.push(
            Diagnostic::error(codes::PLACE_CONTRADICTION, format!("{whom} cannot be together and apart"), span)
                .label("this demands the opposite")
                .also(other, "of this")
                .help("remove one of the two; `per host N` spreads VMs with several on a host"),
        );
    }

    fn two_racks(&mut self, span: Span, other: Span) {
        self.sink.push(
            Diagnostic::error(codes::PLACE_CONTRADICTION, "the same VMs cannot be in two racks", span)
                .label("this demands one rack")
                .also(other, "this another")
                .help("a host is in one rack, but may have many tags: use `tag` for what can overlap"),
        );
    }
}
