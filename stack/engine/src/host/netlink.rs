//! A request socket of rtnetlink or generic netlink: one question, one answer, in order.
//!
//! ```text
//! ask(message)  -> [answers..] then NLMSG_ERROR with code 0 (the acknowledgement), or with an errno
//! dump(message) -> [answers..] then NLMSG_DONE
//! ```
//!
//! The socket belongs to the network namespace of the thread that opens it.

use std::io;
use std::marker::PhantomData;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

/// The kernel answers at once; a longer silence is an error rather than a hang.
const ANSWER_SECONDS: i64 = 2;

/// A dump that changes while it is read is marked by the kernel; it is read again this often.
const DUMP_ATTEMPTS: usize = 5;

/// Why a question to the kernel got no answer.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel answered with an error number.
    #[error("{0}")]
    Kernel(Errno),
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// An answer could not be understood.
    #[error("netlink answer: {0}")]
    Decode(String),
}

/// A netlink socket that asks and waits for the answer. Not for shards: it blocks.
///
/// `M` is the kind of message that it asks and understands.
pub struct Requests<M = RouteNetlinkMessage> {
    socket: Socket,
    sequence: u32,
    messages: PhantomData<M>,
}

impl Requests {
    /// Opens an rtnetlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`] if the system gives none.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::on(NETLINK_ROUTE)
    }
}

impl<M> Requests<M>
where
    M: NetlinkSerializable + NetlinkDeserializable + Clone + std::fmt::Debug,
    M: Into<NetlinkPayload<M>>,
{
    /// Opens a generic netlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`] if the system gives none.
    pub fn open_generic() -> Result<Self, NetlinkError> {
        Self::on(NETLINK_GENERIC)
    }

    fn on(protocol: isize) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(ANSWER_SECONDS),
        )
        .map_err(io::Error::from)?;
        Ok(Self {
            socket,
            sequence: 0,
            messages: PhantomData,
        })
    }

    /// Sends `message` with `flags` besides `NLM_F_REQUEST | NLM_F_ACK` and gives the answers that
    /// precede the acknowledgement.
    ///
    /// # Errors
    /// [`NetlinkError::Kernel`] is the kernel's own refusal; the others are failures of the socket.
    pub fn ask(&mut self, message: M, flags: u16) -> Result<Vec<M>, NetlinkError> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags)
            .map(|(answers, _)| answers)
    }

    /// All entries of the table that `message` names. A dump that the kernel marks as interrupted
    /// by a change is read again.
    ///
    /// # Errors
    /// As [`Requests::ask`]; also if the table changes faster than it can be read.
    pub fn dump(&mut self, message: &M) -> Result<Vec<M>, NetlinkError> {
        for _ in 0..DUMP_ATTEMPTS {
            let (answers, interrupted) =
                self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if !interrupted {
                return Ok(answers);
            }
        }
        Err(NetlinkError::Decode(format!(
            "a table changed during each of {DUMP_ATTEMPTS} readings"
        )))
    }

    fn exchange(&mut self, message: M, flags: u16) -> Result<(Vec<M>, bool), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut request = NetlinkMessage::new(header, message.into());
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;

        let mut answers = Vec::new();
        let mut interrupted = false;
        loop {
            let (bytes, sender) = self.socket.recv_from_full()?;
            if sender.port_number() != 0 {
                continue; // Not from the kernel.
            }
            for message in messages::<M>(&bytes) {
                let message = message?;
                // An answer to an earlier question that ran into the time limit.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok((answers, interrupted)),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok((answers, interrupted)),
                            Some(code) => Err(NetlinkError::Kernel(Errno::from_raw(-code.get()))),
                        };
                    }
                    NetlinkPayload::Noop => {}
                    other => {
                        return Err(NetlinkError::Decode(format!(
                            "unexpected message {other:?}"
                        )));
                    }
                }
            }
        }
    }
}

/// The messages in one datagram from the kernel. A message that cannot be understood is an `Err`
/// and the next one follows; a length that cannot be right ends the datagram after an `Err`.
pub fn messages<M: NetlinkDeserializable>(
    bytes: &[u8],
) -> impl Iterator<Item = Result<NetlinkMessage<M>, NetlinkError>> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = rest
            .first_chunk::<4>()
            .map_or(0, |field| u32::from_ne_bytes(*field) as usize);
        if length < NETLINK_HEADER_LEN || length > rest.len() {
            let text = format!("message length {length} of {} bytes", rest.len());
            rest = &[];
            return Some(Err(NetlinkError::Decode(text)));
        }
        let (message, _) = rest.split_at(length);
        // NLMSG_ALIGN: messages begin at multiples of four; the last may lack its padding.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(
            NetlinkMessage::deserialize(message)
                .map_err(|error| NetlinkError::Decode(error.to_string())),
        )
    })
}

/// Length, type, flags, sequence, port (`struct nlmsghdr`).
const NETLINK_HEADER_LEN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn noop(length: u32) -> Vec<u8> {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(1_u16.to_ne_bytes()); // NLMSG_NOOP
        bytes.resize(16, 0);
        bytes
    }

    #[test]
    fn a_datagram_is_split_into_its_messages() {
        let mut bytes = noop(17);
        bytes.extend([0; 4]); // One byte of body, three of padding.
        bytes.extend(noop(16));
        assert_eq!(
            messages::<RouteNetlinkMessage>(&bytes)
                .filter(Result::is_ok)
                .count(),
            2
        );
    }

    #[test]
    fn lengths_that_cannot_be_right_end_the_datagram() {
        for length in [0, 15, 17, u32::MAX] {
            let found: Vec<_> = messages::<RouteNetlinkMessage>(&noop(length)).collect();
            assert_eq!(found.len(), 1, "length {length}");
            assert!(
                matches!(found[0], Err(NetlinkError::Decode(_))),
                "length {length}"
            );
        }
        assert!(
            messages::<RouteNetlinkMessage>(&[1, 2])
                .next()
                .unwrap()
                .is_err()
        );
    }

    #[test]
    fn a_message_of_unknown_type_does_not_hide_the_next_one() {
        let mut bytes = noop(16);
        bytes[4..6].copy_from_slice(&9999_u16.to_ne_bytes());
        bytes.extend(noop(16));
        let found: Vec<_> = messages::<RouteNetlinkMessage>(&bytes)
            .map(|message| message.is_ok())
            .collect();
        assert_eq!(found, [false, true]);
    }
}
