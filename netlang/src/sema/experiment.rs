//! Experiments: statements with times to events with targets.
//!
//! The words were matched against the vocabulary when the file's declarations were collected; here values and names get
//! their meaning. What an action can be done to stands in the vocabulary as well.

use super::World;
use super::clause::Clause;
use super::eval::Env;
use super::targets::{WHOLE, Wanted};
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::plan::schedule::{merged, without};
use crate::plan::{
    Action, Boot, BootStep, Event, Experiment, GroupId, Ids, LinkChange, MAX_FIRINGS, Range, Repeat, TargetRange,
    Targets, Wait, WaitFor,
};
use crate::source::{LineIndex, Span};
use crate::syntax::tree::{ExprId, StmtId};
use crate::text::{any_of, duration, nearest, thousands};
use crate::vocab::{Kind, Property, Ty};

/// Ranges of targets that all actions of a file have at most.
const MAX_TARGET_RANGES: usize = 1 << 22;

/// What other tools call things, and what they are here.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("restart", "reboot"),
    ("reset", "reboot"),
    ("kill", "fail"),
    ("cut", "fail"),
    ("break", "fail"),
    ("down", "fail"),
    ("repair", "heal"),
    ("restore", "heal"),
    ("recover", "heal"),
    ("up", "heal"),
    ("exec", "run"),
    ("suspend", "pause"),
    ("change", "set"),
    ("latency", "delay"),
    ("bandwidth", "rate"),
    ("metric", "cost"),
];

