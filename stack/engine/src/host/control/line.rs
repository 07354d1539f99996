//! The two lines of the protocol without IO: what a client has sent so far, and what an engine answered.

use serde::Deserialize;
use serde_json::Value;

use super::{ControlError, Operation, Request, VERSION};

/// Longest request line in bytes, far above any that exists.
pub const REQUEST_MAX: usize = 4096;

/// A request line while it arrives.
#[derive(Clone, Debug, Default)]
pub struct RequestLine(Vec<u8>);

/// What has arrived so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The line goes on.
    More,
    /// A whole line: [`RequestLine::parse`] it. What follows it was thrown away.
    Line,
    /// More than [`REQUEST_MAX`] bytes without an end.
    TooLong,
}

impl RequestLine {
    /// Takes what arrived, in any pieces. Nothing more is to be given once it said other than [`Arrival::More`].
    pub fn on_bytes(&mut self, bytes: &[u8]) -> Arrival {
        let line = &mut self.0;
        line.extend_from_slice(bytes);
        match line.iter().position(|byte| *byte == b'\n') {
            Some(end) if end <= REQUEST_MAX => {
                line.truncate(end);
                Arrival::Line
            }
            None if line.len() <= REQUEST_MAX => Arrival::More,
            _ => Arrival::TooLong,
        }
    }

    /// The request, or the reason for `"error"`.
    ///
    /// # Errors
    /// A line that is no request of this version, in words for the client.
    pub fn parse(&self) -> Result<Request, String> {
        parse(&self.0)
    }
}

fn parse(line: &[u8]) -> Result<Request, String> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u64,
    }
    #[derive(Deserialize)]
    struct Line {
        op: Operation,
    }
    let value: Value = serde_json::from_slice(line)
        .map_err(|error| format!("not a JSON request line: {error}"))?;
    let versioned =
        Versioned::deserialize(&value).map_err(|error| format!("no version: {error}"))?;
    if versioned.v != VERSION {
        return Err(format!(
            "this engine speaks version {VERSION} of the control protocol, not {}",
            versioned.v
        ));
    }
    let line = Line::deserialize(&value).map_err(|error| format!("no such request: {error}"))?;
    Ok(Request { operation: line.op })
}

/// The value of an engine's reply line.
///
/// # Errors
/// The engine's own error, another version, or a line that is no reply.
pub fn interpret(line: &str) -> Result<Value, ControlError> {
    let malformed = || ControlError::Malformed(line.chars().take(200).collect());
    let mut value: Value = serde_json::from_str(line).map_err(|_| malformed())?;
    let reply = value.as_object_mut().ok_or_else(malformed)?;
    match reply.get("v").and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(other) => return Err(ControlError::Version(format!("it speaks version {other}"))),
        None => return Err(malformed()),
    }
    if let Some(error) = reply.get("error") {
        return Err(ControlError::Engine(
            error
                .as_str()
                .map_or_else(|| error.to_string(), str::to_owned),
        ));
    }
    reply.remove("ok").ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Operation;
    use super::*;

    #[test]
    fn requests_are_parsed_or_refused_with_a_reason() {
        assert_eq!(
            parse(br#"{"v":1,"op":"ss"}"#),
            Ok(Request {
                operation: Operation::Ss
            })
        );
        assert_eq!(
            parse(br#"{"op":"version","v":1,"more":[]}"#),
            Ok(Request {
                operation: Operation::Version
            })
        );
        for (line, reason) in [
            ("", "not a JSON"),
            ("ss", "not a JSON"),
            ("[]", "no version"),
            (r#"{"op":"ss"}"#, "no version"),
            (r#"{"v":-1,"op":"ss"}"#, "no version"),
            (r#"{"v":2,"op":"later"}"#, "not 2"),
            (r#"{"v":1}"#, "no such request"),
            (r#"{"v":1,"op":"reboot"}"#, "no such request"),
            ("\u{0}\u{7f}", "not a JSON"),
        ] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{line:?}: {error}");
        }
        assert!(parse(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn replies_are_interpreted() {
        assert_eq!(interpret(r#"{"v":1,"ok":[1]}"#).unwrap(), json!([1]));
        assert_eq!(interpret(r#"{"v":1,"ok":null}"#).unwrap(), Value::Null);
        assert!(
            matches!(interpret(r#"{"v":1,"error":"no"}"#), Err(ControlError::Engine(text)) if text == "no")
        );
        assert!(matches!(
            interpret(r#"{"v":2,"ok":1}"#),
            Err(ControlError::Version(_))
        ));
        for line in ["", "[]", "{}", r#"{"v":1}"#, r#"{"ok":1}"#] {
            assert!(
                matches!(interpret(line), Err(ControlError::Malformed(_))),
                "{line:?}"
            );
        }
    }
}
