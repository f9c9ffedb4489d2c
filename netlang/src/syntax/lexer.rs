//! Text to tokens. The lexer never fails: what it cannot read becomes a [`TokenKind::Bad`] token that the parser
//! reports. Newlines and `;` are tokens because they end statements.

use crate::source::Span;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// `[a-z][a-z0-9_]*`
    Name,
    /// A word with capitals in it, which no name may have.
    BadName,
    /// Digits.
    Int,
    /// A number with a unit, or a decimal number, which needs one.
    Quantity,
    /// `10.0.0.1`
    Ipv4,
    /// `10.0.0.0/8`
    Prefix,
    /// `/24`
    PrefixLen,
    /// `"text"`
    Text,
    /// A text without its closing quote.
    OpenText,
    /// Digits that are no number: `1.2.3`, `10.0.0.300`.
    BadNumber,
    /// `..`
    DotDot,
    /// `.`
    Dot,
    /// `,`
    Comma,
    /// `=`
    Equals,
    /// `<=`
    AtMost,
    /// `>=`
    AtLeast,
    /// `--`
    Peer,
    /// `->`
    Transit,
    /// `+`
    Plus,
    /// `-`
    Minus,
    /// `*`
    Star,
    /// `(`; `touching` says whether it follows the last token without a space.
    OpenParen,
    /// `)`
    CloseParen,
    /// `[`
    OpenSquare,
    /// `]`
    CloseSquare,
    /// `{`
    OpenBrace,
    /// `}`
    CloseBrace,
    /// One `;` or newline.
    End,
    /// `# …` to the end of the line. Only the formatter sees it.
    Comment,
    /// A character that the language does not have.
    Bad,
    /// The end of the text.
    Eof,
}

/// A token: its kind, its place, and whether no space precedes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) span: Span,
    pub(crate) touching: bool,
}

/// Reads tokens one after another.
#[derive(Debug, Clone)]
pub(crate) struct Lexer<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    comments: bool,
}

impl<'a> Lexer<'a> {
    /// A lexer that skips comments.
    pub(crate) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { bytes: text.as_bytes(), text, at: 0, comments: false }
    }

    /// A lexer that also gives comments.
    pub(crate) fn with_comments(text: &'a str) -> Lexer<'a> {
        Lexer { comments: true, ..Lexer::new(text) }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_while(&mut self, test: impl Fn(u8) -> bool) {
        while self.at < self.bytes.len() && test(self.bytes[self.at]) {
            self.at += 1;
        }
    }

    /// The next token; [`TokenKind::Eof`] for ever at the end.
    pub(crate) fn token(&mut self) -> Token {
        let before = self.at;
        loop {
            self.skip_while(|b| b == b' ' || b == b'\t' || b == b'\r');
            if self.peek(0) == b'#' && !self.comments {
                self.skip_while(|b| b != b'\n');
            } else {
                break;
            }
        }
        let start = self.at;
        let kind = self.kind();
        let span = Span::new(start as u32, self.at as u32);
        Token { kind, span, touching: before == start && start > 0 }
    }

    fn kind(&mut self) -> TokenKind {
        use TokenKind::*;
        if self.at >= self.bytes.len() {
            return Eof;
        }
        let byte = self.bytes[self.at];
        let (kind, len) = match (byte, self.peek(1)) {
            (b'\n' | b';', _) => (End, 1),
            (b'a'..=b'z' | b'A'..=b'Z' | b'_', _) => return self.name(),
            (b'0'..=b'9', _) => return self.number(),
            (b'/', b'0'..=b'9') => {
                self.at += 1;
                self.skip_while(|b| b.is_ascii_digit());
                return PrefixLen;
            }
            (b'"', _) => {
                self.at += 1;
                self.skip_while(|b| b != b'"' && b != b'\n');
                if self.peek(0) != b'"' {
                    return OpenText;
                }
                (Text, 1)
            }
            (b'#', _) => {
                self.skip_while(|b| b != b'\n');
                return Comment;
            }
            (b'.', b'.') => (DotDot, 2),
            (b'-', b'-') => (Peer, 2),
            (b'-', b'>') => (Transit, 2),
            (b'<', b'=') => (AtMost, 2),
            (b'>', b'=') => (AtLeast, 2),
            (b'.', _) => (Dot, 1),
            (b',', _) => (Comma, 1),
            (b'=', _) => (Equals, 1),
            (b'+', _) => (Plus, 1),
            (b'-', _) => (Minus, 1),
            (b'*', _) => (Star, 1),
            (b'(', _) => (OpenParen, 1),
            (b')', _) => (CloseParen, 1),
            (b'[', _) => (OpenSquare, 1),
            (b']', _) => (CloseSquare, 1),
            (b'{', _) => (OpenBrace, 1),
            (b'}', _) => (CloseBrace, 1),
            _ => (Bad, self.text[self.at..].chars().next().map_or(1, char::len_utf8)),
        };
        self.at += len;
        kind
    }

    fn name(&mut self) -> TokenKind {
        let start = self.at;
        self.skip_while(|b| b.is_ascii_alphanumeric() || b == b'_');
        let word = &self.bytes[start..self.at];
        let good = word[0].is_ascii_lowercase() && word.iter().all(|b| !b.is_ascii_uppercase());
        if good { TokenKind::Name } else { TokenKind::BadName }
    }

    /// Digits with dots (`1`, `1.5`, `10.0.0.1`), then a unit or a prefix length.
    fn number(&mut self) -> TokenKind {
        let start = self.at;
        let mut dots = 0;
        loop {
            self.skip_while(|b| b.is_ascii_digit());
            if self.peek(0) == b'.' && self.peek(1).is_ascii_digit() {
                self.at += 1;
                dots += 1;
            } else {
                break;
            }
        }
        let digits = &self.text[start..self.at];
        if self.peek(0).is_ascii_alphabetic() || self.peek(0) == b'_' || self.peek(0) == b'%' {
            if self.peek(0) == b'%' {
                self.at += 1;
            } else {
                self.skip_while(|b| b.is_ascii_alphanumeric() || b == b'_');
            }
            return if dots <= 1 { TokenKind::Quantity } else { TokenKind::BadNumber };
        }
        match dots {
            0 => TokenKind::Int,
            1 => TokenKind::Quantity,
            3 if crate::address::prefix::parse_address(digits).is_some() => {
                if self.peek(0) == b'/' && self.peek(1).is_ascii_digit() {
                    self.at += 1;
                    self.skip_while(|b| b.is_ascii_digit());
                    let len = self.text[start..self.at].rsplit('/').next().and_then(|l| l.parse::<u8>().ok());
                    return if len.is_some_and(|l| l <= 32) { TokenKind::Prefix } else { TokenKind::BadNumber };
                }
                TokenKind::Ipv4
            }
            _ => {
                if self.peek(0) == b'/' {
                    self.at += 1;
                    self.skip_while(|b| b.is_ascii_digit());
                }
                TokenKind::BadNumber
            }
        }
    }
}
