//! Key groups of a whole batch with the vector instructions of the processor at hand.
//!
//! The only `unsafe` of this crate is the call of a function compiled for AVX2, right behind the check that the processor
//! has it. Compiled for every x86-64, the same loop takes five times as long: its multiplications find no vector form.

use perennial_types::murmur;

/// Appends the subtask of each key hash, for `1 << groups_log2` key groups and so many subtasks, at most 32768 each.
pub(crate) fn subtasks_of(hashes: &[u32], groups_log2: u32, subtasks: u32, out: &mut Vec<u32>) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[expect(unsafe_code, reason = "calling a safe function that is compiled for AVX2")]
        // SAFETY: the function has no other condition than that the processor has AVX2, which was checked just now.
        unsafe {
            subtasks_of_avx2(hashes, groups_log2, subtasks, out);
        }
        return;
    }
    subtasks_of_any(hashes, groups_log2, subtasks, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn subtasks_of_avx2(hashes: &[u32], groups_log2: u32, subtasks: u32, out: &mut Vec<u32>) {
    subtasks_of_any(hashes, groups_log2, subtasks, out);
}

#[inline(always)]
fn subtasks_of_any(hashes: &[u32], groups_log2: u32, subtasks: u32, out: &mut Vec<u32>) {
    let mask = (1u32 << groups_log2) - 1;
    // Below 2^15 times at most 2^15: no overflow.
    out.extend(hashes.iter().map(|hash| ((murmur(*hash) & mask) * subtasks) >> groups_log2));
}
