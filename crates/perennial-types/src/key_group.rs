//! Key groups: the unit of keyed state and of rescaling. The arithmetic is Flink's, value for value.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A key group, in `0..max_parallelism`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyGroup(pub u16);

/// Number of key groups of a vertex, in `1..=32768`, fixed for a job's life: state is stored under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct MaxParallelism(u16);

impl MaxParallelism {
    /// Flink's upper bound (`UPPER_BOUND_MAX_PARALLELISM`), 2¹⁵.
    pub const UPPER_BOUND: u32 = 1 << 15;

    /// `None` outside `1..=32768`.
    pub fn new(count: u32) -> Option<Self> {
        (1..=Self::UPPER_BOUND).contains(&count).then(|| Self((count - 1) as u16))
    }

    /// The default for an operator of this parallelism: `min(max(roundUpPow2(p + p/2), 128), 32768)`, Flink's
    /// `KeyGroupRangeAssignment.computeDefaultMaxParallelism`.
    pub fn default_for(parallelism: u32) -> Self {
        let wanted = parallelism.saturating_add(parallelism / 2).min(Self::UPPER_BOUND).next_power_of_two();
        Self((wanted.clamp(128, Self::UPPER_BOUND) - 1) as u16)
    }

    /// The number of key groups.
    pub fn get(self) -> u32 {
        u32::from(self.0) + 1
    }
}

impl TryFrom<u32> for MaxParallelism {
    type Error = String;

    fn try_from(count: u32) -> Result<Self, String> {
        Self::new(count).ok_or_else(|| format!("max parallelism {count} is outside 1..={}", Self::UPPER_BOUND))
    }
}

impl From<MaxParallelism> for u32 {
    fn from(count: MaxParallelism) -> u32 {
        count.get()
    }
}

impl fmt::Display for MaxParallelism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// Key group of a key, from the key's 32-bit hash: `murmur(hash) % max_parallelism`.
///
/// Same function as Flink's `KeyGroupRangeAssignment.computeKeyGroupForKeyHash`, same values.
#[inline(always)]
pub fn key_group(hash: u32, max_parallelism: MaxParallelism) -> KeyGroup {
    KeyGroup((murmur(hash) % max_parallelism.get()) as u16)
}

/// The subtask that owns a key group: `key_group * parallelism / max_parallelism`, rounded down.
#[inline(always)]
pub fn subtask_of(key_group: KeyGroup, max_parallelism: MaxParallelism, parallelism: u32) -> u32 {
    (u64::from(key_group.0) * u64::from(parallelism) / u64::from(max_parallelism.get())) as u32
}

/// Flink's `MathUtils.murmurHash`: one round of MurmurHash3 over four bytes, made non-negative.
#[inline(always)]
pub fn murmur(code: u32) -> u32 {
    let mut h = code.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    h = h.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    h ^= 4;
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^= h >> 16;
    // As a signed number: h >= 0 gives h, the minimum gives 0, else -h.
    let signed = h as i32;
    if signed == i32::MIN { 0 } else { signed.unsigned_abs() }
}

/// The key groups of one subtask, inclusive at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyGroupRange {
    /// First key group.
    pub first: u16,
    /// Last key group, itself included.
    pub last: u16,
}

impl KeyGroupRange {
    /// Range of subtask `index`: `[(i*maxP + p - 1)/p, ((i+1)*maxP - 1)/p]`, Flink's
    /// `computeKeyGroupRangeForOperatorIndex`. `parallelism` is at most `max_parallelism`.
    pub fn of_subtask(index: u32, max_parallelism: MaxParallelism, parallelism: u32) -> Self {
        let (index, count, parallelism) = (u64::from(index), u64::from(max_parallelism.get()), u64::from(parallelism));
        let first = (index * count).div_ceil(parallelism);
        let last = ((index + 1) * count - 1) / parallelism;
        Self { first: first as u16, last: last as u16 }
    }

    /// Number of key groups in the range.
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }

    /// Whether the key group is one of the range.
    pub fn contains(self, key_group: KeyGroup) -> bool {
        (self.first..=self.last).contains(&key_group.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden values of Flink's `MathUtils.murmurHash`, computed with the algorithm as FACTS §3.3 gives it, step by
    /// step in arbitrary precision.
    #[test]
    fn murmur_is_flinks() {
        fn slow(code: i64) -> i64 {
            let m = |x: i64, y: i64| ((x as i128 * y as i128) as i64) & 0xffff_ffff;
            let rotl = |x: i64, by: u32| ((x << by) | (x >> (32 - by))) & 0xffff_ffff;
            let mut c = code & 0xffff_ffff;
            c = m(c, 0xcc9e_2d51);
            c = rotl(c, 15);
            c = m(c, 0x1b87_3593);
            c = rotl(c, 13);
            c = (m(c, 5) + 0xe654_6b64) & 0xffff_ffff;
            c ^= 4;
            c ^= c >> 16;
            c = m(c, 0x85eb_ca6b);
            c ^= c >> 13;
            c = m(c, 0xc2b2_ae35);
            c ^= c >> 16;
            let signed = i64::from(c as u32 as i32);
            if signed >= 0 {
                signed
            } else if signed == i64::from(i32::MIN) {
                0
            } else {
                -signed
            }
        }
        for code in (0..100_000u32).chain([u32::MAX, i32::MAX as u32, i32::MIN as u32]) {
            assert_eq!(i64::from(murmur(code)), slow(i64::from(code)), "murmur({code})");
        }
    }

    #[test]
    fn default_max_parallelism_is_flinks() {
        for (parallelism, expect) in [
            (1, 128),
            (85, 128),
            (86, 256),
            (128, 256),
            (171, 256),
            (172, 512),
            (1000, 2048),
            (21_846, 32_768),
            (32_768, 32_768),
        ] {
            assert_eq!(MaxParallelism::default_for(parallelism).get(), expect, "parallelism {parallelism}");
        }
        assert_eq!(MaxParallelism::new(0), None);
        assert_eq!(MaxParallelism::new(32_769), None);
        assert_eq!(MaxParallelism::new(32_768).map(MaxParallelism::get), Some(32_768));
    }

    #[test]
    fn ranges_partition_the_key_groups_and_agree_with_subtask_of() {
        for count in [1u32, 7, 128, 200, 32_768] {
            let max = MaxParallelism::new(count).unwrap();
            for parallelism in (1..=count).filter(|p| *p < 20 || count - p < 3) {
                let mut next = 0u32;
                for index in 0..parallelism {
                    let range = KeyGroupRange::of_subtask(index, max, parallelism);
                    assert_eq!(u32::from(range.first), next, "gap before subtask {index} of {parallelism}");
                    for group in [range.first, range.last] {
                        assert_eq!(subtask_of(KeyGroup(group), max, parallelism), index);
                    }
                    next = u32::from(range.last) + 1;
                }
                assert_eq!(next, count);
            }
        }
    }
}
