//! Telling the processor what will be looked at soon.

/// Octets of a cache line.
const LINE: usize = 64;

/// Asks for the cache lines of `value`, which will be needed soon. Nothing waits for them. Does nothing where the processor has
/// no such instruction.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    let start = core::ptr::from_ref(value).cast::<u8>();
    lines_at(start, size_of_val(value).div_ceil(LINE));
}

/// Asks for so many cache lines from `start` on, which need not be ours to read.
#[inline]
pub(crate) fn lines_at(start: *const u8, lines: usize) {
    for line in 0..lines {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing and never faults, whatever the address.
        unsafe {
            let at = start.wrapping_add(line * LINE).cast::<i8>();
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(at);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (start, line);
    }
}
