//! One block: its rows, the channels between them, and the ways of the lines in it.

use super::super::model::{LineKind, Model};
use super::blocks::{Blocks, Child};
use super::channel::{Run, Track, tracks};
use super::rows::{Hop, Pin, Rows, Side, Slot, Target};
use super::{Layout, Point, Rect, Size, Sizes};
use hashbrown::HashMap;

/// Between parts of a row.
const GAP: f64 = 26.0;
/// Between a passing line and a part.
const THIN_GAP: f64 = 14.0;
/// Between the border of a cluster and its parts.
const PADDING: f64 = 18.0;
/// A channel with curves, with straight lines only, and with none.
const CURVED: f64 = 46.0;
const STRAIGHT: f64 = 28.0;
const EMPTY: f64 = 28.0;
/// Below the title of a cluster.
const BELOW_TITLE: f64 = 4.0;
/// Above and below the tracks of a channel.
const BESIDE_TRACKS: f64 = 12.0;
/// A track without labels.
const BARE_TRACK: f64 = 14.0;
/// Ends that differ by less are above one another.
const SAME: f64 = 0.5;

/// Which part of a line a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// From the first end outwards.
    From,
    /// In the block that holds both ends.
    Across,
    /// From the second end outwards.
    To,
}

/// A part of a line within a block, from the line's end outwards, or from the first end to the second.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub(crate) line: u32,
    pub(crate) part: Part,
    pub(crate) points: Vec<Point>,
    pub(crate) label: Option<Rect>,
}

/// A block that was laid out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Placed {
    pub(crate) size: Size,
    pub(crate) children: Vec<(Child, Rect)>,
    pub(crate) pieces: Vec<Piece>,
    /// Where lines leave it, from its left edge: by line and end (0 or 1).
    exits: HashMap<(u32, usize), f64>,
}

/// An end of a line, as a block sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    row: usize,
    child: Child,
    side: Side,
}

/// A line that a block has to draw a part of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    Across { line: u32, ends: [End; 2] },
    Exit { line: u32, number: usize, end: End, level: bool },
}

/// What each block has to draw.
pub(crate) fn requests(model: &Model, blocks: &Blocks) -> Vec<Vec<Request>> {
    let mut requests: Vec<Vec<Request>> = vec![Vec::new(); blocks.all.len()];
    for (number, line) in (0u32..).zip(&model.lines) {
        let chains = line.ends.map(|e| blocks.chain(e));
        let [a, b] = &chains;
        // The innermost block that holds both, and where in the chains it is.
        let Some((at_a, at_b)) =
            a.iter().enumerate().find_map(|(n, x)| b.iter().position(|y| y.0 == x.0).map(|m| (n, m)))
        else {
            continue;
        };
        let (row_a, row_b) = (a[at_a].1, b[at_b].1);
        let sides = [side(blocks, &a[..at_a], row_a < row_b), side(blocks, &b[..at_b], row_b < row_a)];
        for (n, (chain, at)) in chains.iter().zip([at_a, at_b]).enumerate() {
            for (block, row, child) in &chain[..at] {
                let end = End { row: *row, child: *child, side: sides[n] };
                requests[*block as usize].push(Request::Exit { line: number, number: n, end, level: row_a == row_b });
            }
        }
        let end = |chain: &[(u32, usize, Child)], at: usize, side| {
            let (_, row, child) = chain[at];
            End { row, child, side }
        };
        let ends = [end(a, at_a, sides[0]), end(b, at_b, sides[1])];
        requests[a[at_a].0 as usize].push(Request::Across { line: number, ends });
    }
    requests
}

/// A line leaves at the bottom only if it goes down and nothing of its block is in the way.
fn side(blocks: &Blocks, inner: &[(u32, usize, Child)], down: bool) -> Side {
    let free = |(block, row, _): &(u32, usize, Child)| row + 1 == blocks.all[*block as usize].rows.len();
    if down && inner.iter().all(free) { Side::Bottom } else { Side::Top }
}

/// The hops of a part of a line, in order.
struct Way {
    line: u32,
    part: Part,
    hops: Vec<usize>,
    /// The hops were made from the second end to the first.
    turned: bool,
}

struct Work<'a> {
    model: &'a Model,
    sizes: &'a Sizes,
    blocks: &'a Blocks,
    placed: &'a [Placed],
    /// Where everything was before.
    earlier: Option<&'a Layout>,
    rows: Rows,
    slot_of: HashMap<Child, usize>,
    ways: Vec<Way>,
}

