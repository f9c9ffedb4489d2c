//! The plot: part of the attainable saving, and ksmd's processor time, over time on a logarithmic scale.

use std::fmt::Write;

use crate::report::attainable;
use crate::{Point, Run};

const WIDTH: f64 = 760.0;
const PANEL: f64 = 220.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 34.0;
const GAP: f64 = 46.0;
const RIGHT: f64 = 20.0;
/// Seconds: the first that is shown.
const FIRST: f64 = 0.1;
/// Okabe and Ito's colours, which people with any sight of colours can tell apart.
const COLORS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f"];

/// A scale of powers of ten.
#[derive(Clone, Copy)]
struct Log {
    first: f64,
    last: f64,
}

impl Log {
    fn part(self, value: f64) -> f64 {
        (value.max(self.first) / self.first).ln() / (self.last / self.first).ln()
    }

    fn ticks(self) -> Vec<f64> {
        let mut ticks = vec![self.first];
        while let Some(last) = ticks.last().filter(|last| **last * 10.0 <= self.last * 1.01) {
            ticks.push(last * 10.0);
        }
        ticks
    }
}

/// The whole picture.
pub fn svg(runs: &[Run]) -> String {
    let points = || runs.iter().flat_map(|run| &run.points);
    let most = |what: fn(&Point) -> f64, least: f64| points().map(what).fold(least, f64::max);
    let time = Log { first: FIRST, last: most(|point| point.time, 1.0) };
    let cpu = Log { first: 0.1, last: most(|point| point.cpu, 1.0) };
    let all = attainable(runs).max(1.0);
    let legend = 20.0 * runs.len() as f64;
    let height = TOP + 2.0 * PANEL + GAP + 44.0 + legend;
    let x = |value: f64| LEFT + time.part(value) * (WIDTH - LEFT - RIGHT);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n"
    );
    let mut panel = |top: f64, title: &str, ticks: &[(f64, String)], y: &dyn Fn(&Point) -> f64| {
        let bottom = top + PANEL;
        // Writing into a string cannot fail.
        let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\" font-weight=\"bold\">{title}</text>", top - 8.0);
        for (part, label) in ticks {
            let at = bottom - part * PANEL;
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0
            );
        }
        for tick in time.ticks() {
            let at = x(tick);
            let _ = writeln!(
                out,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\" stroke=\"#eee\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
                bottom + 16.0
            );
        }
        for (run, color) in runs.iter().zip(COLORS.iter().cycle()) {
            let mut line = String::new();
            let mut drawn = None;
            for point in run.points.iter().filter(|point| point.time >= FIRST) {
                let place = (x(point.time), bottom - y(point).clamp(0.0, 1.0) * PANEL);
                // Closer than that nobody sees it.
                if drawn.is_none_or(|(px, py): (f64, f64)| (place.0 - px).hypot(place.1 - py) > 1.5) {
                    let _ = write!(line, "{:.1},{:.1} ", place.0, place.1);
                    drawn = Some(place);
                }
            }
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"/>",
                line.trim_end()
            );
        }
    };
    let parts: Vec<_> = [0, 25, 50, 75, 90, 100].map(|part| (f64::from(part) / 100.0, format!("{part} %"))).to_vec();
    panel(TOP, "memory saved, of what can be had", &parts, &|point| point.saved / all);
    let seconds: Vec<_> = cpu.ticks().iter().map(|tick| (cpu.part(*tick), format!("{tick} s"))).collect();
    panel(TOP + PANEL + GAP, "processor time of ksmd", &seconds, &|point| cpu.part(point.cpu));
    let mut below = TOP + 2.0 * PANEL + GAP + 32.0;
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{below}\" text-anchor=\"end\">seconds since the regulator was switched on</text>",
        WIDTH - RIGHT
    );
    for (run, color) in runs.iter().zip(COLORS.iter().cycle()) {
        below += 20.0;
        let middle = below - 4.0;
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"{color}\" stroke-width=\"3\"/>\
             <text x=\"{}\" y=\"{below}\">{}</text>",
            LEFT + 30.0,
            LEFT + 38.0,
            run.rule.name().replace('`', "")
        );
    }
    out += "</svg>\n";
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Rule;

    #[test]
    fn every_regulator_has_a_line_in_both_panels_and_a_name() {
        let point = |at: i32| Point { time: f64::from(at), saved: f64::from(at) * 1e6, cpu: f64::from(at) };
        let runs = Rule::ALL.map(|rule| Run { rule, points: (0..50).map(point).collect() });
        let picture = svg(&runs);
        assert_eq!(picture.matches("<polyline").count(), 10);
        assert!(Rule::ALL.iter().all(|rule| picture.contains(&rule.name().replace('`', ""))));
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
    }
}
