//! No input of one megabyte makes the compiler take more memory than a small machine has, and each is answered.

use netlang::{Lock, RenderOptions, Source, design, format, render};
use netlang_bench::counting::{Counting, count};
use netlang_bench::inputs::{COSTLY, explicit_vms};

#[global_allocator]
static COUNTING: Counting = Counting;

/// What the compiler may allocate at once for any text of one megabyte.
const MOST: usize = 500_000_000;

// One test: what tests allocate at the same time would be counted together. A thread with the stack of the runtime's
// workers, on which the compiler runs in the controller and in agents.
#[test]
fn every_megabyte_is_answered_with_bounded_memory_and_stack() -> anyhow::Result<()> {
    let all = std::thread::Builder::new().stack_size(2 << 20).spawn(|| {
        for costly in COSTLY {
            let text = (costly.text)();
            assert!(text.len() <= 1 << 20, "{} is longer than it may be", costly.name);
            let source = Source::new("p", text);
            let start = std::time::Instant::now();
            let (result, counts) = count(|| {
                let result = design(&source, &Lock::default());
                render(&result.diagnostics, &source, RenderOptions::default());
                result
            });
            eprintln!("{:8.3} s {:5} MB  {}", start.elapsed().as_secs_f64(), counts.peak / 1_000_000, costly.name);
            assert_eq!(result.plan.is_none(), result.has_errors(), "{}", costly.name);
            assert!(counts.peak < MOST, "{} takes {} bytes", costly.name, counts.peak);
            drop(result);
            let (_, counts) = count(|| format(&source.text));
            assert!(counts.peak < MOST, "the layout of {} takes {} bytes", costly.name, counts.peak);
        }
        let source = Source::new("p", explicit_vms(100_000));
        let (result, counts) = count(|| design(&source, &Lock::default()));
        assert!(result.plan.is_some());
        assert!(counts.peak < 60_000_000, "100,000 declarations take {} bytes", counts.peak);
    })?;
    all.join().map_err(|_| anyhow::anyhow!("a limit was passed; see above"))
}
