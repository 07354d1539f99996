//! Checksums of sent packets that the kernel or the device completes: a request that lies in the frame before the packet.
//!
//! ```text
//! chunk:  | .. headroom .. | request (24 bytes) | header | payload |
//!                                               ^ the descriptor's address
//! ```
//! In copy mode the kernel's core does it for every device (Linux 6.8, the flag of the registration 6.11). In zero-copy mode
//! it is the driver's to do, and one that cannot ignores the request: packets would leave with half a checksum. So there it
//! stays with us.

use crate::error::XskError;

/// `sizeof(struct xsk_tx_metadata)` up to Linux 6.10 and enough ever since: flags, then the request.
pub(crate) const METADATA_LEN: usize = 24;

/// Who completes the checksums of sent packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TxChecksum {
    /// Whoever writes the headers.
    #[default]
    Software,
    /// The kernel, which hands it to the device where that can: [`crate::Port::transmit_partial`]. The frames' headroom must
    /// have 24 bytes more than the headers.
    Kernel,
}

/// Where a packet's checksum is, and what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First byte that it covers, from the start of the packet; it covers all that follows.
    pub start: u16,
    /// Where it goes, from `start`. There the packet holds the sum of what is not in it (the pseudo header), uncomplemented.
    pub offset: u16,
}

impl PartialChecksum {
    /// The request as the kernel reads it (`struct xsk_tx_metadata`).
    pub(crate) fn request(self) -> [u8; METADATA_LEN] {
        let mut bytes = [0; METADATA_LEN];
        bytes[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.start.to_ne_bytes());
        bytes[10..12].copy_from_slice(&self.offset.to_ne_bytes());
        bytes
    }
}

/// Says what a refused registration means.
pub(crate) fn registration_error(error: std::io::Error, checksum: TxChecksum) -> XskError {
    match (checksum, error.raw_os_error()) {
        (TxChecksum::Kernel, Some(libc::EINVAL)) => XskError::Config(
            "this kernel takes no TX metadata (Linux 6.11 does): let the checksums be computed in software".to_owned(),
        ),
        _ => XskError::from_errno("XDP_UMEM_REG", error),
    }
}
