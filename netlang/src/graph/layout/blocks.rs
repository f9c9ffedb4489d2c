//! Which part is in which row of which block.

use super::super::model::{ItemKind, LineKind, Model};
use super::{Size, Sizes};
use hashbrown::HashMap;

/// Items in a row; more make another row.
const MOST_IN_ROW: usize = 8;
/// Width by height that is aimed at: that of a slide, less its title.
const ASPECT: f64 = 1.7;
/// What lines between rows and gaps between parts take, about.
const GAP: f64 = 50.0;

/// A part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Child {
    Item(u32),
    Block(u32),
    /// The title of a cluster.
    Title(u32),
}

/// A cluster, or parts that belong together without a box around them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Block {
    pub(crate) cluster: Option<u32>,
    pub(crate) rows: Vec<Vec<Child>>,
    /// The block around it, and the row there.
    pub(crate) parent: Option<(u32, usize)>,
}

/// The tree of blocks; the first is the canvas, inner ones come after outer ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Blocks {
    pub(crate) all: Vec<Block>,
    /// Block and row of each item.
    pub(crate) place: Vec<(u32, usize)>,
}

impl Blocks {
    pub(crate) fn new(model: &Model, sizes: &Sizes) -> Blocks {
        let mut parts: HashMap<Option<u32>, Vec<Child>> = HashMap::new();
        for (at, item) in (0u32..).zip(&model.items) {
            parts.entry(item.cluster).or_default().push(Child::Item(at));
        }
        // Clusters are blocks; for now their numbers stand for them.
        for (at, cluster) in (0u32..).zip(&model.clusters) {
            parts.entry(cluster.parent).or_default().push(Child::Block(at));
        }
        let mut build =
            Build { model, sizes, parts, joined: joined(model), blocks: Blocks::default(), kinds: Vec::new() };
        build.blocks.place = vec![(0, 0); model.items.len()];
        build.block(None);
        build.blocks
    }

    /// Where an item is, from the inside out: block, row and part.
    pub(crate) fn chain(&self, item: u32) -> Vec<(u32, usize, Child)> {
        let (block, row) = self.place[item as usize];
        let mut chain = vec![(block, row, Child::Item(item))];
        let mut at = block;
        while let Some((parent, row)) = self.all[at as usize].parent {
            chain.push((parent, row, Child::Block(at)));
            at = parent;
        }
        chain
    }
}

/// For each cluster (and the file), pairs of its parts that an attachment joins.
fn joined(model: &Model) -> HashMap<Option<u32>, Vec<[Child; 2]>> {
    let chain = |item: u32| {
        let mut chain = vec![Child::Item(item)];
        let mut at = model.items[item as usize].cluster;
        while let Some(cluster) = at {
            chain.push(Child::Block(cluster));
            at = model.clusters[cluster as usize].parent;
        }
        chain.reverse();
        chain
    };
    let mut joined: HashMap<Option<u32>, Vec<[Child; 2]>> = HashMap::new();
    for line in model.lines.iter().filter(|l| l.kind == LineKind::Attach) {
        let [a, b] = line.ends.map(chain);
        let mut scope = None;
        for (x, y) in a.iter().zip(&b) {
            if x != y {
                joined.entry(scope).or_default().push([*x, *y]);
                break;
            }
            if let Child::Block(cluster) = x {
                scope = Some(*cluster);
            }
        }
    }
    joined
}

struct Build<'a> {
    model: &'a Model,
    sizes: &'a Sizes,
    parts: HashMap<Option<u32>, Vec<Child>>,
    joined: HashMap<Option<u32>, Vec<[Child; 2]>>,
    blocks: Blocks,
    /// About how large a block will be.
    kinds: Vec<Size>,
}

