//! The record: 32 bytes that say what happened, when, and between whom.
//!
//! A record holds an absolute counter value, so that a lost neighbour shifts nothing, and its own number in the lane
//! twice, in different halves, so that a half-written one is found.

/// Words of a record as stored. Word 0: `t`. Word 1: `seq` (31..0), `kind` (39..32), `flags` (47..40), `peer` (63..48).
/// Word 2: `msg` (31..0), `intid` (39..32), `extra` (47..40), `seq2` (63..48). Word 3: `arg`.
pub type Words = [u64; 4];

/// Bytes of one record in memory.
pub const RECORD_BYTES: u64 = 32;

/// `peer` of a record that concerns every other core (ICC_SGI1R_EL1.IRM = 1).
pub const PEER_ALL: u16 = 0xFFFF;

/// What a record says. Unknown numbers survive as [`Kind::Unknown`], so that an older host reads a newer target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// One ICC_SGI1R_EL1 write. `t`: before the DSB; `arg`: bits 39..0 the window, ticks from `t` to after the
    /// ISB, bits 63..40 the pair slot's index. `peer`: the target, or [`PEER_ALL`]. `msg`: its number between
    /// sender and target (for a broadcast: the number of the broadcast).
    Send,
    /// One sender's messages answered by one acknowledge. `t`: vector entry; `peer`: the sender; `msg`: the newest message
    /// answered; `extra`: how many older ones of this sender went with it (255: at least that many); `arg`: the newest
    /// message's send time in ticks, 0 when it can't be known or lies after the entry ([`FLAG_UNTIMED`]).
    Receive,
    /// An acknowledge that found no message. `t`: vector entry. Legal after a message that was answered early, spurious else.
    ReceiveEmpty,
    /// An acknowledge returned 1020..=1023. `msg`: that INTID.
    SpuriousIntid,
    /// The sender gave a message up at its deadline. `t`: now; `peer`: the target; `msg`: the newest message; `arg`: low
    /// 32 bits how many; bits 34..32 the target's redistributor state for the INTID ([`PROBE_ENABLED`]..).
    /// `extra`: a [`Retired`] reason.
    Retire,
    /// The sender looked at the target's redistributor while it waited. `arg` as in `Retire`.
    Probe,
    /// A plan mark. `msg`: its number.
    Mark,
    /// A plan phase began or ended (`extra` 0 or 1). `msg`: the phase.
    Phase,
    /// The core took an exception. `arg`: ESR_EL1; the whole story stands in the fault entry.
    Fault,
    /// Time stamps after acknowledge and end of interrupt, level `stages`. `extra`: the stage, `msg` as in `Receive`.
    Stage,
    /// Who sent, behind its [`Kind::Send`] or [`Kind::SendMask`] in the same lane; level `calls`, and always behind a `SendMask`.
    /// `t`, `peer`, `intid` as there. `msg`: of a `Send` the same; of a `SendMask` the pair slot of core 0 (that of core k is
    /// k more). `arg`: the call site's address in bits 31..0, the callback's in bits 63..32 ([`code_address`]; 0: none).
    CallSite,
    /// One IPI to a set of cores, by as many writes of ICC_SGI1R_EL1 as their affinities need. `t`: before the first DSB; `msg`:
    /// ticks from there to after the last ISB (`u32::MAX`: at least so many); `arg`: bit n set for core `peer` + n, exactly the
    /// targets that were written; `peer`: a multiple of 64; `extra`: how many more words of this send follow. Each target's
    /// message has its own time within the span, which its `Receive` tells.
    SendMask,
    /// A call was put on a queue, before the push. `peer`: the target; `msg`: the descriptor's index; `intid`: 1, or 5 for IRQ
    /// work; `extra`: low bits of the descriptor's generation; `flags` bit 0: the caller waits; `arg`: the function's address
    /// in bits 31..0, the call site's in bits 63..32 ([`code_address`]).
    Queued,
    /// A callback begins. `peer`: the caller; `msg`, `extra`, `flags`, `intid` as in `Queued`; `arg`: the function's address in
    /// bits 31..0, bits 31..0 of its argument in bits 63..32.
    FunctionEntry,
    /// It ended. The rest as in `FunctionEntry`.
    FunctionExit,
    /// One frame of a stack. `extra`: its depth, 0 the innermost; `arg`: the program counter, whole; `flags`: [`FRAME_SENDER`]
    /// for the frames of a sender (plan flag `BACKTRACE`), behind the record they explain, and [`FRAME_TARGET`] for those that
    /// IPI `backtrace` asked for; `t`, `intid`, `peer`: of the send, or of the reception (the vector's entry, this core).
    Frame,
    /// A caller waits for a descriptor's lock longer than T (Linux: csd_lock_wait_toolong). `t`: now; `peer`: the target; `msg`:
    /// the descriptor; `extra`: its generation; `arg`: ticks waited so far.
    CallWait,
    /// A core was parked by SGI `intid`, or left its park (`extra` 0 or 1).
    Park,
    /// The core was away while it waited: nobody's IPI is to blame for this time. `t`: when it was back; `arg`: since when it was
    /// surely away, ticks; `extra`: a [`Witness`]; `msg`: gaps of this core before this one, those without a record counted.
    Gap,
    /// A heartbeat (the timer's interrupt of a waiting core) that found measured SGIs pending. `t`: vector entry; `arg`: when it was
    /// due; `msg`: their bits of GICR_ISPENDR0.
    Heartbeat,
    /// The next message of this lane is timed against a transition of its receiver. `t`: now; `peer`: the receiver; `msg`: the
    /// message's number; `intid`: as there; `extra`: a [`crate::plan::transition`]; `arg`: when the receiver makes its transition,
    /// ticks.
    Sweep,
    /// A number this version does not know.
    Unknown(u8),
}

