//! Where everything is drawn.
//!
//! Boxes are laid out from the inside out. A box has its parts in rows: what is outside, routers, lans, VMs; or, when its
//! parts hang together only by links, each such part as a whole, side by side. Between two rows is a channel, in which
//! lines run: those of attachments as curves, those of links along horizontal tracks that they share with nobody,
//! so that their labels never meet. A line that passes a row has a place of its own in it, like a very thin item.
//!
//! This is the layered drawing of Sugiyama, Tagawa and Toda (1981), with rows that the network's structure gives, and
//! with the channels of circuit boards.

mod blocks;
mod channel;
mod place;
mod rows;

use super::model::Model;
use blocks::{Blocks, Child};
use place::Placed;

/// Width and height, in pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Size {
    pub(crate) w: f64,
    pub(crate) h: f64,
}

/// A place on the canvas, its corner at the left and top.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rect {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) w: f64,
    pub(crate) h: f64,
}

/// A point on the canvas.
pub(crate) type Point = (f64, f64);

/// The way of a line from its first end to its second, and its label.
#[derive(Debug, Clone, Default)]
pub(crate) struct Route {
    /// Neighbours that differ in both coordinates are joined by a curve, others by a straight line.
    pub(crate) points: Vec<Point>,
    pub(crate) label: Option<Rect>,
}

/// Where everything is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    pub(crate) size: Size,
    pub(crate) items: Vec<Rect>,
    pub(crate) clusters: Vec<Rect>,
    /// The titles of the clusters.
    pub(crate) titles: Vec<Rect>,
    pub(crate) lines: Vec<Route>,
    /// The blocks that the layout is made of.
    blocks: Vec<Rect>,
}

impl Layout {
    /// The left edge of a part.
    fn left(&self, child: Child) -> f64 {
        match child {
            Child::Item(item) => self.items[item as usize].x,
            Child::Block(block) => self.blocks[block as usize].x,
            Child::Title(cluster) => self.titles[cluster as usize].x,
        }
    }
}

/// Sizes of what is to be drawn: items, titles of clusters, labels of lines (of no size when there is none).
#[derive(Debug, Clone, Default)]
pub(crate) struct Sizes {
    pub(crate) items: Vec<Size>,
    pub(crate) titles: Vec<Size>,
    pub(crate) labels: Vec<Size>,
}

/// Lays out a model.
pub(crate) fn lay_out(model: &Model, sizes: &Sizes) -> Layout {
    let blocks = Blocks::new(model, sizes);
    let requests = place::requests(model, &blocks);
    // Again when it is known what lies where, so that lines leave their boxes on the right side.
    let first = arranged(model, sizes, &blocks, &requests, None);
    let second = arranged(model, sizes, &blocks, &requests, Some(&first));
    arranged(model, sizes, &blocks, &requests, Some(&second))
}

fn arranged(
    model: &Model,
    sizes: &Sizes,
    blocks: &Blocks,
    requests: &[Vec<place::Request>],
    earlier: Option<&Layout>,
) -> Layout {
    let mut placed: Vec<Placed> = vec![Placed::default(); blocks.all.len()];
    // Inner blocks were added after outer ones.
    for block in (0..blocks.all.len()).rev() {
        placed[block] = place::place(model, sizes, blocks, block, &requests[block], &placed, earlier);
    }
    let mut layout = Layout {
        size: placed.first().map(|p| p.size).unwrap_or_default(),
        items: vec![Rect::default(); model.items.len()],
        clusters: vec![Rect::default(); model.clusters.len()],
        titles: vec![Rect::default(); model.clusters.len()],
        lines: vec![Route::default(); model.lines.len()],
        blocks: vec![Rect::default(); blocks.all.len()],
    };
    for (at, it) in placed.iter().enumerate() {
        let Rect { x, y, .. } = layout.blocks[at];
        for (child, rect) in &it.children {
            let rect = Rect { x: x + rect.x, y: y + rect.y, ..*rect };
            match *child {
                Child::Item(item) => layout.items[item as usize] = rect,
                Child::Title(cluster) => layout.titles[cluster as usize] = rect,
                Child::Block(inner) => {
                    layout.blocks[inner as usize] = rect;
                    if let Some(cluster) = blocks.all[inner as usize].cluster {
                        layout.clusters[cluster as usize] = rect;
                    }
                }
            }
        }
    }
    let mut pieces: Vec<Vec<(usize, place::Piece)>> = vec![Vec::new(); model.lines.len()];
    for (at, it) in placed.iter().enumerate() {
        for piece in &it.pieces {
            pieces[piece.line as usize].push((at, piece.clone()));
        }
    }
    for (line, mut pieces) in pieces.into_iter().enumerate() {
        // From the first end outwards, across, and inwards to the second; deeper blocks have higher numbers.
        pieces.sort_by_key(|(at, piece)| match piece.part {
            place::Part::From => (0, -(*at as i64)),
            place::Part::Across => (1, 0),
            place::Part::To => (2, *at as i64),
        });
        let mut route = Route::default();
        for (at, piece) in pieces {
            let Rect { x, y, .. } = layout.blocks[at];
            let shift = |p: &Point| (p.0 + x, p.1 + y);
            match piece.part {
                place::Part::To => route.points.extend(piece.points.iter().rev().map(shift)),
                _ => route.points.extend(piece.points.iter().map(shift)),
            }
            if let Some(label) = piece.label {
                route.label = Some(Rect { x: label.x + x, y: label.y + y, ..label });
            }
        }
        route.points.dedup_by(|a, b| (a.0 - b.0).abs() < 0.05 && (a.1 - b.1).abs() < 0.05);
        layout.lines[line] = route;
    }
    layout
}
