//! `%{ assert tcpi_snd_cwnd == 10, tcpi_snd_cwnd }%`: Python's statements as far as scripts use them.
//!
//! Assertions, assignments and prints over integers: comparisons (chained too), `and`, `or`, `not`, arithmetic, bits,
//! `abs`, `min`, `max`. No Python runs. Names are fields of `TCP_INFO`, constants, and what was assigned before.

use std::collections::HashMap;

use super::info;
use super::{Outcome, Player, mismatch, unsupported};
use crate::symbols;

impl Player {
    /// Runs the statements over a picture of the socket under test.
    pub(super) fn code(&mut self, text: &str) -> Outcome {
        let Some(fd) = self.descriptor_under_test() else {
            return unsupported("code without a socket to look at");
        };
        let mut bytes = vec![0; info::ROOM];
        let taken = self
            .table
            .getsockopt(fd, libc::SOL_TCP, libc::TCP_INFO, &mut bytes);
        let Ok(taken) = taken else {
            return mismatch("getsockopt(TCP_INFO) failed");
        };
        bytes.truncate(taken as usize);
        let text = text.replace("\\\n", " ");
        let mut names = HashMap::new();
        for statement in text.split(['\n', ';']) {
            run(statement.trim(), &bytes, &mut names)?;
        }
        Ok(())
    }
}

fn run(statement: &str, info: &[u8], names: &mut HashMap<String, i64>) -> Outcome {
    let statement = statement.split('#').next().unwrap_or("").trim();
    if statement.is_empty() || statement.starts_with("print") || statement.starts_with("import") {
        return Ok(());
    }
    let tokens = tokens(statement)?;
    let mut reader = Reader {
        tokens: &tokens,
        at: 0,
        info,
        names,
    };
    if reader.take("assert") {
        let value = reader.disjunction()?;
        if value != 0 {
            return Ok(());
        }
        let seen = if reader.take(",") {
            Some(reader.disjunction()?)
        } else {
            None
        };
        let seen = seen.map_or(String::new(), |seen| format!(": it is {seen}"));
        return mismatch(format!("{statement}{seen}"));
    }
    if tokens.get(1).is_some_and(|token| token == "=") {
        let name = tokens[0].clone();
        reader.at = 2;
        let value = reader.disjunction()?;
        names.insert(name, value);
        return Ok(());
    }
    unsupported(format!("the statement {statement:?}"))
}

const OPERATORS: [&str; 22] = [
    "==", "!=", "<=", ">=", "<<", ">>", "//", "<", ">", "+", "-", "*", "/", "%", "&", "|", "^",
    "(", ")", ",", "=", "~",
];

fn tokens(text: &str) -> Outcome<Vec<String>> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let word = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')
            .unwrap_or(rest.len());
        let length = if word > 0 {
            word
        } else if rest.starts_with(['"', '\'']) {
            // A remark behind an assertion.
            rest[1..].find(&rest[..1]).map_or(rest.len(), |end| end + 2)
        } else {
            match OPERATORS
                .iter()
                .find(|operator| rest.starts_with(**operator))
            {
                Some(operator) => operator.len(),
                None => return unsupported(format!("{rest:?} in an expression")),
            }
        };
        all.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    Ok(all)
}

/// A recursive descent over the tokens of one statement.
struct Reader<'a> {
    tokens: &'a [String],
    at: usize,
    info: &'a [u8],
    names: &'a HashMap<String, i64>,
}