/// Who saw a [`Kind::Gap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Witness {
    /// The core's own timer: its interrupt was due at `arg` and was taken at `t`.
    Timer,
    /// A polling loop: two looks at the counter in a row, at `arg` and at `t`.
    Loop,
    /// A number this version does not know.
    Unknown(u8),
}

impl Witness {
    /// The number in the record.
    pub const fn code(self) -> u8 {
        match self {
            Witness::Timer => 0,
            Witness::Loop => 1,
            Witness::Unknown(code) => code,
        }
    }

    /// The witness of a number.
    pub const fn from_code(code: u8) -> Self {
        match code {
            0 => Witness::Timer,
            1 => Witness::Loop,
            other => Witness::Unknown(other),
        }
    }

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Witness::Timer => "timer",
            Witness::Loop => "loop",
            Witness::Unknown(_) => "unknown",
        }
    }
}

impl Kind {
    /// The number in the record.
    pub const fn code(self) -> u8 {
        match self {
            Kind::Send => 1,
            Kind::Receive => 2,
            Kind::ReceiveEmpty => 3,
            Kind::SpuriousIntid => 4,
            Kind::Retire => 5,
            Kind::Probe => 6,
            Kind::Mark => 7,
            Kind::Phase => 8,
            Kind::Fault => 9,
            Kind::Stage => 10,
            Kind::CallSite => 11,
            Kind::SendMask => 12,
            Kind::Queued => 13,
            Kind::FunctionEntry => 14,
            Kind::FunctionExit => 15,
            Kind::Frame => 16,
            Kind::CallWait => 17,
            Kind::Park => 18,
            Kind::Gap => 19,
            Kind::Heartbeat => 20,
            Kind::Sweep => 21,
            Kind::Unknown(code) => code,
        }
    }

    /// The kind of a number.
    #[inline]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Kind::Send,
            2 => Kind::Receive,
            3 => Kind::ReceiveEmpty,
            4 => Kind::SpuriousIntid,
            5 => Kind::Retire,
            6 => Kind::Probe,
            7 => Kind::Mark,
            8 => Kind::Phase,
            9 => Kind::Fault,
            10 => Kind::Stage,
            11 => Kind::CallSite,
            12 => Kind::SendMask,
            13 => Kind::Queued,
            14 => Kind::FunctionEntry,
            15 => Kind::FunctionExit,
            16 => Kind::Frame,
            17 => Kind::CallWait,
            18 => Kind::Park,
            19 => Kind::Gap,
            20 => Kind::Heartbeat,
            21 => Kind::Sweep,
            other => Kind::Unknown(other),
        }
    }
}

