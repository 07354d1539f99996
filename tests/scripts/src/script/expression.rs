//! Arguments of system calls.

use super::cursor::Cursor;
use super::{Expression, ParseError};

/// An argument, with `|` between alternatives.
pub(super) fn expression(cursor: &mut Cursor<'_>) -> Result<Expression, ParseError> {
    let first = single(cursor)?;
    if cursor.peek() != Some('|') {
        return Ok(first);
    }
    let mut all = vec![first];
    while cursor.take("|") {
        all.push(single(cursor)?);
    }
    Ok(Expression::Or(all))
}

fn single(cursor: &mut Cursor<'_>) -> Result<Expression, ParseError> {
    if cursor.take("...") {
        return Ok(Expression::Ellipsis);
    }
    match cursor.peek() {
        Some('"') => {
            cursor.expect("\"")?;
            Ok(Expression::Text(cursor.until("\"")?.to_owned()))
        }
        Some('[') => {
            cursor.expect("[")?;
            Ok(Expression::List(list(cursor, "]")?))
        }
        Some('{') => {
            cursor.expect("{")?;
            fields(cursor)
        }
        Some(c) if c.is_ascii_digit() || c == '-' => Ok(Expression::Number(cursor.number()?)),
        Some(c) if c.is_ascii_alphabetic() || c == '_' => {
            let name = cursor.name().to_owned();
            Ok(if name == "NULL" {
                Expression::Number(0)
            } else {
                Expression::Symbol(name)
            })
        }
        _ => {
            let found: String = cursor.rest().chars().take(20).collect();
            cursor.error(format!("expected an argument, found {found:?}"))
        }
    }
}

/// Arguments up to `end`, which is taken.
pub(super) fn list(cursor: &mut Cursor<'_>, end: &str) -> Result<Vec<Expression>, ParseError> {
    let mut all = Vec::new();
    while !cursor.take(end) {
        all.push(expression(cursor)?);
        if !cursor.take(",") {
            cursor.expect(end)?;
            break;
        }
    }
    Ok(all)
}

/// The fields of a structure up to its brace: `value`, `name=value` or `name(..)=value`.
fn fields(cursor: &mut Cursor<'_>) -> Result<Expression, ParseError> {
    let mut all = Vec::new();
    while !cursor.take("}") {
        let mut ahead = cursor.clone();
        let name = ahead.name().to_owned();
        if ahead.take("(") {
            ahead.until(")")?;
        }
        let named = !name.is_empty() && ahead.take("=");
        if named {
            *cursor = ahead;
            all.push((Some(name), expression(cursor)?));
        } else {
            all.push((None, expression(cursor)?));
        }
        if !cursor.take(",") {
            cursor.expect("}")?;
            break;
        }
    }
    Ok(Expression::Struct(all))
}
