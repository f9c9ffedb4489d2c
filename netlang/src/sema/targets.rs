//! What actions are done to: `5% of t2[*]`, `hq.pc[0..3], fibre`, `link a -- b`, resolved to ranges of rows.

use super::World;
use super::eval::Env;
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::plan::path::Selected;
use crate::plan::schedule::{Affected, merged};
use crate::plan::{GroupId, Ids, Range, TargetRange};
use crate::source::Span;
use crate::syntax::tree::{Expr, ExprId, Mark};
use crate::text::{any_of, fnv64, mix64, thousands};
use crate::vocab::{Kind, actions_for};
use smallvec::SmallVec;

/// Parts of a billion that are all.
pub(crate) const WHOLE: u64 = 1_000_000_000;

/// Words that name things.
#[derive(Debug, Clone, Default)]
pub(crate) struct Phrase {
    /// The word before `of`.
    pub(crate) share: Option<ExprId>,
    /// Names; of a link by its ends two.
    pub(crate) items: SmallVec<[(ExprId, Option<ExprId>); 2]>,
}

/// Who wants targets, for messages about those that do not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// An action, by its word.
    Action(&'static str),
    /// `order` of `boot`.
    BootOrder,
    /// A line of telemetry.
    Telemetry,
}

impl World<'_> {
    /// Reads `[N of] [link] A [-- B], …` (the number only when `some` is set) and says how many words it took; of words
    /// that do not fit, how many did.
    pub(crate) fn phrase(&self, words: &[ExprId], some: bool) -> (Option<Phrase>, usize) {
        let is = |at: usize, text: &str| {
            let symbol = words.get(at).and_then(|w| self.tree.as_name(*w));
            symbol.is_some_and(|s| self.data.names.interner.name(s) == text)
        };
        let mark = |at: usize| match words.get(at).map(|w| self.tree.expr(*w)) {
            Some(Expr::Mark(mark)) => Some(mark),
            _ => None,
        };
        let plain = |at: usize| words.get(at).copied().filter(|_| mark(at).is_none());
        let mut phrase = Phrase::default();
        let mut at = 0;
        if some && is(1, "of") && plain(0).is_some() {
            phrase.share = plain(0);
            at = 2;
        }
        loop {
            at += usize::from(is(at, "link"));
            let Some(first) = plain(at) else { return (None, at) };
            at += 1;
            let mut other = None;
            if matches!(mark(at), Some(Mark::Peer | Mark::Transit)) {
                other = plain(at + 1);
                if other.is_none() {
                    return (None, at + 1);
                }
                at += 2;
            }
            phrase.items.push((first, other));
            if mark(at) != Some(Mark::Comma) {
                return (Some(phrase), at);
            }
            at += 1;
        }
    }

    /// The things that names stand for, in order, each once. Errors are reported.
    pub(crate) fn target_ranges(
        &mut self,
        items: &[(ExprId, Option<ExprId>)],
        kinds: &'static [Kind],
        wanted: Wanted,
    ) -> Option<Vec<TargetRange>> {
        let mut sets = Vec::new();
        let mut good = true;
        for (a, b) in items {
            let span = b.map_or(self.tree.span(*a), |b| self.tree.span(*a).to(self.tree.span(b)));
            let found = match b {
                Some(_) if !kinds.contains(&Kind::Link) => {
                    self.wrong_target(Kind::Link, None, span, kinds, wanted);
                    None
                }
                Some(b) => self
                    .links_by_ends(Env::of(0), *a, *b)
                    .map(|links| links.into_iter().map(|id| TargetRange::Links(Ids { first: id, count: 1 })).collect()),
                None => self.named_targets(*a, span, kinds, wanted),
            };
            match found {
                Some(found) => sets.extend(found),
                None => good = false,
            }
        }
        good.then(|| normal(sets))
    }

    fn named_targets(
        &mut self,
        word: ExprId,
        span: Span,
        kinds: &'static [Kind],
        wanted: Wanted,
    ) -> Option<Vec<TargetRange>> {
        let what = match kinds {
            [Kind::Vm, Kind::Router, ..] => "vm, router, lan or link",
            [Kind::Link, ..] => "link",
            [Kind::Router, ..] => "router",
            _ => "vm",
        };
        let selected = self.select(Env::of(0), word, what)?;
        let mut sets = Vec::with_capacity(selected.len());
        for it in selected {
            if !kinds.contains(&it.kind) {
                self.wrong_target(it.kind, Some(it), span, kinds, wanted);
                return None;
            }
            let rows = self.data.names.rows(it.instance, it.decl);
            let ids = Ids { first: rows.base + (it.first - rows.first), count: it.count };
            sets.push(match it.kind {
                Kind::Vm => TargetRange::Vms(Range { group: GroupId(rows.base), first: it.first, count: it.count }),
                Kind::Router => TargetRange::Routers(ids),
                Kind::Lan => TargetRange::Segments(ids),
                Kind::Link => TargetRange::Links(ids),
                _ => TargetRange::Instances(ids),
            });
        }
        if sets.iter().all(|set| set.count() == 0) {
            self.empty_target(span, "nothing would happen");
            return None;
        }
        Some(sets)
    }

    /// Reports names that stand for nothing, unless that may come of another error.
    pub(crate) fn empty_target(&mut self, span: Span, label: &str) {
        if !self.sink.has_errors() {
            let text = span.text(self.text);
            let it = Diagnostic::error(codes::NOTHING, format!("`{text}` is nothing at all"), span);
            self.sink.push(it.label(label));
        }
    }

    fn wrong_target(&mut self, kind: Kind, it: Option<Selected>, span: Span, kinds: &[Kind], wanted: Wanted) {
        let text = span.text(self.text);
        let takes = kinds.iter().map(|k| k.a()).collect::<Vec<_>>().join(" or ");
        let mut diagnostic = match wanted {
            Wanted::Action(action) => {
                let it =
                    Diagnostic::error(codes::WRONG_ACTION, format!("`{action}` cannot be done to {}", kind.a()), span);
                let it = it.label(format!("`{text}` is {}", kind.a())).note(format!("`{action}` is for {takes}"));
                match any_of(actions_for(kind)) {
                    none if none.is_empty() => it,
                    words => it.help(format!("{} can be the target of {words}", kind.a())),
                }
            }
            Wanted::BootOrder => Diagnostic::error(
                codes::BAD_BOOT_ORDER,
                format!("`{text}` is {}: VMs are booted, and instances of modules", kind.a()),
                span,
            )
            .label("not a VM"),
            Wanted::Telemetry => {
                Diagnostic::error(codes::WRONG_KIND, format!("`{text}` is {}, {takes} is wanted here", kind.a()), span)
                    .label(format!("not {takes}"))
            }
        };
        if let Some(it) = it {
            diagnostic = diagnostic.also(self.data.names.decl(it.instance, it.decl).span, "declared here");
        }
        self.sink.push(diagnostic);
    }

    /// How many of `total` things a share is: `5` or `5%`.
    pub(crate) fn share(&mut self, word: ExprId, total: u64) -> Option<u64> {
        let span = self.tree.span(word);
        let bad = |what: String, label: String| Diagnostic::error(codes::BAD_SHARE, what, span).label(label);
        let diagnostic = match self.eval(Env::of(0), word)? {
            Value::Ratio(0) => bad("0% of something is nothing".into(), "more than 0%, and at most 100%".into()),
            Value::Ratio(parts) if parts > WHOLE => {
                bad("there is no more than 100% of something".into(), "more than 0%, and at most 100%".into())
            }
            Value::Ratio(parts) => {
                let exact = u128::from(total) * u128::from(parts);
                let rounded = (exact + u128::from(WHOLE / 2)) / u128::from(WHOLE);
                return Some((rounded as u64).clamp(1, total.max(1)));
            }
            Value::Int(count) if count < 1 => bad("that would be none of them".into(), "at least 1".into()),
            Value::Int(count) if count as u64 > total => {
                let label = format!("there are {}", thousands(total));
                bad(format!("there are not {} of them", thousands(count as u64)), label)
                    .help("without `N of` all are meant")
            }
            Value::Int(count) => return Some(count as u64),
            other => Diagnostic::error(
                codes::WRONG_TYPE,
                format!("a number or a ratio is wanted before `of`, found {}", other.a()),
                span,
            )
            .label("help: `5%`"),
        };
        self.sink.push(diagnostic);
        None
    }

    /// All VMs of targets.
    pub(crate) fn vms_in(&self, sets: &[TargetRange]) -> Vec<Range> {
        let mut affected = Affected::default();
        for set in sets {
            match set {
                TargetRange::Vms(range) => affected.vms.push(*range),
                TargetRange::Instances(ids) => ids.iter().for_each(|i| self.data.parts_of(i, &mut affected)),
                _ => {}
            }
        }
        merged(affected.vms)
    }

    /// Whether there is a VM among targets.
    pub(crate) fn has_vms(&self, sets: &[TargetRange]) -> bool {
        sets.iter().any(|set| match set {
            TargetRange::Vms(range) => range.count > 0,
            TargetRange::Instances(ids) => ids.iter().any(|i| {
                let mut inner = Affected::default();
                self.data.parts_of(i, &mut inner);
                !inner.vms.is_empty()
            }),
            _ => false,
        })
    }

    /// A number that depends on the names of targets, and on nothing else in the file.
    pub(crate) fn targets_hash(&self, sets: &[TargetRange]) -> u64 {
        let names = &self.data.names;
        let mut hash = 0;
        let mut add = |name: String| hash = mix64(hash ^ fnv64(name.as_bytes()));
        for set in sets {
            match set {
                TargetRange::Vms(range) => {
                    let row = &self.data.groups[range.group.0 as usize];
                    let path = names.path(row.instance, row.decl, None);
                    add(format!("{path}[{}..{}]", range.first, range.indices().end));
                }
                TargetRange::Routers(ids) => ids.iter().for_each(|r| add(self.data.router_name(r))),
                TargetRange::Links(ids) => ids.iter().for_each(|l| add(self.data.link_name(l))),
                TargetRange::Segments(ids) => ids.iter().for_each(|s| {
                    let row = &self.data.segments[s as usize];
                    add(names.path(row.instance, row.decl, row.index));
                }),
                TargetRange::Instances(ids) => ids.iter().for_each(|i| {
                    let it = &names.instances[i as usize];
                    add(names.path(it.parent, it.decl, it.index));
                }),
            }
        }
        hash
    }
}

