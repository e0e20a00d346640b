//! A cross-trigger interface (DDI 0487, H5 and H9.5): 4 channels, 8 triggers.

/// Trigger out 0 asks the core to halt, until it is acknowledged.
pub(super) const DEBUG_REQUEST: u32 = 1;
/// Trigger out 1 asks the core to restart: a pulse.
pub(super) const RESTART_REQUEST: u32 = 2;

const CHANNELS: u32 = 0xF;
const TRIGGERS: usize = 8;

const CTICONTROL: u64 = 0x000;
const CTIINTACK: u64 = 0x010;
const CTIAPPSET: u64 = 0x014;
const CTIAPPCLEAR: u64 = 0x018;
const CTIAPPPULSE: u64 = 0x01C;
const CTIINEN: u64 = 0x020;
const CTIOUTEN: u64 = 0x0A0;
const CTITRIGOUTSTATUS: u64 = 0x134;
const CTICHINSTATUS: u64 = 0x138;
const CTICHOUTSTATUS: u64 = 0x13C;
const CTIGATE: u64 = 0x140;
const CTIDEVARCH: u64 = 0xFBC;
const CTIDEVID: u64 = 0xFC8;
const CTIDEVTYPE: u64 = 0xFCC;

/// One core's cross-trigger interface.
#[derive(Debug)]
pub(super) struct Cti {
    enabled: bool,
    input_enable: [u32; TRIGGERS],
    output_enable: [u32; TRIGGERS],
    gate: u32,
    application: u32,
    /// Triggers out that are asserted.
    asserted: u32,
    /// Whether the gate masks what comes from the matrix (CTIDEVID.INOUT).
    input_gate: bool,
}

impl Cti {
    /// After reset: the gate is open for all channels.
    pub(super) fn new(input_gate: bool) -> Cti {
        Cti {
            enabled: false,
            input_enable: [0; TRIGGERS],
            output_enable: [0; TRIGGERS],
            gate: CHANNELS,
            application: 0,
            asserted: 0,
            input_gate,
        }
    }

    pub(super) fn read(&self, offset: u64) -> u32 {
        match offset {
            CTICONTROL => self.enabled.into(),
            CTIAPPSET => self.application,
            CTITRIGOUTSTATUS => self.asserted,
            CTICHINSTATUS => 0,
            CTICHOUTSTATUS => self.application & self.gate,
            CTIGATE => self.gate,
            CTIDEVARCH => 0x4770_1A14,
            // NUMCHAN 4, NUMTRIG 8, as a Cortex-A53 has it; INOUT.
            CTIDEVID => 0x0004_0800 | u32::from(self.input_gate) << 24,
            CTIDEVTYPE => 0x14,
            _ => match trigger(offset) {
                Some((false, index)) => self.input_enable[index],
                Some((true, index)) => self.output_enable[index],
                None => 0,
            },
        }
    }

    /// Writes a register; gives the channels on which that is an event.
    pub(super) fn write(&mut self, offset: u64, value: u32) -> u32 {
        let channels = value & CHANNELS;
        match offset {
            CTICONTROL => self.enabled = value & 1 != 0,
            CTIINTACK => {
                // A channel that is still set by the application asserts its triggers all along.
                let held = self.triggers(self.application);
                self.asserted &= !value | held;
            }
            CTIAPPSET => {
                let new = channels & !self.application;
                self.application |= channels;
                return new;
            }
            CTIAPPCLEAR => self.application &= !channels,
            CTIAPPPULSE => return channels,
            CTIGATE => self.gate = channels,
            _ => match trigger(offset) {
                Some((false, index)) => self.input_enable[index] = channels,
                Some((true, index)) => self.output_enable[index] = channels,
                None => {}
            },
        }
        0
    }

    /// The channels that do anything.
    pub(super) fn live(&self) -> u32 {
        if self.enabled { CHANNELS } else { 0 }
    }

    /// What of an event goes out to the matrix.
    pub(super) fn sends(&self, channels: u32) -> u32 {
        channels & self.gate
    }

    /// What of the matrix's events comes in.
    pub(super) fn receives(&self, channels: u32) -> u32 {
        if self.input_gate { channels & self.gate } else { channels }
    }

    /// An event on these channels: asserts the triggers that are mapped to them.
    pub(super) fn trigger(&mut self, channels: u32) -> u32 {
        let triggers = self.triggers(channels);
        self.asserted |= triggers & !RESTART_REQUEST;
        triggers
    }

    /// The channels on which a halt of the core is an event (trigger in 0).
    pub(super) fn on_halt(&self) -> u32 {
        self.input_enable[0]
    }

    /// Whether the core is asked to halt.
    pub(super) fn requests_halt(&self) -> bool {
        self.asserted & DEBUG_REQUEST != 0
    }

    fn triggers(&self, channels: u32) -> u32 {
        let mapped = self.output_enable.iter().zip(0..).filter(|(enable, _)| **enable & channels != 0);
        mapped.map(|(_, index)| 1 << index).sum()
    }
}

/// Which trigger an offset maps, and whether it is one out.
fn trigger(offset: u64) -> Option<(bool, usize)> {
    [(CTIINEN, false), (CTIOUTEN, true)].into_iter().find_map(|(first, out)| {
        let index = offset.checked_sub(first)? / 4;
        (index < TRIGGERS as u64).then_some((out, index as usize))
    })
}
