//! How wide a text is drawn. Nobody knows which font a reader has, so these are the widths of DejaVu Sans, the widest of
//! the common ones: in any other the text has a little more room.

/// Width of a text in pixels at a font size.
pub(crate) fn width(text: &str, size: f64, bold: bool) -> f64 {
    let thousandths: u32 = text.chars().map(advance).sum();
    let factor = if bold { 1.12 } else { 1.0 };
    f64::from(thousandths) * size * factor / 1000.0
}

/// Advance of a character in thousandths of the font size, rounded up.
fn advance(c: char) -> u32 {
    match c {
        'i' | 'j' | 'l' | '\'' | '|' => 280,
        ' ' | '.' | ',' | ':' | ';' | '·' | '/' | '(' | ')' | '[' | ']' | 'f' | '-' => 400,
        't' | 'r' | 's' => 525,
        'm' => 975,
        'w' | '%' | '×' | '+' | '=' | '<' | '>' | '±' => 840,
        'a'..='z' | '0'..='9' | '_' => 640,
        'M' | 'W' | '…' | '→' => 1000,
        'A'..='Z' => 790,
        _ if c.is_ascii() => 700,
        _ => 1000,
    }
}

/// A text cut to a number of characters, with an ellipsis where something is missing.
pub(crate) fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    kept + "…"
}
