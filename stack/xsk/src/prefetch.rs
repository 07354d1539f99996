//! Telling the processor what will be looked at soon.

/// Octets of a cache line.
const LINE: usize = 64;

/// Asks for the cache lines of `value`, which will be needed soon. Nothing waits for them. Does nothing where the processor has
/// no such instruction.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    let start = core::ptr::from_ref(value).cast::<i8>();
    let mut at = 0;
    while at < size_of_val(value) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing and never faults, and the address is within `value`.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(start.add(at));
        }
        at += LINE;
    }
}
