//! Lines and columns of the language server protocol: both count from 0, and a column counts UTF-16 code units.

use crate::source::LineIndex;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Line, from 0.
    pub line: u32,
    /// UTF-16 code units before it in its line.
    pub column: u32,
}

/// Turns byte offsets of a text into positions and back.
#[derive(Debug, Clone)]
pub struct Positions {
    lines: LineIndex,
}

impl Positions {
    /// Indexes a text. The methods must be given the same text.
    pub fn new(text: &str) -> Positions {
        Positions { lines: LineIndex::new(text) }
    }

    /// The position of a byte offset; one inside of a character counts as the character's start.
    pub fn position(&self, text: &str, offset: u32) -> Position {
        let mut offset = (offset as usize).min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.lines.line(offset as u32);
        let start = self.lines.line_start(line) as usize;
        let column = text.get(start..offset).map_or(0, |s| s.chars().map(|c| c.len_utf16() as u32).sum());
        Position { line: line - 1, column }
    }

    /// The byte offset of a position. One behind the end of its line counts as the line's end, one behind the last
    /// line as the end of the text, and one inside of a surrogate pair as the start of its character.
    pub fn offset(&self, text: &str, position: Position) -> u32 {
        let Some(line) = position.line.checked_add(1) else { return text.len() as u32 };
        let start = self.lines.line_start(line);
        if line > 1 && start == 0 {
            return text.len() as u32;
        }
        let rest = text.get(start as usize..).unwrap_or("");
        let end = rest.find('\n').unwrap_or(rest.len());
        let line_text = rest[..end].strip_suffix('\r').unwrap_or(&rest[..end]);
        let mut left = position.column;
        for (at, c) in line_text.char_indices() {
            let units = c.len_utf16() as u32;
            if left < units {
                return start + at as u32;
            }
            left -= units;
        }
        start + line_text.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: u32, column: u32) -> Position {
        Position { line, column }
    }

    #[test]
    fn columns_count_utf16_units() {
        let text = "# é𝄞x\nlan a\r\n\n";
        let positions = Positions::new(text);
        let x = text.find('x').map_or(0, |i| i as u32);
        assert_eq!(positions.position(text, x), at(0, 5));
        assert_eq!(positions.offset(text, at(0, 5)), x);
        // Inside of the surrogate pair, and inside of the character's bytes.
        assert_eq!(positions.offset(text, at(0, 4)), x - 4);
        assert_eq!(positions.position(text, x - 2), at(0, 3));
        assert_eq!(positions.position(text, text.find("lan").map_or(0, |i| i as u32 + 4)), at(1, 4));
    }

    #[test]
    fn positions_behind_the_end_are_at_the_end() {
        let text = "lan a\r\nlan b";
        let positions = Positions::new(text);
        assert_eq!(positions.offset(text, at(0, 99)), 5);
        assert_eq!(positions.offset(text, at(1, 99)), 12);
        assert_eq!(positions.offset(text, at(2, 0)), 12);
        assert_eq!(positions.offset(text, at(u32::MAX, u32::MAX)), 12);
        assert_eq!(positions.position(text, 99), at(1, 5));
        assert_eq!(Positions::new("").offset("", at(0, 3)), 0);
    }

    #[test]
    fn every_character_comes_back() {
        let text = "a\u{10ffff}é\nß\r\n\u{feff}z";
        let positions = Positions::new(text);
        for (offset, c) in text.char_indices().filter(|(_, c)| !matches!(c, '\r' | '\n')) {
            let there = positions.position(text, offset as u32);
            assert_eq!(positions.offset(text, there), offset as u32, "{c:?}");
        }
    }
}
