//! The control socket's two lines: a request as the engine reads it, a reply as the command reads it.

use bywash_engine::host::control::{
    Arrival, ControlError, REQUEST_MAX, RequestLine, VERSION, interpret,
};
use serde_json::{Value, json};

use crate::Input;

/// The first byte says which line, the second in what pieces the request arrives.
pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (kind, piece) = (input.byte(), input.byte());
    if kind % 3 == 0 {
        reply(input.rest());
    } else {
        // Something to repeat, so that the bound on lines is reached by short inputs.
        let times = if kind % 3 == 1 { 1 } else { 200 };
        let bytes = input.rest().repeat(times);
        request(&bytes, usize::from(piece) + 1);
    }
}

fn request(bytes: &[u8], piece: usize) {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let mut line = RequestLine::default();
    let mut arrival = Arrival::More;
    for piece in bytes.chunks(piece) {
        arrival = line.on_bytes(piece);
        if arrival != Arrival::More {
            break;
        }
    }
    let expected = match end {
        Some(end) if end <= REQUEST_MAX => Arrival::Line,
        None if bytes.len() <= REQUEST_MAX => Arrival::More,
        _ => Arrival::TooLong,
    };
    assert_eq!(arrival, expected);
    if arrival != Arrival::Line {
        return;
    }
    let text = &bytes[..end.expect("a whole line has an end")];
    match line.parse() {
        Ok(request) => {
            // What was understood is what stands there, and what our own client would have written is understood alike.
            let value: Value = serde_json::from_slice(text).expect("JSON");
            assert_eq!(value["v"], VERSION);
            assert_eq!(value["op"], json!(request.operation));
            let ours = json!({ "v": VERSION, "op": request.operation });
            let mut again = RequestLine::default();
            assert_eq!(
                again.on_bytes(format!("{ours}\n").as_bytes()),
                Arrival::Line
            );
            assert_eq!(again.parse(), Ok(request));
        }
        // The reason goes into a reply, on one line.
        Err(reason) => {
            let line = json!({ "v": VERSION, "error": reason }).to_string();
            assert!(!line.contains('\n'));
            assert!(matches!(interpret(&line), Err(ControlError::Engine(text)) if text == reason));
        }
    }
}

fn reply(bytes: &[u8]) {
    let line = String::from_utf8_lossy(bytes);
    let value: Option<Value> = serde_json::from_str(&line).ok();
    let field = |name: &str| value.as_ref().and_then(|value| value.get(name));
    match interpret(&line) {
        Ok(answer) => {
            assert_eq!(field("v"), Some(&json!(VERSION)));
            assert_eq!(field("ok"), Some(&answer));
            assert_eq!(field("error"), None);
        }
        Err(ControlError::Engine(_)) => assert!(field("error").is_some()),
        Err(ControlError::Version(_)) => assert_ne!(field("v"), Some(&json!(VERSION))),
        Err(ControlError::Malformed(text)) => assert!(text.chars().count() <= 200),
        Err(other) => panic!("no such error comes of a line: {other}"),
    }
}
