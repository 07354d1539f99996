//! A connection as bytes, and back.

use core::fmt;

/// Why bytes are not a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// Not a snapshot, or one of a version that this build does not know (the version found).
    Version(u32),
    /// The bytes end before the connection does.
    Truncated,
    /// Bytes that no connection writes.
    Corrupt,
    /// The caller could not make a payload handle: no frame is free.
    NoPayload,
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(found) => write!(
                f,
                "not a connection snapshot that this build reads (version {found:#x})"
            ),
            Self::Truncated => f.write_str("the connection snapshot is cut off"),
            Self::Corrupt => f.write_str("the connection snapshot contradicts itself"),
            Self::NoPayload => f.write_str("no room for the payload of the connection snapshot"),
        }
    }
}

impl core::error::Error for SnapshotError {}
