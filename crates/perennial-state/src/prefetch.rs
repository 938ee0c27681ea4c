//! Asking for memory before it is needed.
//!
//! The only `unsafe` of this crate. Reading the slots early instead, which safe code can do, was measured at twice the
//! time: a read that waits fills the processor's window, a prefetch leaves it at once.

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Asks the processor to bring the first cache line of `value` near, and the one its end is in. Changes nothing that a
/// program can observe.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = std::ptr::from_ref(value).cast::<i8>();
        #[expect(unsafe_code, reason = "the intrinsic is declared unsafe")]
        // SAFETY: a prefetch neither reads nor writes memory as far as the program is concerned and never faults, whatever
        // the address; these are the first and last byte of a live value besides.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(start);
            if !LINE_BYTES.is_multiple_of(size_of::<T>().max(1)) {
                _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(size_of::<T>() - 1));
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
