//! What the streams of a world carry: bytes that depend on connection, direction and position, so that a byte of another
//! stream, or of another place in the same one, is seen at once.

use super::dice::mix;

/// One direction of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream(u64);

impl Stream {
    /// The stream that the client (`side` 0) or the server (1) of connection `number` sends.
    pub fn new(number: u32, side: usize) -> Self {
        Self(mix((u64::from(number) << 1 | side as u64) + 1))
    }

    fn word(self, index: u64) -> [u8; 8] {
        let z = (index ^ self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (z ^ (z >> 29)).to_le_bytes()
    }

    /// Writes the bytes at `offset` and behind it.
    pub fn fill(self, offset: u64, out: &mut [u8]) {
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let skip = (at % 8) as usize;
            let n = (8 - skip).min(rest.len());
            let (now, later) = rest.split_at_mut(n);
            now.copy_from_slice(&self.word(at / 8)[skip..skip + n]);
            at += n as u64;
            rest = later;
        }
    }

    /// The first place in `bytes` that is not what stands at `offset` and behind it.
    pub fn first_difference(self, offset: u64, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            let position = offset + at as u64;
            let skip = (position % 8) as usize;
            let n = (8 - skip).min(bytes.len() - at);
            let word = self.word(position / 8);
            if bytes[at..at + n] != word[skip..skip + n] {
                return (at..at + n).find(|i| bytes[*i] != word[skip + i - at]);
            }
            at += n;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Stream;

    #[test]
    fn a_changed_or_moved_byte_is_found() {
        let stream = Stream::new(3, 1);
        let mut bytes = [0; 100];
        stream.fill(13, &mut bytes);
        assert_eq!(stream.first_difference(13, &bytes), None);
        assert_eq!(stream.first_difference(20, &bytes[7..]), None);
        assert!(stream.first_difference(14, &bytes).is_some());
        assert!(Stream::new(3, 0).first_difference(13, &bytes).is_some());
        bytes[57] ^= 4;
        assert_eq!(stream.first_difference(13, &bytes), Some(57));
    }
}
