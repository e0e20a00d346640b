//! The wire protocol of probe-rs's Glasgow driver, version "probe-rs,v01": bytes in, bytes out.
//!
//! A frame's first byte names an endpoint; what follows continues that endpoint's stream of commands. A frame is what a
//! debugger sends before it waits: a batch. After an answer other than OK the driver reads no further answers to the
//! batch, so what is left of it is dropped.

use std::time::Duration;

use super::cobs::{Decoded, Decoder, encode};
use crate::port::{Port, Request};

const IDENTIFIER: &[u8] = b"probe-rs,v01";
/// Hertz; only for show.
const REFERENCE_CLOCK: u32 = 48_000_000;

const ROOT: u8 = 0;
const SWD: u8 = 1;

const CMD_IDENTIFY: u8 = 0x00;
const CMD_GET_REF_CLOCK: u8 = 0x10;
const CMD_GET_DIVISOR: u8 = 0x11;
const CMD_SET_DIVISOR: u8 = 0x12;
const CMD_ASSERT_RESET: u8 = 0x20;
const CMD_CLEAR_RESET: u8 = 0x21;

/// Bits of a transfer's byte: APnDP, RnW, A[3:2].
const SWD_TRANSFER: u8 = 0x0F;
const SWD_SEQUENCE: u8 = 0x20;

const ACK_OK: u8 = 0b001;
const ACK_FAULT: u8 = 0b100;
const NO_DATA: u8 = 0x10;
const PROTOCOL_ERROR: u8 = 0x20;

/// Answers are sent at the end of a batch, or once they are this long.
const ANSWER_BYTES: usize = 64 << 10;

/// What is to be done with the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Go on.
    Serve,
    /// Close it: what came in is no Glasgow driver's.
    Refuse,
    /// Close it now, without reading further (knob `cut`).
    Cut,
    /// Keep it open and answer nothing (knob `hang`).
    Hang,
}

/// One connection's state.
#[derive(Debug, Default)]
pub struct Connection {
    decoder: Decoder,
    /// The endpoint that the frame is for.
    endpoint: Option<u8>,
    /// The command that is not whole yet.
    root: Vec<u8>,
    swd: Vec<u8>,
    /// Whether the rest of the batch is dropped.
    dropping: bool,
    divisor: u16,
    root_answers: Vec<u8>,
    swd_answers: Vec<u8>,
}

impl Connection {
    /// Takes what came in; puts what has to go out into `out`.
    pub fn receive(&mut self, port: &mut Port, bytes: &[u8], out: &mut Vec<u8>) -> Next {
        for byte in bytes {
            let next = match self.decoder.push(*byte) {
                Decoded::Nothing => Next::Serve,
                Decoded::Byte(byte) => self.take(port, byte),
                Decoded::End => {
                    let delay = port.knobs_mut().slow;
                    if self.endpoint.take() == Some(SWD) && delay > Duration::ZERO {
                        std::thread::sleep(delay);
                    }
                    self.dropping = false;
                    self.answer(out);
                    Next::Serve
                }
                Decoded::Broken => Next::Refuse,
            };
            if self.swd_answers.len() >= ANSWER_BYTES {
                self.answer(out);
            }
            if next != Next::Serve {
                self.answer(out);
                return next;
            }
        }
        Next::Serve
    }

    fn answer(&mut self, out: &mut Vec<u8>) {
        for (endpoint, answers) in [(ROOT, &mut self.root_answers), (SWD, &mut self.swd_answers)] {
            if !answers.is_empty() {
                answers.insert(0, endpoint);
                out.extend(encode(answers));
                answers.clear();
            }
        }
    }

    fn take(&mut self, port: &mut Port, byte: u8) -> Next {
        match self.endpoint {
            None if byte == ROOT || byte == SWD => self.endpoint = Some(byte),
            Some(ROOT) => return self.take_root(byte),
            Some(SWD) if !self.dropping => return self.take_swd(port, byte),
            Some(SWD) => {}
            _ => return Next::Refuse,
        }
        Next::Serve
    }

    fn take_root(&mut self, byte: u8) -> Next {
        self.root.push(byte);
        match self.root[..] {
            [CMD_IDENTIFY] => self.root_answers.extend(IDENTIFIER),
            [CMD_GET_REF_CLOCK] => self.root_answers.extend(REFERENCE_CLOCK.to_le_bytes()),
            [CMD_GET_DIVISOR] => self.root_answers.extend(self.divisor.to_le_bytes()),
            [CMD_SET_DIVISOR] | [CMD_SET_DIVISOR, _] => return Next::Serve,
            [CMD_SET_DIVISOR, low, high] => self.divisor = u16::from_le_bytes([low, high]),
            // The reset line is not connected.
            [CMD_ASSERT_RESET | CMD_CLEAR_RESET] => {}
            _ => return Next::Refuse,
        }
        self.root.clear();
        Next::Serve
    }