/// The word that is meant by one that is not known.
fn meant(text: &str, words: &[&'static str]) -> Option<&'static str> {
    let same = OTHER_WORDS.iter().find(|(other, _)| *other == text).map(|(_, ours)| *ours);
    same.filter(|ours| words.contains(ours)).or_else(|| nearest(text, words.iter().copied()))
}

/// An experiment in the making, and where the file says what.
struct Draft {
    experiment: Experiment,
    /// One for each event.
    spans: Vec<Span>,
    end_span: Option<Span>,
}

impl World<'_> {
    /// Works out every experiment of the file.
    pub(crate) fn experiments(&mut self) {
        let decls = &self.data.names.modules[0].decls;
        let found: Vec<_> = decls.iter().filter(|d| d.kind == Kind::Experiment).copied().collect();
        if found.is_empty() {
            return;
        }
        let lines = LineIndex::new(self.text);
        for decl in found {
            let name = self.data.names.interner.name(decl.symbol).to_owned();
            let line = lines.line(decl.span.start);
            let experiment = Experiment { name, line, boot: None, waits: Vec::new(), events: Vec::new(), end: None };
            let mut draft = Draft { experiment, spans: Vec::new(), end_span: None };
            let mut next = self.tree.children(Some(decl.stmt)).next();
            while let Some(stmt) = next {
                next = self.tree.sibling(stmt);
                let Some(clause) = self.clause(stmt, Self::block_of("experiment")) else { continue };
                match clause.property.word {
                    "boot" => draft.experiment.boot = self.boot(stmt, &clause),
                    "wait" => draft.experiment.waits.extend(self.wait(&clause)),
                    _ => self.events(stmt, &clause, &mut draft, &lines),
                }
            }
            self.check_times(&draft);
            self.check_outages(&draft.experiment, &draft.spans);
            self.data.experiments.push(draft.experiment);
        }
    }

    fn time(&mut self, word: ExprId, what: &str) -> Option<u64> {
        match self.want(Env::of(0), word, Ty::Duration, what)? {
            Value::Duration(time) => Some(time),
            _ => None,
        }
    }

    fn boot(&mut self, stmt: StmtId, clause: &Clause) -> Option<Boot> {
        if !clause.has("rate") && !clause.has("order") {
            let head = self.tree.head_span(stmt);
            self.sink.push(
                Diagnostic::error(codes::BAD_WORDS, "`boot` does not say how", head)
                    .label("how fast, and in which order?")
                    .note(format!("written like this: `{}`", clause.property.usage())),
            );
            return None;
        }
        let mut rate = None;
        if let (Some(word), Some(ty)) = (clause.option("rate"), clause.option_type("rate")) {
            rate = Some(self.want_int(Env::of(0), word, ty, "rate")? as u32);
        }
        let mut order: Vec<BootStep> = Vec::new();
        let mut named: Vec<Range> = Vec::new();
        let (phrase, _) = self.phrase(clause.option_args("order"), false);
        for (word, other) in phrase.unwrap_or_default().items {
            let span = other.map_or(self.tree.span(word), |o| self.tree.span(word).to(self.tree.span(o)));
            let sets = self.target_ranges(&[(word, other)], &[Kind::Vm, Kind::Instance], Wanted::BootOrder);
            let Some(sets) = sets else { continue };
            let vms = self.vms_in(&sets);
            let count = |list: &[Range]| list.iter().map(|r| u64::from(r.count)).sum::<u64>();
            let before = count(&named);
            named.extend(&vms);
            named = merged(named);
            let text = span.text(self.text).to_owned();
            let twice = before + count(&vms) - count(&named);
            if vms.is_empty() {
                self.empty_target(span, "nothing would boot");
            } else if twice > 0 {
                let label =
                    format!("{} of its VMs {} named before", thousands(twice), if twice == 1 { "was" } else { "were" });
                self.sink.push(
                    Diagnostic::error(codes::BAD_BOOT_ORDER, format!("`{text}` cannot boot twice"), span)
                        .label(label)
                        .help("leave it out: what is not named boots last"),
                );
            }
            order.push(BootStep { text: Some(text), vms });
        }
        let all = (0u32..).zip(&self.data.groups);
        let all = all.map(|(id, g)| Range { group: GroupId(id), first: g.first, count: g.count }).collect();
        let rest = without(all, &named);
        if !rest.is_empty() {
            order.push(BootStep { text: None, vms: rest });
        }
        Some(Boot { rate, order })
    }

    fn wait(&mut self, clause: &Clause) -> Option<Wait> {
        let Some(word) = clause.option("max") else { return Some(Wait { what: WaitFor::Converged, max: None }) };
        let max = self.time(word, "max")?;
        if max == 0 {
            let span = self.tree.span(word);
            self.sink.push(
                Diagnostic::error(codes::OUT_OF_BOUNDS, "this leaves no time to wait", span).label("more than 0s"),
            );
        }
        Some(Wait { what: WaitFor::Converged, max: Some(max) })
    }

    /// `at` and `every`: one event for each action.
    fn events(&mut self, stmt: StmtId, clause: &Clause, draft: &mut Draft, lines: &LineIndex) {
        let times = match clause.property.word {
            "at" => clause.arg(0).and_then(|word| self.time(word, "at")).map(|at| (at, None)),
            _ => self.repeat(clause),
        };
        let mut actions: Vec<(Clause, Span)> = self.inline_clause(stmt, clause).into_iter().collect();
        if actions.is_empty() {
            for child in self.tree.children(Some(stmt)) {
                actions.extend(self.clause(child, clause.property.block).map(|c| (c, self.tree.head_span(child))));
            }
        }
        for (action, span) in actions {
            if action.property.word == "end" {
                self.set_end(times.map(|t| t.0), span, draft);
                continue;
            }
            let what = self.action(&action);
            let targets = self.targets(&action);
            let (Some((at, every)), Some(what), Some(targets)) = (times, what, targets) else { continue };
            let text = span.text(self.text).split_whitespace().collect::<Vec<_>>().join(" ");
            let line = lines.line(span.start);
            draft.experiment.events.push(Event { at, every, action: what, targets, text, line });
            draft.spans.push(span);
        }
    }

    /// The times of `every PERIOD from START until STOP`.
    fn repeat(&mut self, clause: &Clause) -> Option<(u64, Option<Repeat>)> {
        let (period_word, until_word) = (clause.arg(0)?, clause.arg(4)?);
        let period = self.time(period_word, "every");
        let start = clause.arg(2).and_then(|word| self.time(word, "from"));
        let until = self.time(until_word, "until");
        let (period, start, until) = (period?, start?, until?);
        if period == 0 {
            self.sink.push(
                Diagnostic::error(codes::ZERO_PERIOD, "this would never stop happening", self.tree.span(period_word))
                    .label("the period must be more than 0s"),
            );
            return None;
        }
        if until <= start {
            let (start, until) = (duration(start), duration(until));
            let span = self.tree.span(until_word);
            let it = Diagnostic::error(codes::EMPTY_EVERY, format!("no time is from {start} until {until}"), span)
                .label(format!("must be later than {start}"))
                .note("it happens at the first time, and then before the second");
            self.sink.push(if start == until { it } else { it.help(format!("write `from {until} until {start}`")) });
            return None;
        }
        Some((start, Some(Repeat { period, until })))
    }

    fn set_end(&mut self, at: Option<u64>, span: Span, draft: &mut Draft) {
        if let Some(first) = draft.end_span {
            self.sink.push(
                Diagnostic::error(codes::REPEATED, "an experiment ends once", span)
                    .label("a second end")
                    .also(first, "the first"),
            );
            return;
        }
        draft.end_span = Some(span);
        draft.experiment.end = at;
    }

    fn action(&mut self, clause: &Clause) -> Option<Action> {
        Some(match clause.property.word {
            "fail" => Action::Fail,
            "heal" => Action::Heal,
            "set" => Action::Set(self.link_change(clause)?),
            "reboot" => Action::Reboot,
            "stop" => Action::Stop,
            "start" => Action::Start,
            "pause" => Action::Pause,
            "resume" => Action::Resume,
            _ => match self.want(Env::of(0), clause.arg(0)?, Ty::Text, "run")? {
                Value::Text(span) => Action::Run(span.text(self.text).trim_matches('"').to_owned()),
                _ => return None,
            },
        })
    }

    /// The values that `set` gives.
    fn link_change(&mut self, clause: &Clause) -> Option<LinkChange> {
        let mut change = LinkChange::default();
        let mut good = true;
        for option in clause.property.options.iter().filter(|o| o.word != "seed" && clause.has(o.word)) {
            let word = clause.option(option.word)?;
            let span = self.tree.span(word);
            let value = self.want(Env::of(0), word, option.args.first()?.ty, option.word);
            let bad = match (option.word, value) {
                ("loss", Some(Value::Ratio(parts))) if parts > WHOLE => Some("at most 100%"),
                ("rate", Some(Value::Rate(0))) => Some("more than 0; `fail` cuts a link"),
                _ => None,
            };
            if let Some(label) = bad {
                let message = format!("`{}` cannot be {}", option.word, span.text(self.text));
                self.sink.push(Diagnostic::error(codes::OUT_OF_BOUNDS, message, span).label(label));
            }
            match (option.word, value) {
                ("delay", Some(Value::Duration(time))) => change.delay = Some(time),
                ("jitter", Some(Value::Duration(time))) => change.jitter = Some(time),
                ("rate", Some(Value::Rate(rate))) => change.rate = Some(rate),
                ("loss", Some(Value::Ratio(parts))) => change.loss = Some(parts),
                ("cost", Some(Value::Int(cost))) => change.cost = Some(cost as u32),
                _ => good = false,
            }
        }
        if good && change == LinkChange::default() {
            let words: Vec<ExprId> = clause.args(0).collect();
            let span = words.last().map_or_else(Span::default, |w| self.tree.span(*w));
            self.sink.push(
                Diagnostic::error(codes::BAD_WORDS, "`set` does not say what to change", span)
                    .label("help: a property after it, like `delay 5ms`")
                    .note(format!("written like this: `{}`", clause.property.usage())),
            );
            return None;
        }
        good.then_some(change)
    }

    /// The targets of an action, from the argument that the vocabulary gives it.
    fn targets(&mut self, clause: &Clause) -> Option<Targets> {
        let args = (0u8..).zip(clause.property.args);
        let (number, kinds) =
            args.filter_map(|(n, a)| if let Ty::SomeOf(k) = a.ty { Some((n, k)) } else { None }).next()?;
        let words: Vec<ExprId> = clause.args(number).collect();
        let phrase = self.phrase(&words, true).0?;
        let wanted = Wanted::Action(clause.property.word);
        let among = self.target_ranges(&phrase.items, kinds, wanted)?;
        self.check_content(&among, clause.property.word, &words)?;
        self.target_ranges += among.len();
        if self.target_ranges > MAX_TARGET_RANGES {
            let most = thousands(MAX_TARGET_RANGES as u64);
            let span = self.words_span(&words);
            self.sink.push(
                Diagnostic::error(codes::TOO_LARGE, format!("more than {most} targets of actions"), span)
                    .label("with these the file has too many"),
            );
            return None;
        }
        let total: u64 = among.iter().map(TargetRange::count).sum();
        let count = match phrase.share {
            Some(word) => self.share(word, total)?,
            None => total,
        };
        let seed = match (clause.option("seed"), clause.option_type("seed")) {
            (Some(word), Some(ty)) => self.want_int(Env::of(0), word, ty, "seed")? as u64,
            _ => 0,
        };
        let list = self.targets_hash(&among);
        Some(Targets { among, count, seed, list })
    }

    /// Instances without VMs and routers without links: the action would do nothing.
    fn check_content(&mut self, among: &[TargetRange], action: &str, words: &[ExprId]) -> Option<()> {
        let linked = |ids: &Ids| self.data.links.iter().any(|l| l.routers.iter().any(|r| ids.iter().contains(r)));
        let can_change = |set: &TargetRange| !matches!(set, TargetRange::Routers(ids) if !linked(ids));
        let label = match action {
            "fail" | "heal" => return Some(()),
            "set" if !among.iter().any(can_change) => "it has no links",
            "set" => return Some(()),
            _ if !self.has_vms(among) => "there are no VMs in it",
            _ => return Some(()),
        };
        self.empty_target(self.words_span(words), label);
        None
    }

    /// Events that never happen because the experiment is over, and more events than can be.
    fn check_times(&mut self, draft: &Draft) {
        let experiment = &draft.experiment;
        if let (Some(end), Some(end_span)) = (experiment.end, draft.end_span) {
            for (event, span) in experiment.events.iter().zip(&draft.spans) {
                let (all, done) = (event.firings(None), event.firings(experiment.end));
                if done == all {
                    continue;
                }
                let (what, label) = match done {
                    0 => ("this never happens", format!("it would be at {}", duration(event.at))),
                    _ => ("not all of this happens", format!("{} of {} times", thousands(done), thousands(all))),
                };
                self.sink.push(
                    Diagnostic::warning(codes::AFTER_END, format!("{what}: the experiment is over"), *span)
                        .label(label)
                        .also(end_span, format!("it ends at {}", duration(end))),
                );
            }
        }
        let firings = experiment.firings();
        let most = experiment.events.iter().zip(&draft.spans).max_by_key(|(e, _)| e.firings(experiment.end));
        if let Some((event, span)) = most.filter(|_| firings > MAX_FIRINGS) {
            self.sink.push(
                Diagnostic::error(
                    codes::TOO_MANY_FIRINGS,
                    format!("`{}` would have {} firings", experiment.name, thousands(firings)),
                    *span,
                )
                .label(format!("{} of them are of this action", thousands(event.firings(experiment.end))))
                .note(format!("an experiment has at most {}", thousands(MAX_FIRINGS)))
                .help(match event.every {
                    Some(every) => {
                        format!(
                            "write `every {}`",
                            duration(every.period.saturating_mul(firings.div_ceil(MAX_FIRINGS)))
                        )
                    }
                    None => "fewer lines, or several experiments".to_owned(),
                }),
            );
        }
    }

    /// Reports a word where an action should be.
    pub(crate) fn unknown_action(&mut self, word: ExprId, block: &'static [Property], owner: &str) {
        let span = self.tree.span(word);
        let text = span.text(self.text);
        let it = Diagnostic::error(codes::UNKNOWN_ACTION, format!("there is no action `{text}`"), span);
        let words: Vec<&'static str> = block.iter().map(|p| p.word).collect();
        self.sink.push(match meant(text, &words) {
            _ if text == "end" => {
                it.label(format!("not in `{owner}`: an experiment ends once")).help("write `at 10min end` instead")
            }
            Some(similar) => it.label(format!("help: did you mean `{similar}`?")),
            None => it.label("not known").note(format!("actions are {}", any_of(words))),
        });
    }

    /// Reports what `set` cannot change.
    pub(crate) fn cannot_set(&mut self, word: ExprId, set: &'static Property) {
        let span = self.tree.span(word);
        let text = span.text(self.text);
        let settings: Vec<&'static str> = set.options.iter().map(|o| o.word).filter(|w| *w != "seed").collect();
        let fixed = Self::block_of("link").iter().any(|p| p.word == text);
        let message = match fixed {
            true => format!("`{text}` of a link cannot change while it runs"),
            false => format!("links have no property `{text}`"),
        };
        let it = Diagnostic::error(codes::CANNOT_SET, message, span);
        self.sink.push(match meant(text, &settings) {
            Some(similar) if !fixed => it.label(format!("help: did you mean `{similar}`?")),
            _ => it.label("cannot be set").note(format!("`set` changes {}", any_of(settings))),
        });
    }
}
