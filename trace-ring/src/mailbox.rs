//! The mailbox word: what a GICv3 SGI does not carry, in one 64-bit store.
//!
//! A GICv3 SGI names no sender and merges with another that is pending. So each sender owns one word for each target and
//! INTID, with the newest message's number and send time in one single-copy atomic store, and the target has a bitmap of
//! the senders that want something. The receiver can thus never see the number of one message with the time of another.
//!
//! Bits: 39..0 the send time's low 40 bits; 63..40 the message number's low 24 bits. A broadcast fills many words before its
//! one write of ICC_SGI1R_EL1; its time stands in a cell of the sender's, and its words carry time 0.

const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;
const NUMBER_MASK: u64 = (1 << 24) - 1;

/// The word of message `number`, sent at `time` (ticks).
#[inline(always)]
pub const fn pack(time: u64, number: u32) -> u64 {
    time & TIME_MASK | (number as u64 & NUMBER_MASK) << TIME_BITS
}

/// Whether a word is that of message `number`, to the bits that it carries.
#[inline(always)]
pub const fn is_number(word: u64, number: u32) -> bool {
    word >> TIME_BITS == number as u64 & NUMBER_MASK
}

/// How many ticks before `now` the message was sent; negative when it was sent after `now`.
///
/// Right within 2^39 ticks either way (9 minutes at 1 GHz), which every deadline in a plan stays below.
#[inline(always)]
pub const fn age(word: u64, now: u64) -> i64 {
    (now.wrapping_sub(word) << (64 - TIME_BITS)) as i64 >> (64 - TIME_BITS)
}

/// How many messages lie after `answered` up to the one of this word (0 when it is that very one).
#[inline(always)]
pub const fn messages_since(word: u64, answered: u32) -> u32 {
    ((word >> TIME_BITS).wrapping_sub(answered as u64) & NUMBER_MASK) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_time_come_back_across_wraps() {
        for (time, now) in [(5, 9), ((1 << 40) - 1, 1 << 40), ((7 << 40) | 3, (7 << 40) | 90), (1000, 10)] {
            for number in [1u32, 0x7F_FFFF, 0x80_0000, u32::MAX] {
                let word = pack(time, number);
                assert_eq!(age(word, now), now as i64 - time as i64);
                assert_eq!(messages_since(word, number), 0);
                assert_eq!(messages_since(word, number.wrapping_sub(3)), 3);
                assert!(is_number(word, number));
                assert!(!is_number(word, number.wrapping_add(1)));
            }
        }
    }
}