/// Flags bits 2..0 of a `Receive`: the receiver's state when the interrupt came, a [`ReceiverState`].
pub const FLAG_STATE_MASK: u8 = 0b111;
/// Flag of a `Receive`: this acknowledge counts as *delivered* for the newest message of this record; without it the
/// acknowledge was already counted for another sender and all messages of this record are *coalesced*.
pub const FLAG_DELIVERED: u8 = 1 << 3;
/// Flag of a `Receive`: there is no latency, because the send time lies after the vector entry or is not known.
pub const FLAG_UNTIMED: u8 = 1 << 4;

/// Flag of a `Receive`: the interrupt came as a pseudo-NMI, see [`crate::calls::Delivery`].
pub const FLAG_PSEUDO_NMI: u8 = 1 << 5;
/// Flag of a `Receive`: the interrupt came as a real NMI.
pub const FLAG_NMI: u8 = 1 << 6;

/// Flag of a `Queued`, `FunctionEntry` or `FunctionExit`: the caller waits until the function has run.
pub const FLAG_SYNCHRONOUS: u8 = 1;

/// Flag of a `Frame`: it is the sender's.
pub const FRAME_SENDER: u8 = 1;
/// Flag of a `Frame`: it is the target's, which IPI `backtrace` asked for.
pub const FRAME_TARGET: u8 = 2;

/// A code address from the 32 bits that records keep of it: the image is linked in the top 2 GiB of the address space. 0: none.
pub const fn code_address(bits: u32) -> u64 {
    if bits == 0 { 0 } else { bits as u64 | 0xFFFF_FFFF << 32 }
}

/// Bit of a probe's state word: GICR_ISENABLER0 had the INTID enabled.
pub const PROBE_ENABLED: u64 = 1 << 32;
/// Bit of a probe's state word: GICR_ISPENDR0 had the INTID pending.
pub const PROBE_PENDING: u64 = 1 << 33;
/// Bit of a probe's state word: GICR_ISACTIVER0 had the INTID active.
pub const PROBE_ACTIVE: u64 = 1 << 34;

/// Why a sender gave a message up (`extra` of a `Retire`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retired {
    /// The target was enabled, the SGI neither pending nor active, and the deadline had passed: lost.
    Lost,
    /// The SGI was pending or active, or the target had it disabled: not lost, but nobody can say more.
    Unknown,
}

impl Retired {
    /// The number in the record.
    pub const fn code(self) -> u8 {
        match self {
            Retired::Lost => 0,
            Retired::Unknown => 1,
        }
    }

    /// The reason of a number; what is not known to this version is `Unknown`.
    pub const fn from_code(code: u8) -> Self {
        if code == 0 { Retired::Lost } else { Retired::Unknown }
    }
}

/// What a receiver was doing while it waited for the interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum ReceiverState {
    /// Something else than waiting, or not known.
    #[default]
    Unknown,
    /// Polling in a loop with YIELD, interrupts enabled.
    Spin,
    /// In WFI.
    Wfi,
    /// In WFE.
    Wfe,
    /// Polling ISR_EL1 with interrupts masked by PSTATE.I; unmasked when an interrupt shows pending.
    Masked,
    /// In PSCI CPU_SUSPEND.
    Suspend,
}

impl ReceiverState {
    /// The number in records, plans and slots.
    pub const fn code(self) -> u8 {
        match self {
            ReceiverState::Unknown => 0,
            ReceiverState::Spin => 1,
            ReceiverState::Wfi => 2,
            ReceiverState::Wfe => 3,
            ReceiverState::Masked => 4,
            ReceiverState::Suspend => 5,
        }
    }

    /// The state of a number; what is not known to this version is `Unknown`.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => ReceiverState::Spin,
            2 => ReceiverState::Wfi,
            3 => ReceiverState::Wfe,
            4 => ReceiverState::Masked,
            5 => ReceiverState::Suspend,
            _ => ReceiverState::Unknown,
        }
    }

    /// Its name in plans and in the report's JSON.
    pub const fn name(self) -> &'static str {
        match self {
            ReceiverState::Unknown => "unknown",
            ReceiverState::Spin => "spin",
            ReceiverState::Wfi => "wfi",
            ReceiverState::Wfe => "wfe",
            ReceiverState::Masked => "masked",
            ReceiverState::Suspend => "suspend",
        }
    }
}

