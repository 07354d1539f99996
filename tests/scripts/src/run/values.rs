//! From a script's expressions to numbers, and to the octets of options.

use super::{Outcome, mismatch, unsupported};
use crate::script::Expression;
use crate::symbols;

/// The number of an expression; an ellipsis has none.
pub(super) fn number(expression: &Expression) -> Outcome<i64> {
    match expression {
        Expression::Number(value) => Ok(*value),
        Expression::Symbol(name) => match symbols::value(name) {
            Some(value) => Ok(value),
            None => unsupported(format!("the constant {name}")),
        },
        Expression::Or(all) => all.iter().try_fold(0, |bits, one| Ok(bits | number(one)?)),
        // `[5]`: the number that a pointer points to.
        Expression::List(list) if list.len() == 1 => number(&list[0]),
        other => unsupported(format!("{other:?} as a number")),
    }
}

/// A number that fits C's int.
pub(super) fn int(expression: &Expression) -> Outcome<i32> {
    let value = number(expression)?;
    // Scripts write unsigned constants too.
    i32::try_from(value)
        .or_else(|_| u32::try_from(value).map(|value| value as i32))
        .or_else(|_| unsupported(format!("{value} as an int")))
}

/// A field of a structure.
pub(super) fn field<'a>(
    fields: &'a [(Option<String>, Expression)],
    name: &str,
) -> Option<&'a Expression> {
    fields
        .iter()
        .find(|(field, _)| field.as_deref() == Some(name))
        .map(|(_, value)| value)
}

pub(super) fn structure(expression: &Expression) -> Outcome<&[(Option<String>, Expression)]> {
    match expression {
        Expression::Struct(fields) => Ok(fields),
        other => unsupported(format!("{other:?} as a structure")),
    }
}

pub(super) fn list(expression: &Expression) -> Outcome<&[Expression]> {
    match expression {
        Expression::List(all) => Ok(all),
        other => unsupported(format!("{other:?} as a list")),
    }
}

/// The lengths of `[{..., 100}, {..., 200}]`.
pub(super) fn vectors(expression: &Expression) -> Outcome<Vec<usize>> {
    list(expression)?
        .iter()
        .map(|one| match structure(one)? {
            [_, (_, length)] => number(length).map(|length| usize::try_from(length).unwrap_or(0)),
            _ => unsupported("a vector that is not {..., length}"),
        })
        .collect()
}

/// The octets of a text, in which `\xNN` is one.
fn unescaped(text: &str) -> Outcome<Vec<u8>> {
    let mut parts = text.split("\\x");
    let mut octets = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let octet = part
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let Some(octet) = octet else {
            return unsupported(format!("{text:?} as octets"));
        };
        octets.push(octet);
        octets.extend_from_slice(&part.as_bytes()[2..]);
    }
    Ok(octets)
}

/// The value of an option as octets.
pub(super) fn option(expression: &Expression) -> Outcome<Vec<u8>> {
    match expression {
        Expression::Text(text) => unescaped(text),
        Expression::Struct(fields) => {
            // `{onoff=1, linger=0}`.
            let one = |name| field(fields, name).map_or(unsupported(format!("no {name}")), int);
            Ok([one("onoff")?.to_ne_bytes(), one("linger")?.to_ne_bytes()].concat())
        }
        other => Ok(int(other)?.to_ne_bytes().to_vec()),
    }
}

/// Compares what a call returned with what the script says.
pub(super) fn check(answer: Result<i64, i32>, result: &Expression, error: Option<&str>) -> Outcome {
    let expected = match result {
        Expression::Ellipsis => None,
        other => Some(number(other)?),
    };
    match (answer, error) {
        (Ok(value), None) if expected.is_none_or(|expected| expected == value) => Ok(()),
        (Ok(value), _) => mismatch(format!(
            "it returned {value}, not {expected:?} {}",
            error.unwrap_or("")
        )),
        // `= -1` alone: whatever the error is.
        (Err(_), None) if expected == Some(-1) => Ok(()),
        (Err(number), Some(name)) if symbols::value(name) == Some(number.into()) => Ok(()),
        (Err(number), _) => mismatch(format!(
            "it failed with {}, expected {expected:?} {}",
            symbols::error_name(number),
            error.unwrap_or("")
        )),
    }
}
