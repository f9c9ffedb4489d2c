//! How the hosts of a wave are split into branches. Pure: the same members and the same k give the same split on every
//! host.
//!
//! The rule: `n` members are cut into `b = min(k, n)` branches at `i·n/b` (rounded down), i = 1 … b-1. A cut then moves to
//! the nearest boundary between two racks, the lower one of two that are as near, if that lies at most a quarter of a
//! branch (`n/b/4`, rounded down) away. So a rack is kept together where that costs a branch a quarter of its size at
//! each end at most, and branches lie between half and one and a half times the mean; cuts never meet.

use std::ops::Range;

use fleet_proto::v1::Member;

/// Below this many hosts the root tells every host itself.
pub const FLAT_BELOW: usize = 100;
/// Least k of a tree.
pub const K_MIN: u32 = 16;
/// Greatest k of a tree.
pub const K_MAX: u32 = 32;

/// The k for so many hosts: 0 (flat) below [`FLAT_BELOW`], otherwise the smallest of [`K_MIN`] to [`K_MAX`] that makes
/// a tree no deeper than [`K_MAX`] would.
pub fn recommended_k(hosts: usize) -> u32 {
    if hosts < FLAT_BELOW {
        return 0;
    }
    let depth = levels(hosts, K_MAX);
    (K_MIN..=K_MAX).find(|k| levels(hosts, *k) == depth).unwrap_or(K_MAX)
}

/// Hops from the root to the farthest of so many hosts in an even tree; 0 for no hosts. `k` 0 is flat.
pub fn levels(hosts: usize, k: u32) -> usize {
    match (hosts, k) {
        (0, _) => 0,
        (_, 0) => 1,
        (_, 1) => hosts,
        (_, k) => {
            let (mut reached, mut level, mut levels) = (0_usize, 1_usize, 0);
            while reached < hosts {
                level = level.saturating_mul(k as usize);
                reached = reached.saturating_add(level);
                levels += 1;
            }
            levels
        }
    }
}

/// Splits members into at most `k` runs of nearly equal size (`k` 0: one for each), by the rule above. The runs follow
/// one another and cover all members; none is empty. The head of a branch is not to be among the members: see
/// [`below`].
pub fn branches(members: &[Member], k: u32) -> Vec<Range<usize>> {
    let n = members.len();
    if n == 0 {
        return Vec::new();
    }
    let b = if k == 0 { n } else { n.min(k as usize) };
    let reach = n / b / 4;
    let mut runs = Vec::with_capacity(b);
    let mut start = 0;
    for i in 1..b {
        let cut = to_rack_boundary(members, i * n / b, reach);
        runs.push(start..cut);
        start = cut;
    }
    runs.push(start..n);
    runs
}

/// The branches below the first of `members`, its head, as positions in `members`.
pub fn below(members: &[Member], k: u32) -> Vec<Range<usize>> {
    let rest = members.get(1..).unwrap_or_default();
    branches(rest, k).into_iter().map(|run| run.start + 1..run.end + 1).collect()
}