impl Build<'_> {
    fn new_block(&mut self, cluster: Option<u32>) -> u32 {
        self.blocks.all.push(Block { cluster, ..Block::default() });
        self.kinds.push(Size::default());
        self.blocks.all.len() as u32 - 1
    }

    /// Makes the block of a cluster, or of the file.
    fn block(&mut self, cluster: Option<u32>) -> u32 {
        let id = self.new_block(cluster);
        let parts = self.parts.remove(&cluster).unwrap_or_default();
        let components = components(&parts, self.joined.get(&cluster).map_or(&[], |j| j));
        let mut rows = match components.as_slice() {
            [] => Vec::new(),
            [only] => self.ranked(only),
            many => {
                let mut whole = Vec::new();
                for component in many {
                    let first = component.iter().any(|c| self.is(*c, ItemKind::External));
                    let child = match component.as_slice() {
                        [Child::Item(item)] => Child::Item(*item),
                        [Child::Block(cluster)] => Child::Block(self.block(Some(*cluster))),
                        parts => {
                            let inner = self.new_block(None);
                            let rows = self.ranked(parts);
                            self.finish(inner, rows);
                            Child::Block(inner)
                        }
                    };
                    whole.push((first, child));
                }
                self.shelves(&whole)
            }
        };
        if let Some(cluster) = cluster {
            rows.insert(0, vec![Child::Title(cluster)]);
        }
        self.finish(id, rows);
        id
    }

    fn finish(&mut self, block: u32, rows: Vec<Vec<Child>>) {
        for (at, row) in rows.iter().enumerate() {
            for child in row {
                match child {
                    Child::Item(item) => self.blocks.place[*item as usize] = (block, at),
                    Child::Block(inner) => self.blocks.all[*inner as usize].parent = Some((block, at)),
                    Child::Title(_) => {}
                }
            }
        }
        self.kinds[block as usize] = self.rows_size(&rows);
        self.blocks.all[block as usize].rows = rows;
    }

    fn rows_size(&self, rows: &[Vec<Child>]) -> Size {
        let mut size = Size::default();
        for row in rows {
            let w: f64 = row.iter().map(|c| self.size(*c).w + GAP / 2.0).sum();
            let h = row.iter().map(|c| self.size(*c).h).fold(0.0, f64::max);
            size = Size { w: size.w.max(w), h: size.h + h + GAP };
        }
        size
    }

    fn size(&self, child: Child) -> Size {
        match child {
            Child::Item(item) => self.sizes.items[item as usize],
            Child::Block(block) => self.kinds[block as usize],
            Child::Title(cluster) => self.sizes.titles[cluster as usize],
        }
    }

    fn is(&self, child: Child, kind: ItemKind) -> bool {
        matches!(child, Child::Item(item) if self.model.items[item as usize].kind == kind)
    }

    /// Rows by kind: what is outside, routers, lans, VMs; clusters stand below the lans of the file that they are on.
    fn ranked(&mut self, parts: &[Child]) -> Vec<Vec<Child>> {
        let mut ranks: [Vec<Child>; 4] = Default::default();
        for part in parts {
            match *part {
                Child::Item(item) => ranks[self.model.items[item as usize].kind as usize].push(*part),
                Child::Block(cluster) => {
                    let block = self.block(Some(cluster));
                    ranks[ItemKind::Vm as usize].push(Child::Block(block));
                }
                Child::Title(_) => {}
            }
        }
        let mut rows = Vec::new();
        for rank in ranks {
            if rank.is_empty() {
                continue;
            }
            // Many rows of eight would be a tower, not a picture.
            let most = MOST_IN_ROW.max(rank.len().isqrt() * 2);
            let per_row = rank.len().div_ceil(rank.len().div_ceil(most));
            rows.extend(rank.chunks(per_row).map(<[Child]>::to_vec));
        }
        rows
    }

    /// Parts side by side, in as many rows as make a good page; those that lead outside come first.
    fn shelves(&self, parts: &[(bool, Child)]) -> Vec<Vec<Child>> {
        let outside: Vec<Child> = parts.iter().filter(|p| p.0).map(|p| p.1).collect();
        let inside: Vec<Child> = parts.iter().filter(|p| !p.0).map(|p| p.1).collect();
        let mut best: Option<(f64, Vec<Vec<Child>>)> = None;
        for count in 1..=inside.len().min(64) {
            let per_row = inside.len().div_ceil(count);
            let mut rows: Vec<Vec<Child>> = if outside.is_empty() { Vec::new() } else { vec![outside.clone()] };
            rows.extend(inside.chunks(per_row).map(<[Child]>::to_vec));
            let size = self.rows_size(&rows);
            let ratio = size.w / size.h.max(1.0) / ASPECT;
            let off = ratio.max(1.0 / ratio.max(1e-6));
            if best.as_ref().is_none_or(|(least, _)| off < *least) {
                best = Some((off, rows));
            }
        }
        best.map_or_else(|| vec![outside], |(_, rows)| rows)
    }
}

/// Sets of parts that are joined, each in the order of the parts, sets by their first one.
fn components(parts: &[Child], joined: &[[Child; 2]]) -> Vec<Vec<Child>> {
    let at: HashMap<Child, usize> = parts.iter().enumerate().map(|(n, c)| (*c, n)).collect();
    let mut root: Vec<usize> = (0..parts.len()).collect();
    fn find(root: &mut [usize], mut at: usize) -> usize {
        while root[at] != at {
            root[at] = root[root[at]];
            at = root[at];
        }
        at
    }
    for [a, b] in joined {
        if let (Some(a), Some(b)) = (at.get(a), at.get(b)) {
            let (a, b) = (find(&mut root, *a), find(&mut root, *b));
            root[a.max(b)] = a.min(b);
        }
    }
    let mut sets: Vec<Vec<Child>> = vec![Vec::new(); parts.len()];
    for (n, part) in parts.iter().enumerate() {
        sets[find(&mut root, n)].push(*part);
    }
    sets.retain(|s| !s.is_empty());
    sets
}
