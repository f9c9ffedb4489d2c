//! How long a keystroke takes, from the change to its diagnostics:
//! `cargo run --release -p fleet-lsp --example keystroke -- [LINES]`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lines = std::env::args().nth(1).map_or(Ok(2_000), |text| text.parse())?;
    let times = fleet_lsp::bench::keystrokes(lines)?;
    let at = |share: usize| times.get(times.len() * share / 100).or(times.last()).copied().unwrap_or_default();
    println!("{lines} lines: median {:.2?}, 99 % {:.2?}, longest {:.2?}", at(50), at(99), at(100));
    Ok(())
}
