//! The graph as SVG: the layout's rectangles and ways, with shapes, colours and texts.
//!
//! Kinds differ in shape and icon as well as in colour, and the colours are those of Okabe and Ito, which people tell
//! apart whatever they see of colours, and which print well.

use super::icons::{ICON, cloud, icon};
use super::layout::{Layout, Point, Rect, Size, Sizes, lay_out};
use super::measure::width;
use super::model::{Item, ItemKind, LineKind, Model};
use super::{GraphSums, words};
use crate::text::thousands;
use std::fmt::Write;

const NAME: f64 = 14.0;
const SMALL: f64 = 11.5;
const LINE: f64 = 15.0;
const TITLE: f64 = 22.0;
const MARGIN: f64 = 30.0;
/// How far the cards behind a folded node look out.
const STACK: f64 = 4.0;
/// The radius of a line's corners.
const CORNER: f64 = 8.0;
const ARROW: f64 = 9.0;

const STYLE: &str = "\
text{font-family:Helvetica,Arial,'Liberation Sans',sans-serif;fill:#1d2329}\
.name{font-size:14px;font-weight:bold}.small{font-size:11.5px;fill:#4c5661}.title{font-size:22px;font-weight:bold}\
.page{fill:#fff}.halo{fill:#fff}.in .halo{fill:#f6f8fa}\
.box{fill:#f6f8fa;stroke:#b3bdc7;stroke-width:1.2}.behind{fill:#f6f8fa;stroke:#cdd5dd}\
.attach{fill:none;stroke:#8a96a3;stroke-width:1.4}.link{fill:none;stroke:#3a4550;stroke-width:2}\
.arrow{fill:#3a4550}.icon{fill:none;stroke-width:1.6;stroke-linecap:round;stroke-linejoin:round}\
.shape{stroke-width:1.4}\
.vm{fill:#fdf0d5;stroke:#a86500}.lan{fill:#dcf3ea;stroke:#00795a}\
.router{fill:#dcebf7;stroke:#0067a5}.external{fill:#f6e6ef;stroke:#9a4b78}\
.icon.vm,.icon.lan,.icon.router,.icon.external{fill:none}\
@media (prefers-color-scheme:dark){text{fill:#e8ecf0}.small{fill:#aab4be}.page,.halo{fill:#14181d}.in .halo{fill:#1c2229}\
.box{fill:#1c2229;stroke:#57626d}.behind{fill:#1c2229;stroke:#424c56}.attach{stroke:#77828e}.link{stroke:#c3ccd5}\
.arrow{fill:#c3ccd5}.vm{fill:#3a2c10;stroke:#e6a73c}.lan{fill:#0f352a;stroke:#3cc09a}\
.router{fill:#0f2d44;stroke:#5db4ee}.external{fill:#3b2231;stroke:#d58fb5}}";

fn class(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Vm => "vm",
        ItemKind::Lan => "lan",
        ItemKind::Router => "router",
        ItemKind::External => "external",
    }
}

/// Texts and sizes of everything.
struct Texts {
    items: Vec<(String, Vec<String>)>,
    titles: Vec<(String, String)>,
    labels: Vec<Vec<String>>,
}

/// Where everything is on the canvas; the tests look at it, too.
pub(crate) struct Canvas {
    pub(crate) size: Size,
    pub(crate) layout: Layout,
}

fn texts(model: &Model) -> Texts {
    Texts {
        items: model.items.iter().map(words::item).collect(),
        titles: model.clusters.iter().map(words::cluster).collect(),
        labels: model.lines.iter().map(words::line).collect(),
    }
}

fn sizes(model: &Model, texts: &Texts) -> Sizes {
    Sizes {
        items: model.items.iter().zip(&texts.items).map(|(i, t)| item_size(i, t)).collect(),
        titles: (texts.titles.iter())
            .map(|(name, module)| Size { w: width(name, NAME, true).max(width(module, SMALL, false)), h: 33.0 })
            .collect(),
        labels: (texts.labels.iter())
            .map(|lines| match lines.is_empty() {
                true => Size::default(),
                false => Size { w: widest(lines, true) + 10.0, h: lines.len() as f64 * 14.0 + 4.0 },
            })
            .collect(),
    }
}

