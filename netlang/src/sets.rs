//! Disjoint sets of numbers: what hangs together with what.

/// Sets of `0..count`, at first one for each number; the name of a set is its lowest number.
#[derive(Debug, Clone)]
pub(crate) struct Sets {
    root: Vec<u32>,
}

impl Sets {
    pub(crate) fn new(count: usize) -> Sets {
        Sets { root: (0..count as u32).collect() }
    }

    /// The set of a number.
    pub(crate) fn find(&mut self, mut item: u32) -> u32 {
        while self.root[item as usize] != item {
            let above = self.root[self.root[item as usize] as usize];
            self.root[item as usize] = above;
            item = above;
        }
        item
    }

    /// Makes one set of two.
    pub(crate) fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.find(a), self.find(b));
        self.root[a.max(b) as usize] = a.min(b);
    }

    /// The set of every number.
    pub(crate) fn into_roots(mut self) -> Vec<u32> {
        (0..self.root.len() as u32).map(|item| self.find(item)).collect()
    }
}
