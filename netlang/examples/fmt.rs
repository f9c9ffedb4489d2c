//! Lays out a network file as `fleet fmt` does, on stdout: `cargo run -p netlang --example fmt -- FILE`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: fmt FILE")?;
    let text = std::fs::read_to_string(&path)?;
    match netlang::format(&text) {
        Ok(laid_out) => print!("{laid_out}"),
        Err(diagnostics) => {
            let source = netlang::Source::new("file", text);
            eprint!("{}", netlang::render(&diagnostics, &source, netlang::RenderOptions::default()));
        }
    }
    Ok(())
}
