//! Simple shapes for what there is in a network, each within 22 by 22 pixels.

use super::model::ItemKind;

/// The side of an icon, in pixels.
pub(crate) const ICON: f64 = 22.0;

/// An icon as SVG elements, drawn with the current stroke.
pub(crate) fn icon(kind: ItemKind) -> &'static str {
    match kind {
        // A screen on its foot.
        ItemKind::Vm => {
            "<rect x=\"1.5\" y=\"3\" width=\"19\" height=\"12.5\" rx=\"2\"/><path d=\"M11 15.5v3.5M6.5 19.5h9\"/>"
        }
        // The router of every network diagram: two arrows in, two out.
        ItemKind::Router => {
            "<circle cx=\"11\" cy=\"11\" r=\"9.5\"/><path d=\"M11 9.3V3.8M9 5.6l2-2 2 2M11 12.7v5.5M9 16.4l2 2 2-2\
             M3.6 11h5.2M7 9l2 2-2 2M18.4 11h-5.2M15 9l-2 2 2 2\"/>"
        }
        // A bus with stations.
        ItemKind::Lan => {
            "<path d=\"M1 11h20M5.5 11V6.5M11 11v4.5M16.5 11V6.5\"/><rect x=\"3\" y=\"2\" width=\"5\" \
             height=\"4.5\" rx=\"1\"/><rect x=\"14\" y=\"2\" width=\"5\" height=\"4.5\" rx=\"1\"/>\
             <rect x=\"8.5\" y=\"15.5\" width=\"5\" height=\"4.5\" rx=\"1\"/>"
        }
        ItemKind::External => "<path d=\"M6 17.5a4.3 4.3 0 0 1-.3-8.6a5.6 5.6 0 0 1 10.7-1.2a4.9 4.9 0 0 1 .1 9.8z\"/>",
    }
}

/// The outline of a cloud that fills a rectangle, as the data of a path: arcs along its sides.
pub(crate) fn cloud(w: f64, h: f64) -> String {
    let (inset_x, inset_y) = (12.0, 8.0);
    let (inner_w, inner_h) = (w - 2.0 * inset_x, h - 2.0 * inset_y);
    let bumps = (inner_w / 38.0).max(3.0).floor() as usize;
    let step = inner_w / bumps as f64;
    let mut path = format!("M{inset_x:.1} {inset_y:.1}");
    let mut side = |count: usize, dx: f64, dy: f64| {
        let chord = dx.abs().max(dy.abs());
        for _ in 0..count {
            path.push_str(&format!("a{:.1} {:.1} 0 0 1 {dx:.1} {dy:.1}", chord * 0.62, chord * 0.62));
        }
    };
    side(bumps, step, 0.0);
    side(1, 0.0, inner_h);
    side(bumps, -step, 0.0);
    side(1, 0.0, -inner_h);
    path.push('z');
    path
}
