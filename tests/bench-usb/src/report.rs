//! The section of the page of benchmarks.

use std::fmt::Write;

use netlang_bench::page::machine;

use crate::measure::{Figures, Load};

/// What the section's line starts with.
pub const TITLE: &str = "A camera";

/// A line of the table: its name, its value, digits that are worth telling.
type Line = (&'static str, fn(&Figures) -> Option<f64>, usize);

const LINES: &[Line] = &[
    ("rate, MB/s", |way| Some(way.rate / 1e6), 1),
    ("`gphoto2 --get-file` of the picture, s", |way| Some(way.whole), 2),
    ("… of one byte, s", |way| Some(way.empty), 2),
    ("CPU of QEMU and its guest, s", |way| Some(way.qemu), 2),
    ("CPU of controller and agents, s", |way| (way.fleet > 0.0).then_some(way.fleet), 2),
    ("CPU of the camera, s", |way| Some(way.camera), 2),
    ("attach to seen by the guest, s", |way| Some(way.seen), 2),
    ("plug to listed, s", |way| way.listed, 2),
];

/// A section of Markdown. The first way is the floor of the others.
pub fn section(load: &Load, ways: &[(&str, Figures)]) -> String {
    let mut text = format!(
        "## {TITLE}: a picture of {:.0} MB fetched in a guest\n\n{} Written by `make bench-usb`.\n\nThe real `gphoto2` in an emulated guest of \
         the image `camera` fetches from the camera in software. Medians of {}. The rate is without what a picture of one byte takes. CPU is for \
         the picture. Seen: the guest has read the camera's serial number, as it is asked again and again. Listed: by `fleet usb ls`, the same.\n\n",
        load.size as f64 / 1e6,
        machine(),
        load.runs,
    );
    let mut row = |cells: &[String]| _ = writeln!(text, "| {} |", cells.join(" | "));
    let names = ways.iter().map(|(name, _)| (*name).to_owned());
    row(&std::iter::once(String::new()).chain(names).collect::<Vec<_>>());
    row(&vec!["---".to_owned(); ways.len() + 1]);
    let number =
        |value: Option<f64>, digits: usize| value.map_or("–".to_owned(), |value| format!("{value:.digits$}"));
    for (name, value, digits) in LINES {
        let cells = ways.iter().map(|(_, way)| number(value(way), *digits));
        row(&std::iter::once((*name).to_owned()).chain(cells).collect::<Vec<_>>());
    }
    let floor = ways.first().map_or(f64::NAN, |(_, way)| way.rate);
    let ratios = ways.iter().map(|(_, way)| format!("{:.2}", way.rate / floor));
    row(&std::iter::once("ratio of the rate".to_owned()).chain(ratios).collect::<Vec<_>>());
    text
}
