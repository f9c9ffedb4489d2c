//! Blocks for the elements of an array, also of arrays within arrays.
//!
//! The elements of `t1[0..10].seg[0..4]` are places (i, j) in a box. A declaration gets one block for a box with
//! some room; when it outgrows the box, another block for the part outside is added. So nothing ever moves: an
//! element's place is found in the box that holds it, at `base + row-major offset * stride`.

use smallvec::SmallVec;

/// First index and end in each dimension.
type Bounds = Box<[(u32, u32)]>;

/// An element's indices, outermost first.
pub(crate) type Place = SmallVec<[u32; 4]>;

/// A block for the elements of one box.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Number or address of the first element.
    pub(crate) base: u32,
    /// Prefix length of one element, 0 for plain numbers.
    pub(crate) len: u8,
    /// Half-open bounds, one pair a dimension; none for a single thing.
    pub(crate) bounds: Bounds,
}

impl Extent {
    /// How many elements the box has.
    pub(crate) fn count(&self) -> u64 {
        self.bounds.iter().fold(1u64, |n, (from, until)| n.saturating_mul(u64::from(until.saturating_sub(*from))))
    }

    /// How many numbers one element takes.
    pub(crate) fn stride(&self) -> u64 {
        if self.len == 0 { 1 } else { 1 << (32 - u32::from(self.len.min(32))) }
    }

    /// One past the last number of the block.
    pub(crate) fn end(&self) -> u64 {
        u64::from(self.base).saturating_add(self.count().saturating_mul(self.stride()))
    }

    fn locate(&self, place: &[u32]) -> Option<u32> {
        let mut offset = 0u64;
        for ((from, until), index) in self.bounds.iter().zip(place) {
            if !(from..until).contains(&index) {
                return None;
            }
            offset = offset * u64::from(until - from) + u64::from(index - from);
        }
        u32::try_from(u64::from(self.base) + offset * self.stride()).ok()
    }
}

/// All blocks of a declaration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extents(pub(crate) SmallVec<[Extent; 1]>);

impl Extents {
    /// The number or address of an element.
    pub(crate) fn locate(&self, place: &[u32]) -> Option<u32> {
        self.0.iter().find_map(|e| e.locate(place))
    }

    /// Whether the blocks are for arrays of so many dimensions.
    pub(crate) fn has_rank(&self, rank: usize) -> bool {
        self.0.iter().all(|e| e.bounds.len() == rank)
    }

    /// The bounds covered so far.
    pub(crate) fn covered(&self, rank: usize) -> Place {
        let mut covered = Place::from_elem(0, rank);
        for extent in &self.0 {
            for (have, (_, until)) in covered.iter_mut().zip(extent.bounds.iter()) {
                *have = (*have).max(*until);
            }
        }
        covered
    }

    /// The boxes that are missing for `sizes` elements in each dimension; `room` is what to reserve for a new one.
    pub(crate) fn missing(&self, sizes: &[u32], room: &[u32]) -> SmallVec<[Bounds; 1]> {
        let mut boxes = SmallVec::new();
        if self.0.is_empty() {
            boxes.push(room.iter().map(|r| (0, *r)).collect());
            return boxes;
        }
        let mut covered = self.covered(sizes.len());
        for axis in 0..sizes.len() {
            if sizes[axis] > covered[axis] {
                let until = room[axis].max(sizes[axis]);
                let mut bounds: Vec<(u32, u32)> = covered.iter().map(|c| (0, *c)).collect();
                bounds[axis] = (covered[axis], until);
                boxes.push(bounds.into_boxed_slice());
                covered[axis] = until;
            }
        }
        boxes
    }
}