fn widest(lines: &[String], bold: bool) -> f64 {
    lines.iter().map(|l| width(l, SMALL, bold)).fold(0.0, f64::max)
}

fn item_size(item: &Item, (name, lines): &(String, Vec<String>)) -> Size {
    let text = width(name, NAME, true).max(widest(lines, false));
    let (w, h) = (text + ICON + 34.0, 20.0 + 16.0 + LINE * lines.len() as f64);
    let (w, h) = if item.kind == ItemKind::External { (w + 24.0, h + 22.0) } else { (w, h) };
    // Lans are round at the ends.
    let w = if item.kind == ItemKind::Lan { w + 14.0 } else { w };
    let stack = if item.elements > 1 { 2.0 * STACK } else { 0.0 };
    Size { w: w.max(92.0) + stack, h: h + stack }
}

/// Lays a model out below its heading.
pub(crate) fn canvas(title: &str, model: &Model, sums: &GraphSums, notes: &[String]) -> Canvas {
    let mut layout = lay_out(model, &sizes(model, &texts(model)));
    let heading = 80.0;
    let legend: f64 = legend(model, sums).iter().map(|(_, text)| legend_width(text)).sum();
    let least = [width(title, TITLE, true), legend, widest(notes, false)].into_iter().fold(0.0, f64::max);
    let inner = layout.size.w.max(least);
    // What is narrower than the heading stands in the middle.
    let dx = MARGIN + (inner - layout.size.w) / 2.0;
    let dy = MARGIN + heading;
    let moved = |r: &mut Rect| (r.x, r.y) = (r.x + dx, r.y + dy);
    layout.items.iter_mut().chain(&mut layout.clusters).chain(&mut layout.titles).for_each(moved);
    for route in &mut layout.lines {
        for point in &mut route.points {
            *point = (point.0 + dx, point.1 + dy);
        }
        route.label.iter_mut().for_each(moved);
    }
    let size = Size { w: inner + 2.0 * MARGIN, h: layout.size.h + heading + 2.0 * MARGIN + 16.0 * notes.len() as f64 };
    Canvas { size, layout }
}

/// What the picture's signs mean, with the sums.
fn legend(model: &Model, sums: &GraphSums) -> Vec<(Sign, String)> {
    let kinds = [
        (ItemKind::Vm, sums.vms),
        (ItemKind::Router, sums.routers),
        (ItemKind::Lan, sums.lans),
        (ItemKind::External, sums.externals),
    ];
    let mut signs: Vec<(Sign, String)> =
        kinds.iter().filter(|(_, n)| *n > 0).map(|(kind, n)| (Sign::Kind(*kind), kind.count(*n))).collect();
    if sums.links > 0 {
        let s = if sums.links == 1 { "" } else { "s" };
        signs.push((Sign::Link, format!("{} link{s}", thousands(sums.links))));
    }
    if model.lines.iter().any(|l| l.transit) {
        signs.push((Sign::Arrow, "buys transit from".to_owned()));
    }
    signs
}

#[derive(Clone, Copy)]
enum Sign {
    Kind(ItemKind),
    Link,
    Arrow,
}

fn legend_width(text: &str) -> f64 {
    ICON + 6.0 + width(text, 13.0, false) * 0.9 + 24.0
}

