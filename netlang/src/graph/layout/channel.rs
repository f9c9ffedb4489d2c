//! Tracks: where in a channel the lines run that go along it, and their labels.

/// A line that goes along a channel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Where it enters and leaves, the left one first.
    pub(crate) span: [f64; 2],
    /// Both ends are on the lower edge of the channel.
    pub(crate) level: bool,
    /// The size of its label; zero for none.
    pub(crate) label: super::Size,
}

/// Where a run is: its track, 0 is the lowest, and the middle of its label.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Track {
    pub(crate) track: usize,
    pub(crate) middle: f64,
}

/// Room between what is on one track.
const ROOM: f64 = 10.0;
/// Steps in which a label looks for a better place.
const STEP: f64 = 12.0;

/// Gives every run a track on which it meets no other, and its label a place with as few lines under it as can be.
///
/// `verticals` are the places where lines cross the channel, those of the runs among them.
pub(crate) fn tracks(runs: &[Run], verticals: &[f64]) -> Vec<Track> {
    let mut order: Vec<usize> = (0..runs.len()).collect();
    let length = |r: &Run| r.span[1] - r.span[0];
    // Short ones next to the row that they stay on, so that long ones go around them.
    order.sort_by(|a, b| {
        let (a, b) = (&runs[*a], &runs[*b]);
        b.level.cmp(&a.level).then(length(a).total_cmp(&length(b))).then(a.span[0].total_cmp(&b.span[0]))
    });
    let mut tracks = vec![Track::default(); runs.len()];
    let mut taken: Vec<(usize, [f64; 2])> = Vec::new();
    for at in order {
        let run = &runs[at];
        let middle = label_place(run, verticals);
        let half = run.label.w / 2.0;
        let room = [run.span[0].min(middle - half) - ROOM, run.span[1].max(middle + half) + ROOM];
        let meets = taken.iter().filter(|(_, other)| other[0] < room[1] && room[0] < other[1]);
        let track = meets.map(|(track, _)| track + 1).max().unwrap_or(0);
        taken.push((track, room));
        tracks[at] = Track { track, middle };
    }
    tracks
}

fn label_place(run: &Run, verticals: &[f64]) -> f64 {
    let [left, right] = run.span;
    let middle = (left + right) / 2.0;
    let half = run.label.w / 2.0;
    if half == 0.0 {
        return middle;
    }
    // Within the run; or, when the label is the longer one, so that the run stays well within the label.
    let spare = (right - left) / 2.0 - half;
    let reach = if spare > 0.0 { spare - 4.0 } else { -spare - 12.0 };
    let covered = |x: f64| {
        let own = |v: f64| (v - left).abs() < 0.5 || (v - right).abs() < 0.5;
        verticals.iter().filter(|v| (**v - x).abs() < half + 4.0 && !own(**v)).count()
    };
    let mut best = (covered(middle), middle);
    let mut off = STEP;
    while off <= reach && best.0 > 0 {
        for x in [middle - off, middle + off] {
            let count = covered(x);
            if count < best.0 {
                best = (count, x);
            }
        }
        off += STEP;
    }
    best.1
}
