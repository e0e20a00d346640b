//! Log-linear buckets: eight steps to each power of two, the same arithmetic on the target and on the host.
//!
//! A value's bucket is found in a handful of instructions without a table; a bucket is at most 12.5 % wide, and values
//! below eight are exact. Percentiles taken from it say so in the report.

/// Steps to a power of two, as a power of two.
const STEP_BITS: u32 = 3;

/// Buckets of a whole histogram over `u64`.
pub const BUCKETS: usize = ((64 - STEP_BITS as usize) << STEP_BITS) + (1 << STEP_BITS);

/// Counters that a histogram occupies in memory: [`BUCKETS`] rounded up to 2 KiB of `u32`.
pub const STRIDE: usize = 512;

const _: () = assert!(BUCKETS <= STRIDE && BUCKETS == 496);

/// The bucket of a value: six instructions, no branch.
#[inline(always)]
pub const fn bucket(value: u64) -> usize {
    // OR-ing 8 in gives values below eight the shift 0, at which the index is the value itself. Above, the top four bits
    // (8..=15) remain after the shift, and each further shift adds eight.
    let shift = 60 - (value | 8).leading_zeros();
    ((shift as usize) << STEP_BITS) + (value >> shift) as usize
}

/// The smallest value of a bucket.
pub const fn lower(bucket: usize) -> u64 {
    if bucket < 16 {
        return bucket as u64;
    }
    let shift = (bucket >> STEP_BITS) - 1;
    (8 + (bucket as u64 & 7)) << shift
}

/// The largest value of a bucket.
pub const fn upper(bucket: usize) -> u64 {
    if bucket + 1 >= BUCKETS { u64::MAX } else { lower(bucket + 1) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_holds_its_own_bounds_and_they_leave_no_gap() {
        for index in 0..BUCKETS {
            assert_eq!(bucket(lower(index)), index, "lower bound of bucket {index}");
            assert_eq!(bucket(upper(index)), index, "upper bound of bucket {index}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn a_bucket_is_at_most_an_eighth_wide() {
        for index in 8..BUCKETS - 1 {
            let width = upper(index) - lower(index) + 1;
            assert!(width <= lower(index).div_ceil(8), "bucket {index}: {width} from {}", lower(index));
        }
    }
}