/// Draws a model.
pub(crate) fn svg(title: &str, model: &Model, sums: &GraphSums, notes: &[String]) -> String {
    let texts = texts(model);
    let Canvas { size, layout } = canvas(title, model, sums, notes);
    let mut out = Out(String::new());
    let (w, h) = (size.w.ceil(), size.h.ceil());
    out.put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\">\n"
    ));
    out.put(format_args!("<title>{}</title>\n<style>{STYLE}</style>\n", escape(title)));
    out.put(format_args!("<rect class=\"page\" width=\"{w}\" height=\"{h}\"/>\n"));
    out.text("title", MARGIN, MARGIN + 18.0, title);
    let mut x = MARGIN;
    for (sign, text) in legend(model, sums) {
        out.sign(sign, x, MARGIN + 33.0);
        let y = MARGIN + 48.0;
        out.put(format_args!("<text style=\"font-size:13px\" x=\"{:.1}\" y=\"{y}\">{text}</text>\n", x + ICON + 6.0));
        x += legend_width(&text);
    }
    for ((rect, title), (cluster, text)) in
        layout.clusters.iter().zip(&layout.titles).zip(model.clusters.iter().zip(&texts.titles))
    {
        out.cluster(*rect, *title, text, cluster.instances > 1);
    }
    for (route, line) in layout.lines.iter().zip(&model.lines) {
        let class = if line.kind == LineKind::Attach { "attach" } else { "link" };
        out.line(&route.points, class, line.transit);
    }
    for (rect, (item, text)) in layout.items.iter().zip(model.items.iter().zip(&texts.items)) {
        out.item(*rect, item, text);
    }
    for (route, text) in layout.lines.iter().zip(&texts.labels) {
        let Some(rect) = route.label else { continue };
        let inside = layout.clusters.iter().any(|c| contains(c, &rect));
        out.label(rect, text, inside);
    }
    for (n, note) in notes.iter().rev().enumerate() {
        out.text("small", MARGIN, size.h - MARGIN / 2.0 - 4.0 - 16.0 * n as f64, note);
    }
    out.0.push_str("</svg>\n");
    out.0
}

/// Whether a rectangle lies within another one.
pub(crate) fn contains(outer: &Rect, inner: &Rect) -> bool {
    outer.x <= inner.x
        && outer.y <= inner.y
        && inner.x + inner.w <= outer.x + outer.w
        && inner.y + inner.h <= outer.y + outer.h
}

struct Out(String);

