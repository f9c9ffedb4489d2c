//! `fleet explain CODE`: the page of a code.

use super::codes::PAGES;

/// The page (Markdown) of a code such as `E0302`; `None` for codes that do not exist.
pub fn explain(code: &str) -> Option<&'static str> {
    PAGES.iter().find(|(c, _)| c.eq_ignore_ascii_case(code)).map(|(_, page)| *page)
}

/// Every code there is, in order.
pub fn all_codes() -> impl Iterator<Item = &'static str> {
    PAGES.iter().map(|(code, _)| *code)
}
