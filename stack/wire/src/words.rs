//! Headers written as 32-bit words, summed on the way.
//!
//! IP and TCP headers are whole numbers of big-endian 32-bit words. Summing each word as it is written spares reading back what
//! the store buffer still holds, which costs more than the rest of the header (wide loads over narrow stores wait).

use crate::checksum::Sum;

/// Writes words from the front of a header to its end.
pub(crate) struct Words<'a> {
    rest: &'a mut [[u8; 4]],
    sum: u64,
}

impl<'a> Words<'a> {
    /// A writer over `header`, whose length is a multiple of four.
    #[inline(always)]
    pub(crate) fn new(header: &'a mut [u8]) -> Self {
        let (rest, _) = header.as_chunks_mut::<4>();
        Self { rest, sum: 0 }
    }

    /// Writes the next word.
    ///
    /// # Panics
    /// At the end of the header.
    #[inline(always)]
    pub(crate) fn put(&mut self, word: u32) {
        let (first, rest) = core::mem::take(&mut self.rest)
            .split_first_mut()
            .expect("a header has room for its words");
        *first = word.to_be_bytes();
        self.rest = rest;
        self.sum += u64::from(word);
    }

    /// Writes the next word from two halves.
    #[inline(always)]
    pub(crate) fn put_halves(&mut self, high: u16, low: u16) {
        self.put(u32::from(high) << 16 | u32::from(low));
    }

    /// The sum of the words written.
    #[inline(always)]
    pub(crate) fn sum(&self) -> Sum {
        Sum::from_words(self.sum)
    }
}
