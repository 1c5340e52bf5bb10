//! Where in a WebSocket connection's frames one direction is (RFC 6455 §5.2): between two of them a
//! Close can be put in, within one it cannot.
//!
//! Nothing is judged here. An endpoint that sends nonsense gets nonsense, and the other one ends it.

/// The longest frame header: two bytes, an eight-byte length, a mask.
const HEADER_MAX: usize = 14;
const CLOSE: u8 = 0x8;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The longest payload of a control frame, less the code of a Close.
const REASON_MAX: usize = 123;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; HEADER_MAX],
    /// Bytes of the present header so far.
    have: usize,
    /// Bytes of the present payload that are still to come.
    left: u64,
    closing: bool,
}

impl Frames {
    /// Takes note of bytes that go by.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = bytes.get(self.step(bytes)..).unwrap_or_default();
        }
    }

    /// Takes note of bytes up to the end of the present frame: how many those are.
    pub(super) fn finish(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..).filter(|rest| !rest.is_empty() && !self.is_between()) {
            taken += self.step(rest);
        }
        taken
    }

    /// Whether no frame is under way.
    pub(super) const fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }

    /// Whether a Close has gone by: nothing may follow it.
    pub(super) const fn is_closing(&self) -> bool {
        self.closing
    }

    /// Takes at least one byte.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if self.left > 0 {
            let taken = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= taken as u64;
            return taken;
        }
        let (Some(byte), Some(place)) = (bytes.first(), self.header.get_mut(self.have)) else { return bytes.len() };
        *place = *byte;
        self.have += 1;
        let [first, second, ..] = self.header;
        let extended = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        if self.have >= 2 && self.have == 2 + extended + mask {
            let length = self.header.get(2..2 + extended).unwrap_or_default();
            let long = length.iter().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
            self.left = if extended == 0 { u64::from(second & !MASKED) } else { long };
            self.have = 0;
            self.closing |= first & 0x0f == CLOSE;
        }
        1
    }
}

/// A Close frame (RFC 6455 §5.5.1). What a client sends is masked, and only that.
pub(super) fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let reason = reason.as_bytes().get(..REASON_MAX).unwrap_or(reason.as_bytes());
    // At most 125, which is what fits.
    let length = u8::try_from(reason.len() + 2).unwrap_or(2);
    let mut frame = vec![FINAL | CLOSE, length | if mask.is_some() { MASKED } else { 0 }];
    frame.extend_from_slice(mask.as_ref().map_or(&[], |mask| mask.as_slice()));
    let key = mask.unwrap_or_default();
    let payload = code.to_be_bytes().into_iter().chain(reason.iter().copied());
    frame.extend(payload.zip(key.into_iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

#[cfg(test)]
mod tests {
    use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
    use tungstenite::protocol::frame::{Frame, FrameHeader};

    use super::*;

    /// As the field's own library writes it.
    fn frame(opcode: OpCode, length: usize, masked: bool) -> Vec<u8> {
        let mut header = FrameHeader { opcode, ..FrameHeader::default() };
        if masked {
            header.mask = Some([7, 9, 200, 1]);
        }
        let mut bytes = Vec::new();
        Frame::from_payload(header, vec![0x88; length].into()).format(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_ends_of_frames_are_found_however_they_are_cut() {
        for masked in [false, true] {
            for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
                let bytes = frame(OpCode::Data(Data::Binary), length, masked);
                for step in [1, 2, 3, 7, 4096, bytes.len()] {
                    let mut frames = Frames::default();
                    let mut seen = 0;
                    for piece in bytes.chunks(step) {
                        frames.pass(piece);
                        seen += piece.len();
                        assert_eq!(frames.is_between(), seen == bytes.len(), "{length} in {step}, at {seen}");
                    }
                    assert!(!frames.is_closing());
                }
                let two = [bytes.as_slice(), &bytes].concat();
                let mut frames = Frames::default();
                frames.pass(&two[..1]);
                assert_eq!(frames.finish(&two[1..]), bytes.len() - 1, "{length}");
                assert_eq!(frames.finish(&two[bytes.len()..]), 0, "nothing more once between two");
            }
        }
    }

    #[test]
    fn a_close_is_noticed() {
        let mut frames = Frames::default();
        frames.pass(&frame(OpCode::Control(Control::Ping), 5, true));
        assert!(!frames.is_closing());
        frames.pass(&frame(OpCode::Control(Control::Close), 2, true));
        assert!(frames.is_closing() && frames.is_between());
    }

    #[test]
    fn a_close_is_written_as_the_standard_wants_it() {
        assert_eq!(close(4001, "revoked", None), b"\x88\x09\x0f\xa1revoked");
        let masked = close(1001, "", Some([1, 2, 3, 4]));
        assert_eq!(masked, [0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2]);
        let long = close(1001, &"x".repeat(500), None);
        assert_eq!((long.len(), long[1]), (127, 125));
    }
}
