//! A connection as bytes, and back: how a connection outlives the process that runs it.
//!
//! The format is a magic number, a version, and then every field of every part in the order of its declaration, integers
//! in little-endian order. It is meant for the same build or the next one on the same machine: instants are those of the
//! driving clock, which must go on (CLOCK_MONOTONIC does across processes). It holds the connection's secrets.
//!
//! Each part says its own fields, by [`code!`]: a field that is added and forgotten here does not compile. Sums that can be
//! computed from the queues are computed, not read.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::num::NonZeroU32;

use bywash_wire::{SeqNumber, Tuple, VlanId};

use crate::time::{Duration, Instant};

/// "BWtc", and the version of the format: any change of any field's meaning or place is a new version.
const MAGIC: u32 = u32::from_le_bytes(*b"BWtc");
const VERSION: u32 = 4;

/// Why bytes are not a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// Not a snapshot, or one of a version that this build does not know (the version found; 0: no snapshot at all).
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
            Self::Version(0) => f.write_str("not a connection snapshot"),
            Self::Version(found) => {
                write!(
                    f,
                    "connection snapshot of version {found}, this build reads {VERSION}"
                )
            }
            Self::Truncated => f.write_str("the connection snapshot is cut off"),
            Self::Corrupt => f.write_str("the connection snapshot contradicts itself"),
            Self::NoPayload => f.write_str("no room for the payload of the connection snapshot"),
        }
    }
}

impl core::error::Error for SnapshotError {}

/// The bytes not yet read.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader behind the header of `input`.
    pub(crate) fn open(input: &'a [u8]) -> Result<Self, SnapshotError> {
        let mut reader = Self(input);
        if u32::load(&mut reader)? != MAGIC {
            return Err(SnapshotError::Version(0));
        }
        match u32::load(&mut reader)? {
            VERSION => Ok(reader),
            other => Err(SnapshotError::Version(other)),
        }
    }

    /// Nothing may be left.
    pub(crate) fn finish(self) -> Result<(), SnapshotError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(SnapshotError::Corrupt)
        }
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], SnapshotError> {
        let (front, rest) = self.0.split_at_checked(n).ok_or(SnapshotError::Truncated)?;
        self.0 = rest;
        Ok(front)
    }

    /// The number of items that follow, each of at least one byte.
    pub(crate) fn count(&mut self) -> Result<usize, SnapshotError> {
        let count = u32::load(self)? as usize;
        if count > self.0.len() {
            Err(SnapshotError::Truncated)
        } else {
            Ok(count)
        }
    }

    /// A payload, as bytes behind their count.
    pub(crate) fn payload<P>(
        &mut self,
        make: &mut dyn FnMut(&[u8]) -> Option<P>,
    ) -> Result<P, SnapshotError> {
        let count = self.count()?;
        make(self.take(count)?).ok_or(SnapshotError::NoPayload)
    }
}

/// Writes the header.
pub(crate) fn begin(out: &mut Vec<u8>) {
    MAGIC.save(out);
    VERSION.save(out);
}

/// Writes a payload that [`Reader::payload`] reads.
pub(crate) fn save_payload(out: &mut Vec<u8>, bytes: &[u8]) {
    (bytes.len() as u32).save(out);
    out.extend_from_slice(bytes);
}

/// A value that can be written and read back.
pub(crate) trait Code: Sized {
    fn save(&self, out: &mut Vec<u8>);
    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError>;
}

/// Implements [`Code`] for a struct by its fields, or for a plain enum by its numbers.
macro_rules! code {
    (struct $type:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::snapshot::Code for $type {
            fn save(&self, out: &mut alloc::vec::Vec<u8>) {
                let Self { $($field),+ } = self;
                $($field.save(out);)+
            }
            fn load(input: &mut $crate::snapshot::Reader<'_>) -> Result<Self, $crate::snapshot::SnapshotError> {
                Ok(Self { $($field: $crate::snapshot::Code::load(input)?),+ })
            }
        }
    };
    (enum $type:ident { $($variant:ident = $number:literal),+ $(,)? }) => {
        impl $crate::snapshot::Code for $type {
            fn save(&self, out: &mut alloc::vec::Vec<u8>) {
                out.push(match self { $(Self::$variant => $number),+ });
            }
            fn load(input: &mut $crate::snapshot::Reader<'_>) -> Result<Self, $crate::snapshot::SnapshotError> {
                match <u8 as $crate::snapshot::Code>::load(input)? {
                    $($number => Ok(Self::$variant),)+
                    _ => Err($crate::snapshot::SnapshotError::Corrupt),
                }
            }
        }
    };
}
pub(crate) use code;

