//! How long `fleet image push` takes to hosts whose links are slow, beside the time that the image takes over one such
//! link: `cargo run --release -p fleet-tests --example push -- HOSTS MBIT [IMAGE]`. As root; `FLEET_BIN` names the program.
#![allow(clippy::unwrap_used, missing_docs, clippy::print_stdout)]

use std::time::Instant;

use fleet_tests::Lab;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |other: u32| arguments.next().map_or(other, |text| text.parse().unwrap());
    let (hosts, mbit) = (number(32), number(20));
    let image = arguments.next().unwrap_or_else(|| "tiny".to_owned());
    let stores = tempfile::tempdir().unwrap();
    let own = |number: usize| format!("image_store = {:?}", stores.path().join(number.to_string()));
    let lab = Lab::with(hosts as usize, "", &own);
    let listed = lab.fleet().json(&["image", "ls"]);
    let bytes = listed["images"].as_array().unwrap().iter().find(|entry| entry["name"] == image.as_str());
    let bytes = bytes.unwrap()["size_bytes"].as_f64().unwrap();
    lab.limit(mbit);
    let since = Instant::now();
    let pushed = lab.fleet().json(&["image", "push", &image]);
    let took = since.elapsed().as_secs_f64();
    let ideal = bytes * 8.0 / (f64::from(mbit) * 1e6);
    println!(
        "{image}, {:.0} MB, to {hosts} hosts over {mbit} Mbit/s: {took:.1} s; over one link {ideal:.1} s; {:.2}; {}",
        bytes / 1e6,
        took / ideal,
        pushed["outcomes"]
    );
}
