//! Consistent overhead byte stuffing: frames without zeroes, ended by one. Decoded byte by byte, as they come in.

/// What a byte of the wire means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// Nothing yet.
    Nothing,
    /// A byte of the frame.
    Byte(u8),
    /// The end of a frame.
    End,
    /// The end of something that is no frame.
    Broken,
}

/// A decoder.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Bytes up to the next code.
    left: u8,
    /// Whether that code stands for a zero.
    zero: bool,
}

impl Decoder {
    pub(super) fn push(&mut self, byte: u8) -> Decoded {
        if byte == 0 {
            let whole = self.left == 0;
            *self = Decoder::default();
            return if whole { Decoded::End } else { Decoded::Broken };
        }
        if self.left > 0 {
            self.left -= 1;
            return Decoded::Byte(byte);
        }
        let zero = std::mem::replace(&mut self.zero, byte != 0xFF);
        self.left = byte - 1;
        if zero { Decoded::Byte(0) } else { Decoded::Nothing }
    }
}

/// Encodes a frame, with its end.
pub(super) fn encode(bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(bytes.len() + bytes.len() / 254 + 2);
    let pieces: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    for piece in pieces {
        let mut rest = piece;
        while rest.len() >= 254 {
            frame.push(0xFF);
            frame.extend(&rest[..254]);
            rest = &rest[254..];
        }
        frame.push(rest.len() as u8 + 1);
        frame.extend(rest);
    }
    frame.push(0);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in proptest::collection::vec(0u8..3, 0..1200), run in 0usize..600) {
            let mut bytes = bytes;
            bytes.extend(std::iter::repeat_n(7, run));
            let mut decoder = Decoder::default();
            let mut decoded = Vec::new();
            let mut ends = 0;
            for byte in encode(&bytes) {
                match decoder.push(byte) {
                    Decoded::Nothing => {}
                    Decoded::Byte(byte) => decoded.push(byte),
                    Decoded::End => ends += 1,
                    Decoded::Broken => panic!("broken"),
                }
            }
            prop_assert_eq!(ends, 1);
            prop_assert_eq!(decoded, bytes);
        }
    }
}