impl Out {
    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(text);
    }

    fn text(&mut self, class: &str, x: f64, y: f64, text: &str) {
        self.put(format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n", escape(text)));
    }

    fn icon(&mut self, kind: ItemKind, x: f64, y: f64) {
        let class = class(kind);
        self.put(format_args!("<g class=\"icon {class}\" transform=\"translate({x:.1} {y:.1})\">{}</g>\n", icon(kind)));
    }

    fn sign(&mut self, sign: Sign, x: f64, y: f64) {
        let middle = y + ICON / 2.0;
        match sign {
            Sign::Kind(kind) => self.icon(kind, x, y),
            Sign::Link => self.put(format_args!("<path class=\"link\" d=\"M{x:.1} {middle:.1}h{ICON}\"/>\n")),
            Sign::Arrow => self.line(&[(x, middle), (x + ICON, middle)], "link", true),
        }
    }

    fn cluster(&mut self, rect: Rect, title: Rect, (name, module): &(String, String), folded: bool) {
        let Rect { x, y, w, h } = rect;
        self.put(format_args!("<g class=\"in\"><title>{}</title>\n", escape(&format!("{name}: {module}"))));
        for n in (1..=if folded { 2 } else { 0 }).rev() {
            let off = STACK * f64::from(n);
            let (x, y) = (x + off, y + off);
            self.put(format_args!(
                "<rect class=\"behind\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"12\"/>\n"
            ));
        }
        self.put(format_args!(
            "<rect class=\"box\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"12\"/>\n"
        ));
        let base = title.y + 13.0;
        self.text("name", title.x, base, name);
        self.text("small", title.x, base + LINE, module);
        self.0.push_str("</g>\n");
    }

    fn item(&mut self, rect: Rect, item: &Item, (name, lines): &(String, Vec<String>)) {
        let class = class(item.kind);
        let folded = item.elements > 1;
        let stack = if folded { 2.0 * STACK } else { 0.0 };
        let (w, h) = (rect.w - stack, rect.h - stack);
        self.put(format_args!("<g><title>{}</title>\n", escape(&words::item_tooltip(item))));
        for n in (0..=if folded { 2 } else { 0 }).rev() {
            let off = STACK * f64::from(n);
            let (x, y) = (rect.x + off, rect.y + off);
            if item.kind == ItemKind::External {
                let path = cloud(w, h);
                self.put(format_args!(
                    "<path class=\"shape {class}\" transform=\"translate({x:.1} {y:.1})\" d=\"{path}\"/>\n"
                ));
                continue;
            }
            let round = if item.kind == ItemKind::Lan { h / 2.0 } else { 7.0 };
            self.put(format_args!(
                "<rect class=\"shape {class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" \
                 rx=\"{round:.1}\"/>\n"
            ));
        }
        let inset = match item.kind {
            ItemKind::External => 23.0,
            ItemKind::Lan => 17.0,
            _ => 11.0,
        };
        let text_h = 16.0 + LINE * lines.len() as f64;
        let top = rect.y + (h - text_h) / 2.0;
        self.icon(item.kind, rect.x + inset, rect.y + (h - ICON) / 2.0);
        let x = rect.x + inset + ICON + 10.0;
        self.text("name", x, top + 12.5, name);
        for (n, line) in lines.iter().enumerate() {
            self.text("small", x, top + 12.5 + LINE * (n + 1) as f64, line);
        }
        self.0.push_str("</g>\n");
    }

    fn label(&mut self, rect: Rect, lines: &[String], inside: bool) {
        let Rect { x, y, w, h } = rect;
        let class = if inside { " class=\"in\"" } else { "" };
        self.put(format_args!(
            "<g{class} text-anchor=\"middle\"><rect class=\"halo\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" \
             height=\"{h:.1}\" rx=\"4\"/>\n"
        ));
        for (n, line) in lines.iter().enumerate() {
            let weight = if n == 0 && lines.len() > 1 { " font-weight=\"bold\"" } else { "" };
            let (x, y) = (x + w / 2.0, y + 13.0 + 14.0 * n as f64);
            self.put(format_args!("<text class=\"small\"{weight} x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n", escape(line)));
        }
        self.0.push_str("</g>\n");
    }

    fn line(&mut self, points: &[Point], class: &str, arrow: bool) {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
        let mut path = format!("M{:.1} {:.1}", first.0, first.1);
        for (n, pair) in points.windows(2).enumerate() {
            let (from, to) = (pair[0], pair[1]);
            if level(from, to) || upright(from, to) {
                match points.get(n + 2) {
                    // Rounded where two straight pieces meet.
                    Some(next) if level(from, to) != level(to, *next) && (level(to, *next) || upright(to, *next)) => {
                        let r = CORNER.min(distance(from, to) / 2.0).min(distance(to, *next) / 2.0);
                        let (before, after) = (towards(to, from, r), towards(to, *next, r));
                        let _ = write!(
                            path,
                            "L{:.1} {:.1}Q{:.1} {:.1} {:.1} {:.1}",
                            before.0, before.1, to.0, to.1, after.0, after.1
                        );
                    }
                    _ => drop(write!(path, "L{:.1} {:.1}", to.0, to.1)),
                }
            } else {
                let middle = (from.1 + to.1) / 2.0;
                let _ = write!(path, "C{:.1} {middle:.1} {:.1} {middle:.1} {:.1} {:.1}", from.0, to.0, to.0, to.1);
            }
        }
        self.put(format_args!("<path class=\"{class}\" d=\"{path}\"/>\n"));
        let before = points.iter().rev().find(|p| distance(**p, *last) > 0.1);
        if let Some(before) = before.filter(|_| arrow) {
            let back = towards(*last, *before, ARROW);
            // Half as wide as long, at right angles to the line.
            let (nx, ny) = ((last.1 - back.1) / 2.0, (back.0 - last.0) / 2.0);
            self.put(format_args!(
                "<path class=\"arrow\" d=\"M{:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}z\"/>\n",
                last.0,
                last.1,
                back.0 + nx,
                back.1 + ny,
                back.0 - nx,
                back.1 - ny
            ));
        }
    }
}

fn level(a: Point, b: Point) -> bool {
    (a.1 - b.1).abs() < 0.6
}

fn upright(a: Point, b: Point) -> bool {
    (a.0 - b.0).abs() < 0.6
}

fn distance(a: Point, b: Point) -> f64 {
    // The points of a line are above or beside one another.
    (a.0 - b.0).abs().max((a.1 - b.1).abs())
}

fn towards(from: Point, to: Point, by: f64) -> Point {
    let length = distance(from, to).max(0.001);
    (from.0 + (to.0 - from.0) / length * by, from.1 + (to.1 - from.1) / length * by)
}

/// A text for XML: characters that XML does not have become spaces.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push('\n'),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
