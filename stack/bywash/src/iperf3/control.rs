//! The control connection without IO: bytes in, steps out, and the bytes to send.
//!
//! [`ServerControl`] begins after the cookie (which every connection opens with, see
//! [`Greeting`](super::message::Greeting)); [`ClientControl`] begins with sending it. Whoever drives one of them
//!
//! 1. gives it what arrived with `on_bytes`, in any pieces,
//! 2. calls `poll` until it says `None`, and answers each step with the call that the step names,
//! 3. sends `output()`, and calls `sent(n)` for as much of it as was taken,
//! 4. tells it of the peer's FIN with `on_end`.
//!
//! After an error the machine is of no more use: close the connection.

mod client;
mod server;

pub use client::{ClientControl, ClientStep};
pub use server::{ServerControl, ServerStep};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{NotACookie, State};

/// Longest JSON of the parameters that we read, in bytes; the stock program's own limit.
pub const MAX_PARAMETERS: u32 = 8 * 1024;

/// Longest JSON of the results that we read, in bytes: 256 streams take some 40 KiB, and a stock
/// server may add its whole output (`--get-server-output`).
pub const MAX_RESULTS: u32 = 4 * 1024 * 1024;

/// The peer broke the protocol, or never spoke it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The connection opened with something that is no cookie.
    #[error(transparent)]
    NotACookie(#[from] NotACookie),
    /// The server's first byte is no state: something else listens there.
    #[error(
        "the peer is not an iperf3 server: it answered with byte {0:#04x}; check address and port"
    )]
    NotAServer(u8),
    /// A byte that is no state.
    #[error("received an unknown control message (byte {byte:#04x}) while {during}")]
    UnknownState {
        /// The byte.
        byte: u8,
        /// What we were doing.
        during: &'static str,
    },
    /// A state that has no place there.
    #[error("received control message {state:?} while {during}")]
    Unexpected {
        /// The state.
        state: State,
        /// What we were doing.
        during: &'static str,
    },
    /// A length that no sane peer announces.
    #[error("the peer announced {what} of {length} bytes, beyond the limit of {limit}")]
    TooLong {
        /// "parameters" or "results".
        what: &'static str,
        /// The announced length.
        length: u32,
        /// What we take.
        limit: u32,
    },
    /// Not the JSON that belongs there.
    #[error("the peer's {what} are not what iperf3 sends: {cause}")]
    BadJson {
        /// "parameters" or "results".
        what: &'static str,
        /// What the parser said.
        cause: String,
    },
    /// The peer closed too early.
    #[error("the peer closed the control connection while {0}")]
    Closed(&'static str),
}

/// Bytes that came and are not understood yet.
#[derive(Debug, Default)]
struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn byte(&mut self) -> Option<u8> {
        if self.bytes.is_empty() {
            None
        } else {
            Some(self.bytes.remove(0))
        }
    }

    /// `N` bytes, once they are all there.
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let array = *self.bytes.first_chunk::<N>()?;
        self.bytes.drain(..N);
        Some(array)
    }

    /// The JSON document that is due, once it is complete. The length is judged before a byte of it is waited for.
    fn json<T: DeserializeOwned>(
        &mut self,
        what: &'static str,
        limit: u32,
    ) -> Result<Option<T>, ProtocolError> {
        let Some(head) = self.bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*head);
        if length > limit {
            return Err(ProtocolError::TooLong {
                what,
                length,
                limit,
            });
        }
        let end = 4 + length as usize;
        let Some(text) = self.bytes.get(4..end) else {
            return Ok(None);
        };
        let bad = |cause: String| ProtocolError::BadJson { what, cause };
        // serde would also take an array of the fields' values.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(bad("not a JSON object".to_owned()));
        }
        let value = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        self.bytes.drain(..end);
        Ok(Some(value))
    }
}

/// Bytes that wait to be sent.
#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
}

impl Outbox {
    fn state(&mut self, state: State) {
        self.bytes.push(state.byte());
    }

    fn json<T: Serialize>(&mut self, value: &T) {
        let text = serde_json::to_vec(value).expect("numbers and strings always serialise");
        let length = u32::try_from(text.len()).expect("our documents are short");
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(&text);
    }

    fn sent(&mut self, count: usize) {
        self.bytes.drain(..count);
    }
}

#[cfg(test)]
mod tests;
