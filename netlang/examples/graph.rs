//! Draws a network file: `cargo run -p netlang --example graph -- FILE [dot]`.

use netlang::{Expand, Graph, Lock, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: graph FILE [dot] [PATH…]")?;
    let name = std::path::Path::new(&path).file_stem().and_then(|s| s.to_str()).ok_or("the file has no name")?;
    let source = Source::new(name, std::fs::read_to_string(&path)?);
    let rest: Vec<String> = args.collect();
    let dot = rest.iter().any(|a| a == "dot");
    let expand = match rest.iter().any(|a| a == "all") {
        true => Expand::All,
        false => Expand::Paths(rest.into_iter().filter(|a| a != "dot").collect()),
    };
    let graph = Graph::new(&source, &Lock::default(), &expand)?;
    print!("{}", if dot { graph.to_dot() } else { graph.to_svg() });
    Ok(())
}