/// Lays out a block whose inner blocks are laid out.
pub(crate) fn place(
    model: &Model,
    sizes: &Sizes,
    blocks: &Blocks,
    block: usize,
    requests: &[Request],
    placed: &[Placed],
    earlier: Option<&Layout>,
) -> Placed {
    let it = &blocks.all[block];
    let mut work = Work {
        model,
        sizes,
        blocks,
        placed,
        earlier,
        rows: Rows::default(),
        slot_of: HashMap::new(),
        ways: Vec::new(),
    };
    work.add_rows(&it.rows);
    for request in requests {
        match request {
            Request::Across { line, ends } => work.across(*line, *ends),
            Request::Exit { line, number, end, level } => work.exit(*line, *number, *end, *level),
        }
    }
    work.rows.arrange();
    let padding = if it.cluster.is_some() { PADDING } else { 0.0 };
    work.draw(&it.rows, padding)
}

impl Work<'_> {
    fn add_rows(&mut self, rows: &[Vec<Child>]) {
        for (row, children) in rows.iter().enumerate() {
            let mut slots = Vec::with_capacity(children.len());
            let mut children = children.clone();
            if let Some(earlier) = self.earlier {
                children.sort_by(|a, b| earlier.left(*a).total_cmp(&earlier.left(*b)));
            }
            for child in &children {
                let size = match *child {
                    Child::Item(item) => self.sizes.items[item as usize],
                    Child::Block(inner) => self.placed[inner as usize].size,
                    Child::Title(cluster) => self.sizes.titles[cluster as usize],
                };
                let first = matches!(child, Child::Title(_));
                self.slot_of.insert(*child, self.rows.slots.len());
                slots.push(self.rows.slots.len());
                self.rows.slots.push(Slot { row, w: size.w, h: size.h, x: 0.0, gap: GAP, first, thin: false });
            }
            self.rows.rows.push(slots);
        }
    }

    fn pin(&mut self, slot: usize, side: Side, at: Option<f64>) -> usize {
        let dx = at.unwrap_or(self.rows.slots[slot].w / 2.0);
        self.rows.pins.push(Pin { slot, side, dx, fixed: at.is_some() });
        self.rows.pins.len() - 1
    }

    fn end_pin(&mut self, line: u32, number: usize, end: End) -> Option<usize> {
        let slot = *self.slot_of.get(&end.child)?;
        let at = match end.child {
            Child::Block(inner) => self.placed[inner as usize].exits.get(&(line, number)).copied(),
            _ => None,
        };
        Some(self.pin(slot, end.side, at))
    }

    /// A place for a line in a row; its pins at the top and at the bottom.
    fn passage(&mut self, row: usize) -> (usize, usize) {
        let slot = self.rows.slots.len();
        self.rows.slots.push(Slot { row, w: 2.0, h: 0.0, x: 0.0, gap: THIN_GAP, first: false, thin: true });
        self.rows.rows[row].push(slot);
        (self.pin(slot, Side::Top, Some(1.0)), self.pin(slot, Side::Bottom, Some(1.0)))
    }

    fn hop(&mut self, channel: usize, from: usize, to: Option<usize>) -> usize {
        self.rows.hops.push(Hop { channel, from, to, target: None });
        self.rows.hops.len() - 1
    }

    fn across(&mut self, line: u32, ends: [End; 2]) {
        let turned = ends[0].row > ends[1].row;
        let (first, second) = if turned { (1, 0) } else { (0, 1) };
        let (upper, lower) = (ends[first], ends[second]);
        let Some(mut at) = self.end_pin(line, first, upper) else { return };
        let Some(end) = self.end_pin(line, second, lower) else { return };
        let start = if upper.side == Side::Bottom { upper.row + 1 } else { upper.row };
        let mut hops = Vec::new();
        for row in start..lower.row {
            let (top, bottom) = self.passage(row);
            hops.push(self.hop(row, at, Some(top)));
            at = bottom;
        }
        hops.push(self.hop(lower.row.max(start), at, Some(end)));
        self.ways.push(Way { line, part: Part::Across, hops, turned });
    }

    fn exit(&mut self, line: u32, number: usize, end: End, level: bool) {
        let Some(mut at) = self.end_pin(line, number, end) else { return };
        let slot = self.rows.pins[at].slot;
        let ends = self.model.lines[line as usize].ends;
        let middle = |r: &Rect| r.x + r.w / 2.0;
        let target = self.earlier.map(|earlier| {
            let [own, other] = [number, 1 - number].map(|n| middle(&earlier.items[ends[n] as usize]));
            Target { slot, dx: other - own, level }
        });
        let mut hops = Vec::new();
        if end.side == Side::Bottom {
            hops.push(self.hop(end.row + 1, at, None));
        } else {
            for row in (0..end.row).rev() {
                let (top, bottom) = self.passage(row);
                hops.push(self.hop(row + 1, at, Some(bottom)));
                at = top;
            }
            hops.push(self.hop(0, at, None));
        }
        for hop in &hops {
            self.rows.hops[*hop].target = target;
        }
        let part = if number == 0 { Part::From } else { Part::To };
        self.ways.push(Way { line, part, hops, turned: false });
    }

    fn is_cluster(&self, child: Child) -> bool {
        matches!(child, Child::Block(inner) if self.blocks.all[inner as usize].cluster.is_some())
    }

    fn is_link(&self, line: u32) -> bool {
        self.model.lines[line as usize].kind != LineKind::Attach
    }

    fn ends_of(&self, hop: usize) -> (f64, f64, bool) {
        let hop = &self.rows.hops[hop];
        let from = self.rows.pin_x(hop.from);
        let Some(to) = hop.to else { return (from, from, false) };
        (from, self.rows.pin_x(to), self.rows.pins[hop.from].side == self.rows.pins[to].side)
    }

    /// The hop of each line that has its label: the one that goes the farthest along a channel.
    fn labelled(&self) -> HashMap<usize, Size> {
        let mut found = HashMap::new();
        for way in self.ways.iter().filter(|w| w.part == Part::Across) {
            let label = self.sizes.labels[way.line as usize];
            if label.w > 0.0 {
                let far = |hop: &usize| {
                    let (from, to, level) = self.ends_of(*hop);
                    (from - to).abs() + if level { 10.0 } else { 0.0 }
                };
                let best = way.hops.iter().copied().reduce(|a, b| if far(&b) > far(&a) { b } else { a });
                found.extend(best.map(|hop| (hop, label)));
            }
        }
        found
    }

    fn draw(self, rows: &[Vec<Child>], padding: f64) -> Placed {
        let labelled = self.labelled();
        let count = self.rows.rows.len();
        let mut line_of: HashMap<usize, u32> = HashMap::new();
        for way in &self.ways {
            line_of.extend(way.hops.iter().map(|h| (*h, way.line)));
        }
        let mut in_channel: Vec<Vec<usize>> = vec![Vec::new(); count + 1];
        for (at, hop) in self.rows.hops.iter().enumerate() {
            in_channel[hop.channel].push(at);
        }
        // Channels first: how high they are decides where the rows are.
        let mut track_of: HashMap<usize, (Track, f64, f64)> = HashMap::new();
        let mut heights = Vec::with_capacity(count + 1);
        for (channel, hops) in in_channel.iter().enumerate() {
            let below_title = channel == 1 && matches!(rows.first().map(Vec::as_slice), Some([Child::Title(_)]));
            heights.push(self.channel(hops, &line_of, &labelled, below_title, (channel, count), &mut track_of));
        }
        let row_heights: Vec<f64> =
            self.rows.rows.iter().map(|r| r.iter().map(|s| self.rows.slots[*s].h).fold(0.0, f64::max)).collect();
        let mut y = padding;
        let mut channels = Vec::with_capacity(count + 1);
        let mut tops = Vec::with_capacity(count);
        for (n, height) in heights.iter().enumerate() {
            channels.push((y, y + height));
            y += height;
            if let Some(row) = row_heights.get(n) {
                tops.push(y);
                y += row;
            }
        }
        let height = y + padding;
        // Labels may be wider than the rows.
        let mut left: f64 = 0.0;
        let mut right = self.rows.slots.iter().map(|s| s.x + s.w).fold(0.0, f64::max);
        for (hop, (track, _, _)) in &track_of {
            let (from, to, _) = self.ends_of(*hop);
            let half = labelled.get(hop).map_or(0.0, |l| l.w / 2.0);
            left = left.min(track.middle - half).min(from).min(to);
            right = right.max(track.middle + half).max(from).max(to);
        }
        let dx = padding - left;
        let mut placed = Placed { size: Size { w: right - left + 2.0 * padding, h: height }, ..Placed::default() };
        let slot_y = |slot: usize| tops[self.rows.slots[slot].row];
        for child in rows.iter().flatten() {
            let slot = self.slot_of[child];
            let it = &self.rows.slots[slot];
            let x = if it.first { padding } else { it.x + dx };
            // Clusters beside one another end together.
            let h = if self.is_cluster(*child) { row_heights[it.row] } else { it.h };
            placed.children.push((*child, Rect { x, y: slot_y(slot), w: it.w, h }));
        }
        let pin_y = |pin: usize| {
            let pin = &self.rows.pins[pin];
            let it = &self.rows.slots[pin.slot];
            match pin.side {
                Side::Top => slot_y(pin.slot),
                // A passing line goes through the whole row.
                Side::Bottom if it.thin => tops[it.row] + row_heights[it.row],
                Side::Bottom => slot_y(pin.slot) + it.h,
            }
        };
        for way in &self.ways {
            let mut piece = Piece { line: way.line, part: way.part, points: Vec::new(), label: None };
            for hop in &way.hops {
                let it = &self.rows.hops[*hop];
                let (from, to, _) = self.ends_of(*hop);
                let (from, to) = (from + dx, to + dx);
                let (top, bottom) = channels[it.channel];
                let start = pin_y(it.from);
                let Some(end) = it.to.map(pin_y) else {
                    let edge = if self.rows.pins[it.from].side == Side::Top { 0.0 } else { height };
                    piece.points.extend([(from, start), (from, edge)]);
                    let number = usize::from(way.part == Part::To);
                    placed.exits.insert((way.line, number), from);
                    continue;
                };
                piece.points.push((from, start));
                if let Some((track, low, high)) = track_of.get(hop) {
                    let y = bottom - BESIDE_TRACKS - high * (track.track as f64 + 0.5) - low;
                    // The label of a loop stands on it: it would hide it.
                    let own = it.to.is_some_and(|to| self.rows.pins[to].slot == self.rows.pins[it.from].slot);
                    let arch = y + if own { labelled.get(hop).map_or(0.0, |l| l.h / 2.0) } else { 0.0 };
                    piece.points.extend([(from, arch), (to, arch)]);
                    if let Some(label) = labelled.get(hop) {
                        let (x, y) = (track.middle + dx - label.w / 2.0, y - label.h / 2.0);
                        piece.label = Some(Rect { x, y, w: label.w, h: label.h });
                    }
                } else if (from - to).abs() > SAME {
                    let down = start < end;
                    let (near, far) = if down { (top, bottom) } else { (bottom, top) };
                    piece.points.extend([(from, near), (to, far)]);
                }
                piece.points.push((to, end));
            }
            if way.turned {
                piece.points.reverse();
            }
            placed.pieces.push(piece);
        }
        placed
    }

    /// The height of a channel; tells the tracks of its hops, with the room below them and the height of one.
    fn channel(
        &self,
        hops: &[usize],
        line_of: &HashMap<usize, u32>,
        labelled: &HashMap<usize, Size>,
        below_title: bool,
        (channel, rows): (usize, usize),
        track_of: &mut HashMap<usize, (Track, f64, f64)>,
    ) -> f64 {
        let mut runs: Vec<(usize, Run)> = Vec::new();
        let mut verticals = Vec::new();
        let mut curved = false;
        let mut through = false;
        for hop in hops {
            let (from, to, level) = self.ends_of(*hop);
            verticals.extend([from, to]);
            through |= self.rows.hops[*hop].to.is_some();
            let apart = (from - to).abs() > SAME;
            let label = labelled.get(hop).copied();
            let link = line_of.get(hop).is_some_and(|line| self.is_link(*line));
            if level || label.is_some() || (link && apart) {
                runs.push((*hop, Run { span: [from.min(to), from.max(to)], level, label: label.unwrap_or_default() }));
            } else {
                curved |= apart;
            }
        }
        let found = tracks(&runs.iter().map(|r| r.1).collect::<Vec<_>>(), &verticals);
        let high = runs.iter().map(|r| r.1.label.h + 6.0).fold(BARE_TRACK, f64::max);
        let count = found.iter().map(|t| t.track + 1).max().unwrap_or(0);
        let bare = match (through, curved) {
            _ if below_title => BELOW_TITLE,
            (_, true) => CURVED,
            (true, false) => STRAIGHT,
            // Only what leaves the block, or nothing.
            (false, false) if channel == 0 || channel == rows => 0.0,
            (false, false) => EMPTY,
        };
        let height = bare.max(if count == 0 { 0.0 } else { count as f64 * high + 2.0 * BESIDE_TRACKS });
        // A few tracks in a high channel stand in its middle.
        let low = if count == 0 { 0.0 } else { (height - count as f64 * high - 2.0 * BESIDE_TRACKS) / 2.0 };
        for ((hop, _), track) in runs.iter().zip(found) {
            track_of.insert(*hop, (track, low, high));
        }
        height
    }
}
