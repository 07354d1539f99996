//! TCP Fast Open (RFC 7413): data on the SYN, read before the handshake ends.
//!
//! ```text
//!  first time                                      later
//!  SYN, "a cookie, please"  --->                   SYN, cookie, data  --->        the server reads, and may answer
//!  <--- SYN-ACK, cookie                            <--- SYN-ACK of the data
//!  the owner keeps cookie and segment size         <--- the answer, before the client's ACK
//! ```
//! A cookie proves that a client receives what is sent to its address, so a forged SYN costs no more than any other. Who makes,
//! checks and keeps cookies is the owner: [`FastOpenOffer`] and [`FastOpenAnswer`] are what it has decided. Off by default.
//!
//! **Data on a SYN may be delivered twice** (RFC 7413 2.1): a SYN that is doubled on the way, or sent again after the server was
//! restarted, opens another connection with the same data. Only requests that may be repeated belong there.

use bywash_wire::{FastOpen, FastOpenCookie, SeqNumber};

use crate::snapshot::{Code, Reader, SnapshotError, code};

/// What an active open tries, because of what is known of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastOpenOffer {
    /// Nothing is known: a cookie is asked for, and data waits for the handshake (RFC 7413 4.2.1).
    Ask,
    /// The cookie goes with as much data as one segment holds (RFC 7413 4.2.2). Without data to send it is asked for anew.
    Show {
        /// As the server gave it.
        cookie: FastOpenCookie,
        /// Payload without options that the server takes in a segment, as it said then (RFC 7413 4.1.3).
        mss: u16,
    },
}

/// What a listener does about the Fast Open option of a SYN, or about its data.
#[derive(Debug, Default)]
pub enum FastOpenAnswer<P> {
    /// Nothing: the handshake comes first. Data on the SYN is not kept, and the peer sends it again.
    #[default]
    Refuse,
    /// Likewise, and the SYN-ACK brings this cookie.
    Grant(FastOpen),
    /// The cookie was right: the connection is there, and what the SYN brought can be read.
    Accept {
        /// The SYN's data.
        payload: Option<P>,
        /// A newer cookie for the next time.
        cookie: Option<FastOpen>,
    },
}

/// What became of Fast Open on a connection; the names of its failures are Linux's (`tcpi_fastopen_client_fail`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FastOpenStatus {
    /// Not tried.
    #[default]
    Unused,
    /// A cookie was asked for; no data went early.
    CookieOnly,
    /// The server has given one.
    Granted,
    /// Data went with the SYN, and there is no answer yet.
    Sent,
    /// The SYN's data was taken: the connection's first round trip was not waited for.
    Accepted,
    /// The SYN-ACK did not acknowledge the data, which was then sent again.
    DataNotAcked,
    /// The SYN had to be sent again, without option and data.
    SynRetransmitted,
}

impl FastOpenStatus {
    /// A short name, for tables; `-` if it was not tried.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unused => "-",
            Self::CookieOnly => "cookie",
            Self::Granted => "granted",
            Self::Sent => "sent",
            Self::Accepted => "accepted",
            Self::DataNotAcked => "not-acked",
            Self::SynRetransmitted => "syn-lost",
        }
    }
}

code!(
    enum FastOpenStatus {
        Unused = 0,
        CookieOnly = 1,
        Sent = 2,
        Accepted = 3,
        DataNotAcked = 4,
        SynRetransmitted = 5,
        Granted = 6,
    }
);

/// What a connection that tries it remembers of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FastOpenState {
    /// What our first SYN or SYN-ACK says; later ones do not (RFC 7413 4.2.2).
    pub(crate) option: Option<FastOpen>,
    /// Payload without options that the SYN may carry.
    pub(crate) mss: u16,
    pub(crate) status: FastOpenStatus,
    /// Bytes on the SYN, ours or the peer's.
    pub(crate) syn_data: u32,
    /// The number behind our data on the SYN.
    pub(crate) data_end: SeqNumber,
    /// What the server has given, and the segment size that it takes.
    pub(crate) granted: Option<FastOpenCookie>,
    pub(crate) granted_mss: u16,
}

code!(struct FastOpenState { option, mss, status, syn_data, data_end, granted, granted_mss });

impl Code for FastOpenCookie {
    fn save(&self, out: &mut alloc::vec::Vec<u8>) {
        out.push(self.octets().len() as u8);
        out.extend_from_slice(self.octets());
    }
    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let len = u8::load(input)?;
        Self::new(input.take(len.into())?).ok_or(SnapshotError::Corrupt)
    }
}

impl Code for FastOpen {
    fn save(&self, out: &mut alloc::vec::Vec<u8>) {
        (self.cookie, self.experimental).save(out);
    }
    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let (cookie, experimental) = Code::load(input)?;
        Ok(Self {
            cookie,
            experimental,
        })
    }
}