/// A record without its place in the lane: what an emitter fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Counter ticks, absolute.
    pub t: u64,
    /// What happened.
    pub kind: Kind,
    /// Meaning depends on the kind.
    pub flags: u8,
    /// The other core's id, or [`PEER_ALL`].
    pub peer: u16,
    /// Message number; meaning depends on the kind.
    pub msg: u32,
    /// The interrupt's INTID (SGIs: 0..=15).
    pub intid: u8,
    /// Meaning depends on the kind.
    pub extra: u8,
    /// Meaning depends on the kind.
    pub arg: u64,
}

/// Where the pair slot's index begins in `arg` of a `Send`; below it are the window's ticks.
pub const SLOT_SHIFT: u32 = 40;

impl Event {
    /// Of a `Send`: ticks from before the DSB to after the ISB.
    #[inline]
    pub const fn window(&self) -> u64 {
        self.arg & ((1 << SLOT_SHIFT) - 1)
    }

    /// Of a `Send`: index of the pair slot that counts it (of a broadcast: that of core 0).
    #[inline]
    pub const fn slot(&self) -> u32 {
        (self.arg >> SLOT_SHIFT) as u32
    }

    /// The words of this event as record number `index` of its lane.
    #[inline(always)]
    pub const fn words(self, index: u64) -> Words {
        let head = (self.kind.code() as u64) << 32 | (self.flags as u64) << 40 | (self.peer as u64) << 48;
        let tail = self.msg as u64 | (self.intid as u64) << 32 | (self.extra as u64) << 40;
        with_number([self.t, head, tail, self.arg], index)
    }
}

/// Puts a lane's number into words that have none yet: the fields for it are zero, so on the target each takes one ADD (or a
/// bit-field insert).
#[inline(always)]
pub const fn with_number(words: Words, index: u64) -> Words {
    [words[0], words[1].wrapping_add(index as u32 as u64), words[2].wrapping_add(index << 48), words[3]]
}

/// A record as read back: an event and its number in the lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The number of the record in its lane, from 0.
    pub index: u64,
    /// What it says.
    pub event: Event,
}

impl Record {
    /// Decodes the words found in the slot of record `index`; `None` when they are not that record, whole.
    #[inline]
    pub fn from_words(words: Words, index: u64) -> Option<Self> {
        let seq = words[1] as u32;
        let seq2 = (words[2] >> 48) as u16;
        if seq != index as u32 || seq2 != index as u16 {
            return None;
        }
        Some(Record {
            index,
            event: Event {
                t: words[0],
                kind: Kind::from_code((words[1] >> 32) as u8),
                flags: (words[1] >> 40) as u8,
                peer: (words[1] >> 48) as u16,
                msg: words[2] as u32,
                intid: (words[2] >> 32) as u8,
                extra: (words[2] >> 40) as u8,
                arg: words[3],
            },
        })
    }

    /// Decodes 32 bytes as they lie in memory, as [`Record::from_words`] does.
    #[inline]
    pub fn from_bytes(bytes: &[u8; RECORD_BYTES as usize], index: u64) -> Option<Self> {
        let mut words = [0; 4];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            let mut raw = [0; 8];
            raw.copy_from_slice(chunk);
            *word = u64::from_le_bytes(raw);
        }
        Record::from_words(words, index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_encoding_at_any_index() {
        let event = Event {
            t: 0x0123_4567_89AB_CDEF,
            kind: Kind::Receive,
            flags: FLAG_DELIVERED | ReceiverState::Wfi.code(),
            peer: 511,
            msg: 0xFFFF_FFFF,
            intid: 7,
            extra: 255,
            arg: u64::MAX,
        };
        for index in [0, 1, 0xFFFF, 0x1_0000, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
            assert_eq!(Record::from_words(event.words(index), index), Some(Record { index, event }));
            assert_eq!(Record::from_words(event.words(index), index.wrapping_add(1)), None);
        }
    }

    #[test]
    fn halves_of_two_records_are_no_record() {
        let event = Event { t: 1, kind: Kind::Send, flags: 0, peer: 1, msg: 9, intid: 1, extra: 0, arg: 0 };
        let (old, new) = (event.words(5), event.words(5 + 64));
        assert_eq!(Record::from_words([new[0], new[1], old[2], old[3]], 5 + 64), None);
        assert_eq!(Record::from_words([old[0], old[1], new[2], new[3]], 5), None);
    }
}