    fn take_swd(&mut self, port: &mut Port, byte: u8) -> Next {
        self.swd.push(byte);
        let command = self.swd[0];
        let is_sequence = command & 0xE0 == SWD_SEQUENCE;
        let is_read = command & 2 != 0;
        if !is_sequence && command & !SWD_TRANSFER != 0 {
            self.swd_answers.push(PROTOCOL_ERROR);
            self.drop_batch();
            return Next::Serve;
        }
        let write = match self.swd[1..] {
            [] if !is_sequence && is_read => None,
            [a, b, c, d] => Some(u32::from_le_bytes([a, b, c, d])),
            _ => return Next::Serve,
        };
        self.swd.clear();
        if is_sequence {
            // Line resets and switches of protocol: the port speaks serial wire at once.
            return Next::Serve;
        }
        let done = port.stats().transfers.total;
        let reached = |limit: Option<u64>| limit.is_some_and(|limit| done >= limit);
        if reached(port.knobs_mut().cut) {
            port.knobs_mut().cut = None;
            port.stats_mut().cuts += 1;
            return Next::Cut;
        }
        if reached(port.knobs_mut().hang) {
            port.knobs_mut().hang = None;
            port.stats_mut().hangs += 1;
            // What was answered before is not sent either.
            self.swd_answers.clear();
            return Next::Hang;
        }
        match port.transfer(Request { ap: command & 1 != 0, address: command & 0xC, write }) {
            Ok(value) if is_read => {
                self.swd_answers.push(ACK_OK);
                self.swd_answers.extend(value.to_le_bytes());
            }
            Ok(_) => self.swd_answers.push(NO_DATA | ACK_OK),
            Err(_) => {
                self.swd_answers.push(NO_DATA | ACK_FAULT);
                self.drop_batch();
            }
        }
        Next::Serve
    }

    fn drop_batch(&mut self) {
        self.swd.clear();
        self.dropping = true;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::knobs::Knobs;
    use crate::layout::SocLayout;
    use crate::machine::FlatMachine;

    fn port() -> Port {
        let machine = FlatMachine::new(0x4000_0000, 4 << 20, 2);
        let mut port = Port::new(SocLayout::qemu_virt(2), Box::new(machine), Knobs::default());
        port.connect();
        port
    }

    #[test]
    fn a_driver_is_greeted() {
        let mut out = Vec::new();
        let frame = encode(&[ROOT, CMD_IDENTIFY, CMD_SET_DIVISOR, 7, 0, CMD_GET_DIVISOR]);
        assert_eq!(Connection::default().receive(&mut port(), &frame, &mut out), Next::Serve);
        let mut expected = vec![ROOT];
        expected.extend(b"probe-rs,v01");
        expected.extend([7, 0]);
        assert_eq!(out, encode(&expected));
    }

    #[test]
    fn what_follows_a_fault_in_a_batch_is_dropped() {
        let (mut connection, mut port, mut out) = (Connection::default(), port(), Vec::new());
        // DPIDR; IDR of port 0 without power; DPIDR.
        connection.receive(&mut port, &encode(&[SWD, 0x02, 0x03, 0x02]), &mut out);
        connection.receive(&mut port, &encode(&[SWD, 0x02]), &mut out);
        let mut first = vec![SWD, ACK_OK];
        first.extend(0x6BA0_2477_u32.to_le_bytes());
        let second = first.clone();
        first.push(NO_DATA | ACK_FAULT);
        assert_eq!(out, [encode(&first), encode(&second)].concat());
        assert_eq!(port.stats().faults, 1);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20)) {
            let (mut connection, mut port, mut out) = (Connection::default(), port(), Vec::new());
            for chunk in chunks {
                if connection.receive(&mut port, &chunk, &mut out) != Next::Serve {
                    connection = Connection::default();
                }
            }
        }

        #[test]
        fn garbage_in_frames_is_survived(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..30),
            transfers in proptest::collection::vec((0u8..16, any::<u32>()), 0..60),
        ) {
            let (mut connection, mut port, mut out) = (Connection::default(), port(), Vec::new());
            // Power, so that access ports are reached.
            let mut power = vec![SWD, 0x04];
            power.extend(0x5000_0000_u32.to_le_bytes());
            connection.receive(&mut port, &encode(&power), &mut out);
            for frame in frames {
                let frame = [&[SWD], &frame[..]].concat();
                connection.receive(&mut port, &encode(&frame), &mut out);
            }
            for (command, data) in transfers {
                let mut frame = vec![SWD, command];
                if command & 2 == 0 {
                    frame.extend(data.to_le_bytes());
                }
                connection.receive(&mut port, &encode(&frame), &mut out);
                prop_assert_eq!(port.stats().purposes.total(), port.stats().transfers.total);
            }
        }
    }
}
