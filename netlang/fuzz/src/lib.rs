//! What must hold for every input of the network language, whatever its bytes are.
//!
//! An input is a network file, a lock file and a target of the command line, with NUL bytes between them; lock and
//! target may be missing. [`check`] panics when a promise is broken. The fuzzer calls it with what it makes up, and
//! `tests/regressions.rs` with every input that once broke a promise.

mod input;
pub mod seeds;

pub use input::Input;
use netlang::{Compilation, Lock, Plan, RenderOptions, Source, compile, design, format, render};

/// Checks all promises for an input.
///
/// # Panics
///
/// When a promise is broken: that is what the fuzzer looks for.
pub fn check(data: &[u8]) {
    let input = Input::split(data);
    if input.is_large() {
        return;
    }
    let lock = check_lock(input.lock);
    let source = Source::new("p", input.text);
    let run = answer(&source, &lock);
    let all = compile_as(&source, &lock, design);
    // What runs is a part of what can be looked at: it has all of the errors, and the refusals as well.
    assert!(run.has_errors() || !all.has_errors(), "`design` refuses what `compile` takes");
    for plan in [&run, &all].into_iter().filter_map(|c| c.plan.as_ref()) {
        check_plan(plan, input.target);
    }
    check_format(&source, &all, &lock);
}

fn answer(source: &Source, lock: &Lock) -> Compilation {
    compile_as(source, lock, compile)
}

fn compile_as(source: &Source, lock: &Lock, how: fn(&Source, &Lock) -> Compilation) -> Compilation {
    let result = how(source, lock);
    assert_eq!(result.plan.is_none(), result.has_errors(), "a plan exists if, and only if, there is no error");
    render(&result.diagnostics, source, RenderOptions { color: true, width: 100 });
    for diagnostic in &result.diagnostics {
        for label in std::iter::once(&diagnostic.primary).chain(&diagnostic.secondary) {
            let span = label.span.start as usize..label.span.end as usize;
            assert!(source.text.get(span).is_some(), "{} is about a place that is not in the text", diagnostic.code);
        }
        assert!(netlang::explain(diagnostic.code).is_some(), "{} has no page", diagnostic.code);
    }
    result
}

/// A lock that can be read is written as it was read.
fn check_lock(text: &str) -> Lock {
    match Lock::parse(text) {
        Ok(lock) => {
            assert_eq!(Lock::parse(&lock.to_string()).as_ref(), Ok(&lock), "the lock does not survive its own text");
            lock
        }
        Err(error) => {
            assert!(error.line >= 1 && error.line as usize <= text.lines().count(), "a line that is not there");
            Lock::default()
        }
    }
}

/// Whatever a plan is asked for, it answers.
fn check_plan(plan: &Plan, target: &str) {
    let json = serde_json::to_string(&plan.summary());
    assert!(json.is_ok(), "the summary is no JSON");
    let mut ports = 0u64;
    for segment in plan.segments() {
        ports += plan.ports_of(segment.id).count() as u64;
    }
    assert_eq!(ports, plan.summary().totals.ports, "ports are counted as they are listed");
    for group in plan.groups() {
        for index in [group.first, group.first + group.count.saturating_sub(1)] {
            assert_eq!(plan.vm(group.id, index).is_some(), group.count > 0);
        }
    }
    plan.routers().for_each(drop);
    plan.links().for_each(drop);
    if let Ok(ranges) = plan.resolve(target) {
        for range in ranges {
            let group = plan.group(range.group);
            let inside =
                group.is_some_and(|g| range.first >= g.first && range.first + range.count <= g.first + g.count);
            assert!(inside, "a target leads out of its group");
        }
    }
}

/// The layout changes nothing but itself, and only once; the meaning and the addresses stay.
fn check_format(source: &Source, before: &Compilation, lock: &Lock) {
    let Ok(once) = format(&source.text) else {
        assert!(before.has_errors(), "what compiles can be laid out");
        return;
    };
    assert_eq!(format(&once).as_ref(), Ok(&once), "the layout is not stable");
    assert_eq!(words(&once), words(&source.text), "the layout changed a word");
    let after = compile_as(&Source::new("p", once), lock, design);
    let codes = |c: &Compilation| c.diagnostics.iter().map(|d| d.code).collect::<Vec<_>>();
    if before.has_errors() {
        assert!(after.has_errors(), "the layout mended {:?}", codes(before));
        return;
    }
    let summary = |c: &Compilation| {
        let mut summary = c.plan.as_ref()?.summary();
        // Where an event stands is the layout's business.
        summary.experiments.iter_mut().flat_map(|e| &mut e.events).for_each(|event| event.line = 0);
        Some(summary)
    };
    assert_eq!(summary(&after), summary(before), "the layout changed the meaning");
    // With the lock that came of it, the same addresses come again, and the lock has nothing to add.
    let again = compile_as(source, &before.lock, design);
    assert_eq!(again.lock, before.lock, "a second run changed the lock");
    assert_eq!(summary(&again), summary(before), "a second run moved addresses");
}

/// A text without blanks, and without the `;` that the layout may put in or leave out.
fn words(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != ';').collect()
}