/// The same things in an order of their own, each once: so that the order of words does not matter to a choice.
fn normal(sets: Vec<TargetRange>) -> Vec<TargetRange> {
    let key = |set: TargetRange| match set {
        TargetRange::Vms(r) => (0, r.group.0, r.first, r.count),
        TargetRange::Routers(ids) => (1, 0, ids.first, ids.count),
        TargetRange::Segments(ids) => (2, 0, ids.first, ids.count),
        TargetRange::Links(ids) => (3, 0, ids.first, ids.count),
        TargetRange::Instances(ids) => (4, 0, ids.first, ids.count),
    };
    let mut keys: Vec<(u8, u32, u32, u32)> = sets.into_iter().map(key).filter(|k| k.3 > 0).collect();
    keys.sort_unstable();
    let mut out: Vec<(u8, u32, u32, u32)> = Vec::with_capacity(keys.len());
    for (kind, group, first, count) in keys {
        match out.last_mut() {
            Some(last) if (last.0, last.1) == (kind, group) && first <= last.2 + last.3 => {
                last.3 = last.3.max(first - last.2 + count);
            }
            _ => out.push((kind, group, first, count)),
        }
    }
    let back = |(kind, group, first, count)| match kind {
        0 => TargetRange::Vms(Range { group: GroupId(group), first, count }),
        1 => TargetRange::Routers(Ids { first, count }),
        2 => TargetRange::Segments(Ids { first, count }),
        3 => TargetRange::Links(Ids { first, count }),
        _ => TargetRange::Instances(Ids { first, count }),
    };
    out.into_iter().map(back).collect()
}