macro_rules! code_integers {
    ($($type:ident),+) => {$(
        impl Code for $type {
            fn save(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                let bytes = input.take(size_of::<Self>())?;
                Ok(Self::from_le_bytes(bytes.try_into().map_err(|_| SnapshotError::Truncated)?))
            }
        }
    )+};
}
code_integers!(u8, u16, u32, u64, u128);

/// A value that is stored as another one.
macro_rules! code_as {
    ($($type:ty as $stored:ty: $save:expr, $load:expr;)+) => {$(
        impl Code for $type {
            fn save(&self, out: &mut Vec<u8>) {
                let save: fn(&$type) -> $stored = $save;
                save(self).save(out);
            }
            fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
                let load: fn($stored) -> Option<$type> = $load;
                load(<$stored>::load(input)?).ok_or(SnapshotError::Corrupt)
            }
        }
    )+};
}
code_as! {
    usize as u64: |v| *v as u64, |v| usize::try_from(v).ok();
    bool as u8: |v| *v as u8, |v| match v { 0 => Some(false), 1 => Some(true), _ => None };
    SeqNumber as u32: |v| v.raw(), |v| Some(SeqNumber::new(v));
    Instant as u64: |v| v.as_nanos(), |v| Some(Instant::from_nanos(v));
    Duration as u64: |v| v.as_nanos(), |v| Some(Duration::from_nanos(v));
}

impl<T: Code> Code for Option<T> {
    fn save(&self, out: &mut Vec<u8>) {
        self.is_some().save(out);
        if let Some(value) = self {
            value.save(out);
        }
    }
    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok(if bool::load(input)? {
            Some(T::load(input)?)
        } else {
            None
        })
    }
}

impl<T: Code> Code for Box<T> {
    fn save(&self, out: &mut Vec<u8>) {
        T::save(self, out);
    }
    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        T::load(input).map(Self::new)
    }
}

impl<A: Code, B: Code> Code for (A, B) {
    fn save(&self, out: &mut Vec<u8>) {
        self.0.save(out);
        self.1.save(out);
    }
    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Ok((A::load(input)?, B::load(input)?))
    }
}

impl Code for NonZeroU32 {
    fn save(&self, out: &mut Vec<u8>) {
        self.get().save(out);
    }

    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        Self::new(u32::load(input)?).ok_or(SnapshotError::Corrupt)
    }
}

impl Code for IpAddr {
    fn save(&self, out: &mut Vec<u8>) {
        match self {
            Self::V4(address) => (4_u8, u128::from(address.to_bits())).save(out),
            Self::V6(address) => (6_u8, address.to_bits()).save(out),
        }
    }
    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        match <(u8, u128)>::load(input)? {
            (4, bits) => u32::try_from(bits)
                .map(|bits| Self::V4(Ipv4Addr::from_bits(bits)))
                .map_err(|_| SnapshotError::Corrupt),
            (6, bits) => Ok(Self::V6(Ipv6Addr::from_bits(bits))),
            _ => Err(SnapshotError::Corrupt),
        }
    }
}

impl Code for VlanId {
    fn save(&self, out: &mut Vec<u8>) {
        (self.raw(), (self.is_service(), self.inner())).save(out);
    }
    fn load(input: &mut Reader<'_>) -> Result<Self, SnapshotError> {
        let (id, (service, inner)) = <(u16, (bool, Option<u16>))>::load(input)?;
        let vlan = match (service, inner) {
            (true, Some(inner)) => Self::stacked(id, inner),
            (true, None) => Self::new(id).map(Self::service),
            (false, None) => Self::new(id),
            (false, Some(_)) => None,
        };
        vlan.ok_or(SnapshotError::Corrupt)
    }
}

code!(struct Tuple { local, remote, local_port, remote_port, vlan, protocol });
