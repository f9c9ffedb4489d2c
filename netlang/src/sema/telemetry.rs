//! The `telemetry` block.

use super::World;
use super::clause::Clause;
use super::eval::Env;
use super::targets::Wanted;
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::plan::schedule::{Affected, merged};
use crate::plan::{Capture, LinkId, Metric, Range, RouterId, Sample, TargetRange, Telemetry};
use crate::source::Span;
use crate::syntax::tree::{ExprId, StmtId};
use crate::text::duration;
use crate::vocab::Ty;

/// The shortest period, in nanoseconds: sampling a host takes a good part of it when it is full of VMs.
const LEAST_PERIOD: u64 = 100_000_000;

impl World<'_> {
    /// Works out the file's `telemetry` block.
    pub(crate) fn telemetry(&mut self) {
        let Some(first) = self.telemetries.first().copied() else { return };
        for second in self.telemetries.clone().into_iter().skip(1) {
            let (first, second) = (self.tree.head_span(first), self.tree.head_span(second));
            self.sink.push(
                Diagnostic::error(codes::REPEATED, "`telemetry` is given twice", second)
                    .label("a second time")
                    .also(first, "given here first")
                    .help("put all of it into one block"),
            );
        }
        let mut telemetry = Telemetry::default();
        let mut next = self.tree.children(Some(first)).next();
        while let Some(stmt) = next {
            next = self.tree.sibling(stmt);
            if let Some(clause) = self.clause(stmt, Self::block_of("telemetry")) {
                self.telemetry_line(stmt, &clause, &mut telemetry);
            }
        }
        telemetry.consoles = merged(telemetry.consoles);
        telemetry.routes.sort_unstable();
        telemetry.routes.dedup();
        self.data.telemetry = Some(telemetry);
    }

    fn telemetry_line(&mut self, stmt: StmtId, clause: &Clause, telemetry: &mut Telemetry) -> Option<()> {
        match clause.property.word {
            "every" => telemetry.every = self.period(clause.arg(0)?),
            "collect" => {
                let words: Vec<ExprId> = clause.args(0).collect();
                for word in words {
                    telemetry.collect.extend(self.metric(word, clause.property.args.first()?.ty));
                }
                telemetry.collect.sort_unstable();
                telemetry.collect.dedup();
            }
            "pcap" => {
                let (sets, text) = self.telemetry_targets(clause, 0)?;
                let max = match clause.option("max") {
                    Some(word) => Some(self.capture_rate(word)?),
                    None => None,
                };
                let ids = |set: &TargetRange| if let TargetRange::Links(ids) = set { ids.iter() } else { 0..0 };
                telemetry.captures.push(Capture { links: sets.iter().flat_map(ids).map(LinkId).collect(), max, text });
            }
            "sample" => {
                let sample = self.sample(clause)?;
                telemetry.samples.push(sample);
            }
            "console" => {
                let vms = self.telemetry_vms(clause, 0)?.0;
                telemetry.consoles.extend(vms);
            }
            _ => {
                let (sets, _) = self.telemetry_targets(clause, 0)?;
                let mut inner = Affected::default();
                for set in &sets {
                    match set {
                        TargetRange::Routers(ids) => inner.routers.extend(ids.iter().map(RouterId)),
                        TargetRange::Instances(ids) => ids.iter().for_each(|i| self.data.parts_of(i, &mut inner)),
                        _ => {}
                    }
                }
                if inner.routers.is_empty() {
                    self.empty_target(self.tree.head_span(stmt), "there are no routers in it");
                }
                telemetry.routes.extend(inner.routers);
            }
        }
        Some(())
    }

    fn metric(&mut self, word: ExprId, ty: Ty) -> Option<Metric> {
        Some(match self.choice(word, ty, "collect")? {
            "cpu" => Metric::Cpu,
            "mem" => Metric::Mem,
            "net" => Metric::Net,
            _ => Metric::Ksm,
        })
    }

    fn period(&mut self, word: ExprId) -> Option<u64> {
        let Value::Duration(period) = self.want(Env::of(0), word, Ty::Duration, "every")? else { return None };
        if period < LEAST_PERIOD {
            let least = duration(LEAST_PERIOD);
            self.sink.push(
                Diagnostic::error(
                    codes::TOO_OFTEN,
                    format!("samples every {} are too many", duration(period)),
                    self.tree.span(word),
                )
                .label(format!("help: `{least}`"))
                .note(format!("the shortest period is {least}: measuring would take the time that the VMs need")),
            );
            return None;
        }
        Some(period)
    }

    fn capture_rate(&mut self, word: ExprId) -> Option<u64> {
        let Value::Rate(rate) = self.want(Env::of(0), word, Ty::Rate, "max")? else { return None };
        if rate < 1_000 {
            let span = self.tree.span(word);
            self.sink.push(
                Diagnostic::error(codes::OUT_OF_BOUNDS, "nothing would be captured", span).label("at least `1kbit`"),
            );
            return None;
        }
        Some(rate)
    }

    fn sample(&mut self, clause: &Clause) -> Option<Sample> {
        let (few_word, many_word) = (clause.arg(0)?, clause.arg(2)?);
        let ty = clause.property.args.first()?.ty;
        let few = self.want_int(Env::of(0), few_word, ty, "sample");
        let many = self.want_int(Env::of(0), many_word, ty, "sample");
        let every = match clause.option("every") {
            Some(word) => Some(self.period(word)?),
            None => None,
        };
        let (vms, names) = self.telemetry_vms(clause, 4)?;
        let (few, many) = (few?, many?);
        if few > many {
            let span = self.tree.span(few_word).to(self.tree.span(many_word));
            self.sink.push(
                Diagnostic::error(codes::BAD_SAMPLE, format!("{few} of {many} are more than all"), span)
                    .label(format!("help: `{many} of {few}`")),
            );
            return None;
        }
        Some(Sample { few: few as u32, many: many as u32, vms, every, text: format!("{few} of {many} of {names}") })
    }

    /// The things that a line is about, and its words for them.
    fn telemetry_targets(&mut self, clause: &Clause, number: u8) -> Option<(Vec<TargetRange>, String)> {
        let Ty::Things(kinds) = clause.property.args.get(usize::from(number))?.ty else { return None };
        let words: Vec<ExprId> = clause.args(number).collect();
        let phrase = self.phrase(&words, false).0?;
        let sets = self.target_ranges(&phrase.items, kinds, Wanted::Telemetry)?;
        Some((sets, self.words_span(&words).text(self.text).to_owned()))
    }

    fn telemetry_vms(&mut self, clause: &Clause, number: u8) -> Option<(Vec<Range>, String)> {
        let (sets, text) = self.telemetry_targets(clause, number)?;
        let vms = self.vms_in(&sets);
        if vms.is_empty() {
            let words: Vec<ExprId> = clause.args(number).collect();
            self.empty_target(self.words_span(&words), "there are no VMs in it");
            return None;
        }
        Some((vms, text))
    }

    /// From the first word to the last.
    pub(crate) fn words_span(&self, words: &[ExprId]) -> Span {
        match words {
            [first, .., last] => self.tree.span(*first).to(self.tree.span(*last)),
            [only] => self.tree.span(*only),
            [] => Span::default(),
        }
    }
}
