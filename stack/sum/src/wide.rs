//! The same bodies, compiled for more than the target promises, and the choice between them.
//!
//! Valgrind has no AVX-512: under it the AVX2 copy runs, and that is what callgrind counts.

extern crate std;

use std::arch::is_x86_feature_detected;

/// What the processor has and the operating system saves; asked once by std, a load and a test afterwards.
macro_rules! dispatch {
    ($body:ident, $avx2:ident, $avx512:ident, ($($argument:ident),*)) => {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has what the function was compiled for.
            unsafe { $avx512($($argument),*) }
        } else if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has what the function was compiled for.
            unsafe { $avx2($($argument),*) }
        } else {
            super::$body($($argument),*)
        }
    };
}

pub(super) fn sum(bytes: &[u8]) -> u64 {
    dispatch!(sum_body, sum_avx2, sum_avx512, (bytes))
}

/// The strings are of the same length.
pub(super) fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
    dispatch!(copy_body, copy_avx2, copy_avx512, (dst, src))
}

#[target_feature(enable = "avx2")]
pub(super) fn sum_avx2(bytes: &[u8]) -> u64 {
    super::sum_body(bytes)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn sum_avx512(bytes: &[u8]) -> u64 {
    super::sum_body(bytes)
}

#[target_feature(enable = "avx2")]
pub(super) fn copy_avx2(dst: &mut [u8], src: &[u8]) -> u64 {
    super::copy_body(dst, src)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) fn copy_avx512(dst: &mut [u8], src: &[u8]) -> u64 {
    super::copy_body(dst, src)
}
