//! Streams whose bytes say where they belong, and what has been given of one.

use std::collections::BTreeMap;

/// The byte of a stream at an offset; `salt` tells the two directions apart.
pub(crate) fn byte_at(offset: u32, salt: u8) -> u8 {
    (offset.wrapping_mul(0x9e37_79b1) >> 24) as u8 ^ salt
}

/// `len` bytes from an offset on.
pub(crate) fn bytes_at(offset: u32, len: usize, salt: u8) -> Vec<u8> {
    (0..len as u32)
        .map(|i| byte_at(offset.wrapping_add(i), salt))
        .collect()
}

/// Offsets of a stream that were given: intervals from start to end, apart from each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Given(BTreeMap<u64, u64>);

impl Given {
    /// What begins before the stream and reaches into it counts from its begin.
    pub(crate) fn mark(&mut self, offset: u32, len: usize) {
        let (mut start, mut end) = (u64::from(offset), u64::from(offset) + len as u64);
        if let Some(over) = end.checked_sub(1 << 32)
            && over > 0
        {
            (start, end) = (0, over);
        }
        if len == 0 {
            return;
        }
        while let Some((&from, &to)) = self.0.range(..=end).next_back()
            && to >= start
        {
            (start, end) = (start.min(from), end.max(to));
            self.0.remove(&from);
        }
        self.0.insert(start, end);
    }

    /// The interval around an offset.
    pub(crate) fn around(&self, offset: u32) -> Option<(u64, u64)> {
        let offset = u64::from(offset);
        let (&start, &end) = self.0.range(..=offset).next_back()?;
        (end > offset).then_some((start, end))
    }

    pub(crate) fn has_all(&self, offset: u32, len: usize) -> bool {
        len == 0
            || self
                .around(offset)
                .is_some_and(|(_, end)| end >= u64::from(offset) + len as u64)
    }

    /// How much there is from the begin without a hole.
    pub(crate) fn prefix(&self) -> u64 {
        self.around(0).map_or(0, |(_, end)| end)
    }
}
