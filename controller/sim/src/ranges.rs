//! Ranges of VMs: a million VMs are as many ranges as there are hosts.

use fleet_proto::v1::Range;

/// How many VMs some ranges have.
pub fn vms(ranges: &[Range]) -> u32 {
    ranges.iter().map(|range| range.count).sum()
}

/// What is in `a` and not in `b`. Neither has a VM twice.
pub fn without(a: &[Range], b: &[Range]) -> Vec<Range> {
    let mut left = Vec::new();
    for range in a {
        let (mut from, end) = (range.first, range.first + range.count);
        let mut same: Vec<&Range> = b.iter().filter(|other| other.group == range.group).collect();
        same.sort_unstable_by_key(|other| other.first);
        for other in same {
            let (first, last) = (other.first.max(from), (other.first + other.count).min(end));
            if first < last {
                if from < first {
                    left.push(Range { group: range.group.clone(), first: from, count: first - from });
                }
                from = last;
            }
        }
        if from < end {
            left.push(Range { group: range.group.clone(), first: from, count: end - from });
        }
    }
    left
}

/// What of the ranges is below an index.
pub fn below(ranges: &[Range], limit: u32) -> Vec<Range> {
    let cut = ranges.iter().map(|range| Range {
        group: range.group.clone(),
        first: range.first,
        count: range.count.min(limit.saturating_sub(range.first)),
    });
    cut.filter(|range| range.count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_from_ranges() {
        let range = |first, count| Range { group: "web".into(), first, count };
        assert_eq!(without(&[range(0, 10)], &[range(7, 2), range(2, 3)]), [range(0, 2), range(5, 2), range(9, 1)]);
        assert_eq!(without(&[range(0, 10)], &[range(0, 20)]), []);
        assert_eq!(below(&[range(0, 10), range(20, 5)], 8), [range(0, 8)]);
        assert_eq!(vms(&[range(3, 4), range(0, 1)]), 5);
    }
}
