//! A place in a text, and what can be read there.

use super::{Micros, ParseError};

/// The text from a place on. Comments count as blanks.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    pub(super) fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub(super) fn line(&self) -> usize {
        1 + self.text[..self.at].matches('\n').count()
    }

    pub(super) fn error<T>(&self, what: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError {
            line: self.line(),
            what: what.into(),
        })
    }

    /// Goes to the next thing that is neither blank nor comment. True if there is one.
    pub(super) fn skip_blank(&mut self) -> bool {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            let rest = self.rest();
            let end = if rest.starts_with("//") || rest.starts_with('#') {
                rest.find('\n').unwrap_or(rest.len())
            } else if rest.starts_with("/*") {
                rest.find("*/").map_or(rest.len(), |end| end + 2)
            } else {
                return !rest.is_empty();
            };
            self.at += end;
        }
    }

    pub(super) fn peek(&mut self) -> Option<char> {
        self.skip_blank();
        self.rest().chars().next()
    }

    /// Takes `token` if it is next.
    pub(super) fn take(&mut self, token: &str) -> bool {
        self.skip_blank();
        let is_next = self.rest().starts_with(token);
        if is_next {
            self.at += token.len();
        }
        is_next
    }

    pub(super) fn expect(&mut self, token: &str) -> Result<(), ParseError> {
        if self.take(token) {
            Ok(())
        } else {
            let found: String = self.rest().chars().take(20).collect();
            self.error(format!("expected {token:?}, found {found:?}"))
        }
    }

    /// Takes characters while `wanted` says so.
    pub(super) fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// A name, or an empty text.
    pub(super) fn name(&mut self) -> &'a str {
        self.skip_blank();
        if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return "";
        }
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_')
    }

    /// Takes `word` if it is the next whole name.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let mut ahead = self.clone();
        let is_next = ahead.name() == word;
        if is_next {
            *self = ahead;
        }
        is_next
    }

    /// Everything up to `end`, which is taken as well.
    pub(super) fn until(&mut self, end: &str) -> Result<&'a str, ParseError> {
        let rest = self.rest();
        match rest.find(end) {
            Some(length) => {
                self.at += length + end.len();
                Ok(&rest[..length])
            }
            None => self.error(format!("{end:?} is missing")),
        }
    }

    pub(super) fn number(&mut self) -> Result<i64, ParseError> {
        self.skip_blank();
        let mut ahead = self.clone();
        let negative = ahead.take("-");
        let value = if ahead.take("0x") {
            let digits = ahead.take_while(|c| c.is_ascii_hexdigit());
            i64::from_str_radix(digits, 16).ok()
        } else {
            let digits = ahead.take_while(|c| c.is_ascii_digit());
            digits.parse().ok()
        };
        let Some(value) = value else {
            let found: String = self.rest().chars().take(20).collect();
            return self.error(format!("expected a number, found {found:?}"));
        };
        *self = ahead;
        Ok(if negative { -value } else { value })
    }

    /// A number below 2^32.
    pub(super) fn u32(&mut self) -> Result<u32, ParseError> {
        let value = self.number()?;
        match u32::try_from(value) {
            Ok(value) => Ok(value),
            Err(_) => self.error(format!("{value} does not fit 32 bits")),
        }
    }

    /// Seconds with a fraction.
    pub(super) fn seconds(&mut self) -> Result<Micros, ParseError> {
        self.skip_blank();
        let mut ahead = self.clone();
        let whole = ahead.take_while(|c| c.is_ascii_digit());
        let mut fraction = "";
        // Not the first point of an ellipsis.
        if ahead.rest().starts_with('.') && !ahead.rest().starts_with("..") {
            ahead.at += 1;
            fraction = ahead.take_while(|c| c.is_ascii_digit());
        }
        if whole.is_empty() && fraction.is_empty() {
            let found: String = self.rest().chars().take(20).collect();
            return self.error(format!("expected a time, found {found:?}"));
        }
        let digits: String = fraction.chars().chain("000000".chars()).take(6).collect();
        *self = ahead;
        let whole: Micros = whole.parse().unwrap_or(0);
        Ok(whole * 1_000_000 + digits.parse::<Micros>().unwrap_or(0))
    }
}