fn to_rack_boundary(members: &[Member], cut: usize, reach: usize) -> usize {
    let is_boundary = |at: usize| match (at.checked_sub(1).and_then(|before| members.get(before)), members.get(at)) {
        (Some(before), Some(after)) => before.rack != after.rack,
        _ => false,
    };
    for distance in 0..=reach {
        for at in [cut - distance.min(cut), cut + distance] {
            if is_boundary(at) {
                return at;
            }
        }
    }
    cut
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn hosts(n: usize, rack: usize) -> Vec<Member> {
        let rack_of = |index: usize| if rack == 0 { String::new() } else { format!("r{}", index / rack) };
        (0..n).map(|i| Member { name: format!("h{i}"), address: String::new(), rack: rack_of(i) }).collect()
    }

    /// What every live host would do, and what its parent does for the dead: positions told, positions given up, and
    /// the greatest number of hops.
    fn walk(all: &[Member], k: u32, dead: &HashSet<usize>) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut told, mut lost, mut deepest) = (Vec::new(), Vec::new(), 0);
        let mut open: Vec<(Range<usize>, usize)> = branches(all, k).into_iter().map(|run| (run, 1)).collect();
        while let Some((run, hops)) = open.pop() {
            let live = !dead.contains(&run.start);
            if live {
                told.push(run.start);
                deepest = deepest.max(hops);
            } else {
                lost.push(run.start);
            }
            // The children of a dead one are as far from the root as it would have been.
            let hops = if live { hops + 1 } else { hops };
            for part in below(&all[run.clone()], k) {
                open.push((run.start + part.start..run.start + part.end, hops));
            }
        }
        told.sort_unstable();
        lost.sort_unstable();
        (told, lost, deepest)
    }

    /// Branches are at most one and a half times the mean, and one more by rounding.
    fn depth_bound(n: usize, k: u32) -> usize {
        match k {
            0 => 1,
            1 => n,
            _ => {
                let (mut left, mut levels) = (n, 0);
                while left > 0 {
                    let branch = left.div_ceil(k as usize);
                    left = (branch + 2 * (left / left.min(k as usize) / 4)).min(left) - 1;
                    levels += 1;
                }
                levels
            }
        }
    }

    proptest! {
        #[test]
        fn every_live_host_is_told_once_and_every_host_is_accounted_for(
            k in prop::sample::select(vec![0_u32, 1, 2, 3, 16, 64]),
            power in 0_u32..8,
            off in 0_usize..3,
            rack in prop::sample::select(vec![0_usize, 1, 4, 40]),
            seed: u64,
            share in 0_u64..=100,
        ) {
            let base = (k.max(2) as usize).checked_pow(power).filter(|n| *n <= 5_000).unwrap_or(4_096);
            let n = (base + off).saturating_sub(1);
            let all = hosts(n, rack);
            let is_dead = |i: usize| (i as u64 + 1).wrapping_mul(seed | 1).rotate_left(23) % 100 < share;
            let dead: HashSet<usize> = (0..n).filter(|i| is_dead(*i)).collect();
            let (told, lost, depth) = walk(&all, k, &dead);
            prop_assert_eq!(told, (0..n).filter(|i| !dead.contains(i)).collect::<Vec<_>>());
            prop_assert_eq!(lost, (0..n).filter(|i| dead.contains(i)).collect::<Vec<_>>());
            prop_assert!(depth <= depth_bound(n, k), "{} hops for {} hosts, k = {}", depth, n, k);
        }

        #[test]
        fn branches_follow_one_another_and_are_nearly_equal(
            sizes in prop::collection::vec(1_usize..60, 0..60), k in 0_u32..70,
        ) {
            let racks = sizes.iter().enumerate().flat_map(|(rack, size)| vec![rack; *size]);
            let member = |rack| Member { rack: format!("{rack}"), ..Member::default() };
            let all: Vec<Member> = racks.map(member).collect();
            let runs = branches(&all, k);
            let n = all.len();
            prop_assert_eq!(runs.iter().flat_map(Clone::clone).collect::<Vec<_>>(), (0..n).collect::<Vec<_>>());
            let b = if k == 0 { n } else { n.min(k as usize) };
            prop_assert_eq!(runs.len(), b);
            for run in &runs {
                prop_assert!(!run.is_empty());
                prop_assert!(2 * b * run.len() <= 3 * n + 2 * b && 2 * b * (run.len() + 1) >= n);
            }
        }
    }

    #[test]
    fn racks_stay_together_where_that_is_cheap() {
        // 250 racks of 40: a branch has 312 or so, and a boundary is never farther than 20.
        let all = hosts(10_000, 40);
        let runs = branches(&all, 32);
        assert!(runs.iter().all(|run| run.start % 40 == 0));
        // One rack holds all: nothing to keep together.
        assert_eq!(branches(&hosts(10, 100), 2), vec![0..5, 5..10]);
        // The nearer boundary wins, the lower one of two.
        assert_eq!(branches(&hosts(16, 3), 2), vec![0..9, 9..16]);
        assert_eq!(branches(&hosts(24, 8), 2), vec![0..12, 12..24], "8 and 16 lie too far from 12");
    }

    #[test]
    fn a_dead_childs_branches_are_those_it_would_have_made() {
        let all = crate::Members::new(hosts(1_000, 7)).unwrap();
        let child = all.cut(branches(all.as_slice(), 16)[3].clone());
        let as_child = crate::Members::decode(child.bytes()).unwrap();
        let hashes = |members: &crate::Members| {
            below(members.as_slice(), 16).into_iter().map(|run| members.cut(run).hash()).collect::<Vec<_>>()
        };
        assert_eq!(hashes(&child), hashes(&as_child));
    }

    #[test]
    fn k_is_flat_for_few_hosts_and_bounded_for_many() {
        assert_eq!((recommended_k(1), recommended_k(99), recommended_k(100)), (0, 0, 16));
        for n in [100, 272, 273, 1_000, 1_056, 1_057, 10_000, 100_000, 1_000_000] {
            let k = recommended_k(n);
            assert!((K_MIN..=K_MAX).contains(&k));
            assert_eq!(levels(n, k), levels(n, K_MAX));
        }
        assert_eq!((levels(10_000, 32), levels(1_056, 32), levels(1_057, 32)), (3, 2, 3));
        assert_eq!((levels(0, 2), levels(7, 1), levels(7, 0)), (0, 7, 1));
    }
}
