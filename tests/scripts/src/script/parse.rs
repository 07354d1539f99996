//! The script's own grammar: options, then events with their times.

use super::cursor::Cursor;
use super::expression::{expression, list};
use super::packets::packet;
use super::{Action, Call, Event, Expression, ParseError, Script, Time};

/// Reads a script.
///
/// # Errors
/// The first line that makes no sense, or that is of a part of the language that is not played.
pub fn parse(text: &str) -> Result<Script, ParseError> {
    let mut cursor = Cursor::new(text);
    let mut script = Script::default();
    while cursor.skip_blank() {
        if script.events.is_empty() && cursor.rest().starts_with("--") {
            cursor.take("--");
            let word = cursor.take_while(|c| !c.is_whitespace());
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            script.options.push((name.to_owned(), value.to_owned()));
        } else {
            script.events.push(event(&mut cursor)?);
        }
    }
    Ok(script)
}

fn event(cursor: &mut Cursor<'_>) -> Result<Event, ParseError> {
    let line = cursor.line();
    let (time, until) = time(cursor)?;
    let action = action(cursor)?;
    if until.is_some() && !matches!(action, Action::Call(_)) {
        return cursor.error("only a system call has an end");
    }
    Ok(Event {
        line,
        time,
        until,
        action,
    })
}

fn time(cursor: &mut Cursor<'_>) -> Result<(Time, Option<i64>), ParseError> {
    if cursor.take("*") {
        return Ok((Time::Any, None));
    }
    let relative = cursor.take("+");
    if !relative
        && !cursor
            .peek()
            .is_some_and(|c| c.is_ascii_digit() || c == '.')
    {
        // A command or code without a time: at once.
        return Ok((Time::Relative(0), None));
    }
    let start = cursor.seconds()?;
    if cursor.take("~") {
        let relative_end = cursor.take("+");
        let end = cursor.seconds()?;
        if relative != relative_end {
            return cursor.error("one end of the range is relative, the other is not");
        }
        return Ok(if relative {
            (Time::RelativeRange(start, end), None)
        } else {
            (Time::AbsoluteRange(start, end), None)
        });
    }
    let until = if cursor.take("...") {
        cursor.take("+");
        Some(cursor.seconds()?)
    } else {
        None
    };
    let time = if relative {
        Time::Relative(start)
    } else {
        Time::Absolute(start)
    };
    Ok((time, until))
}

fn action(cursor: &mut Cursor<'_>) -> Result<Action, ParseError> {
    if cursor.take("`") {
        return Ok(Action::Command(cursor.until("`")?.to_owned()));
    }
    if cursor.take("%{") {
        return Ok(Action::Code(cursor.until("}%")?.to_owned()));
    }
    if cursor.take("<") {
        return packet(cursor).map(Action::Inject);
    }
    if cursor.take(">") {
        return packet(cursor).map(Action::Expect);
    }
    let name = cursor.name().to_owned();
    if name.is_empty() {
        let found: String = cursor.rest().chars().take(20).collect();
        return cursor.error(format!("expected something to do, found {found:?}"));
    }
    cursor.expect("(")?;
    let arguments = list(cursor, ")")?;
    cursor.expect("=")?;
    let result = expression(cursor)?;
    let mut error = None;
    if cursor.peek().is_some_and(|c| c.is_ascii_alphabetic()) {
        error = Some(cursor.name().to_owned());
    }
    // A remark on the result: `(Connection refused)`, `(flags O_RDWR)`.
    if cursor.take("(") {
        cursor.until(")")?;
    }
    if result == Expression::Ellipsis && error.is_some() {
        return cursor.error("an error goes with -1");
    }
    Ok(Action::Call(Call {
        name,
        arguments,
        result,
        error,
    }))
}

#[cfg(test)]
mod tests {
    use super::super::{EcnSpec, Packet, Segment, TcpOption};
    use super::*;

    fn only(text: &str) -> Event {
        let mut script = parse(text).expect(text);
        assert_eq!(script.events.len(), 1, "{script:?}");
        script.events.remove(0)
    }

    #[test]
    fn times_of_every_form() {
        let cases = [
            ("1.5", Time::Absolute(1_500_000)),
            ("+.25", Time::Relative(250_000)),
            ("*", Time::Any),
            (".1~.2", Time::AbsoluteRange(100_000, 200_000)),
            ("+1.2~+1.24", Time::RelativeRange(1_200_000, 1_240_000)),
        ];
        for (text, time) in cases {
            let event = only(&format!("{text} close(3) = 0"));
            assert_eq!((event.time, event.until), (time, None), "{text}");
        }
        let event = only("+0...0.3 close(3) = 0");
        assert_eq!(
            (event.time, event.until),
            (Time::Relative(0), Some(300_000))
        );
    }

    #[test]
    fn a_segment_with_everything() {
        let event = only(
            "0 < [ce] PE. 1:1001(1000) ack 5 win 257 urg 3 <mss 1000,sack 1:2 3:4,TS val 7 ecr 8>",
        );
        let expected = Segment {
            ecn: EcnSpec::Bits(3),
            tos: None,
            flags: 0x58,
            ace: None,
            seq: 1,
            len: 1000,
            ack: Some(5),
            window: Some(257),
            urgent: 3,
            options: Some(vec![
                TcpOption::Mss(1000),
                TcpOption::Sack(vec![(1, 2), (3, 4)]),
                TcpOption::Timestamps { value: 7, echo: 8 },
            ]),
        };
        assert_eq!(event.action, Action::Inject(Packet::Tcp(expected)));
        let event = only("0 > S. 0:0(0) ack 1 <...>");
        assert!(matches!(
            event.action,
            Action::Expect(Packet::Tcp(Segment { options: None, .. }))
        ));
    }

    #[test]
    fn calls_with_lists_structures_and_errors() {
        let event = only(
            "+0 poll([{fd=4, events=POLLIN|POLLOUT, revents=POLLIN}], 1, 0) = -1 EAGAIN (try again)",
        );
        let Action::Call(call) = event.action else {
            panic!("{event:?}");
        };
        assert_eq!(call.name, "poll");
        assert_eq!(call.arguments.len(), 3);
        assert_eq!(call.error.as_deref(), Some("EAGAIN"));
        let event =
            only("0 sendmsg(4, {msg_name(...)=..., msg_iov(1)=[{..., 40}], msg_flags=0}, 0) = 40");
        assert!(matches!(event.action, Action::Call(_)));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_its_line() {
        let error = parse("// fine\n0 < S 0:5(0)\n").unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.what.contains("not 0 octets"), "{error}");
    }
}