impl Reader<'_> {
    fn take(&mut self, token: &str) -> bool {
        let is_next = self.tokens.get(self.at).is_some_and(|next| next == token);
        self.at += usize::from(is_next);
        is_next
    }

    fn one_of(&mut self, tokens: &[&'static str]) -> Option<&'static str> {
        tokens.iter().copied().find(|token| self.take(token))
    }

    fn disjunction(&mut self) -> Outcome<i64> {
        let mut value = self.conjunction()?;
        while self.take("or") {
            let other = self.conjunction()?;
            value = i64::from(value != 0 || other != 0);
        }
        Ok(value)
    }

    fn conjunction(&mut self) -> Outcome<i64> {
        let mut value = self.negation()?;
        while self.take("and") {
            let other = self.negation()?;
            value = i64::from(value != 0 && other != 0);
        }
        Ok(value)
    }

    fn negation(&mut self) -> Outcome<i64> {
        if self.take("not") {
            return Ok(i64::from(self.negation()? == 0));
        }
        self.comparison()
    }

    /// `a <= b <= c` is both at once.
    fn comparison(&mut self) -> Outcome<i64> {
        let mut left = self.bits()?;
        let mut result = None;
        while let Some(operator) = self.one_of(&["==", "!=", "<=", ">=", "<", ">"]) {
            let right = self.bits()?;
            let holds = match operator {
                "==" => left == right,
                "!=" => left != right,
                "<=" => left <= right,
                ">=" => left >= right,
                "<" => left < right,
                _ => left > right,
            };
            result = Some(result.unwrap_or(true) && holds);
            left = right;
        }
        Ok(result.map_or(left, i64::from))
    }

    fn bits(&mut self) -> Outcome<i64> {
        let mut value = self.total()?;
        while let Some(operator) = self.one_of(&["&", "|", "^", "<<", ">>"]) {
            let other = self.total()?;
            let shift = u32::try_from(other).unwrap_or(63).min(63);
            value = match operator {
                "&" => value & other,
                "|" => value | other,
                "^" => value ^ other,
                "<<" => value << shift,
                _ => value >> shift,
            };
        }
        Ok(value)
    }

    fn total(&mut self) -> Outcome<i64> {
        let mut value = self.product()?;
        while let Some(operator) = self.one_of(&["+", "-"]) {
            let other = self.product()?;
            value = if operator == "+" {
                value + other
            } else {
                value - other
            };
        }
        Ok(value)
    }

    fn product(&mut self) -> Outcome<i64> {
        let mut value = self.atom()?;
        while let Some(operator) = self.one_of(&["*", "//", "/", "%"]) {
            let other = self.atom()?;
            if operator == "*" {
                value *= other;
            } else if other == 0 {
                return mismatch("a division by zero in an expression");
            } else if operator == "%" {
                value = value.rem_euclid(other);
            } else {
                value = value.div_euclid(other);
            }
        }
        Ok(value)
    }

    fn atom(&mut self) -> Outcome<i64> {
        if self.take("-") {
            return Ok(-self.atom()?);
        }
        if self.take("(") {
            let value = self.disjunction()?;
            return if self.take(")") {
                Ok(value)
            } else {
                unsupported("a parenthesis is open")
            };
        }
        let Some(token) = self.tokens.get(self.at).cloned() else {
            return unsupported("an expression ends too early");
        };
        self.at += 1;
        if token.starts_with(|c: char| c.is_ascii_digit()) {
            let value = match token.strip_prefix("0x") {
                Some(digits) => i64::from_str_radix(digits, 16).ok(),
                None => token.parse().ok(),
            };
            return value.map_or_else(|| unsupported(format!("the number {token}")), Ok);
        }
        if token.starts_with(['"', '\'']) {
            return Ok(0);
        }
        if self.take("(") {
            return self.function(&token);
        }
        let value = info::field(self.info, &token)
            .or_else(|| self.names.get(&token).copied())
            .or_else(|| symbols::value(&token))
            .or(match token.as_str() {
                "True" => Some(1),
                "False" => Some(0),
                _ => None,
            });
        value.map_or_else(|| unsupported(format!("the name {token}")), Ok)
    }

    fn function(&mut self, name: &str) -> Outcome<i64> {
        let mut arguments = vec![self.disjunction()?];
        while self.take(",") {
            arguments.push(self.disjunction()?);
        }
        if !self.take(")") {
            return unsupported("a parenthesis is open");
        }
        let value = match name {
            "abs" => arguments.first().map(|value| value.abs()),
            "min" => arguments.iter().copied().min(),
            "max" => arguments.iter().copied().max(),
            "int" => arguments.first().copied(),
            _ => None,
        };
        value.map_or_else(|| unsupported(format!("the function {name}")), Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertions_hold_or_say_what_they_saw() {
        let mut info = vec![0; 256];
        info[80] = 10; // tcpi_snd_cwnd
        info[5] = 2; // tcpi_options
        let mut names = HashMap::new();
        for fine in [
            "assert tcpi_snd_cwnd == 10, tcpi_snd_cwnd",
            "assert 9 <= tcpi_snd_cwnd <= 11",
            "assert (tcpi_options & TCPI_OPT_SACK) != 0 and not tcpi_options & 1",
            "x = 2 * (3 + 4) - 4",
            "assert tcpi_snd_cwnd == x, 'as planned'",
            "assert abs(1 - 3) == 2",
            "print(tcpi_snd_cwnd)",
        ] {
            assert!(run(fine, &info, &mut names).is_ok(), "{fine}");
        }
        let Err(super::super::Fault::Mismatch(what)) = run(
            "assert 11 <= tcpi_snd_cwnd <= 12, tcpi_snd_cwnd",
            &info,
            &mut names,
        ) else {
            panic!("it does not hold");
        };
        assert!(what.ends_with("it is 10"), "{what}");
        assert!(run("for x in y:", &info, &mut names).is_err());
    }
}
