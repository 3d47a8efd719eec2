//! Refuses a websocket frame by its header, before its body is read.
//!
//! The codec below only notices that a frame is too long when all of it is in memory, so a frame
//! that announces two gigabytes would be read to its end. This walks the headers (RFC 6455,
//! section 5.2) as the bytes pass and ends the stream at the first that announces too much.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::web::Bytes;
use futures_util::Stream;

/// The longest header: two bytes, a length of eight, a mask of four.
const HEADER_MAX_BYTES: usize = 14;

/// Passes the bytes of a websocket as long as no frame announces more than the limit.
pub(super) struct Frames {
    payload: Payload,
    walk: Walk,
}

impl Frames {
    /// Returns `payload`, guarded.
    pub fn new(payload: Payload, max_bytes: u64) -> Frames {
        Frames {
            payload,
            walk: Walk { max_bytes, header: Vec::with_capacity(HEADER_MAX_BYTES), body_left: 0 },
        }
    }
}

impl Stream for Frames {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = Pin::new(&mut self.payload).poll_next(context);
        if let Poll::Ready(Some(Ok(bytes))) = &polled
            && !self.walk.is_allowed(bytes)
        {
            return Poll::Ready(Some(Err(PayloadError::Overflow)));
        }
        polled
    }
}

/// Where in the sequence of frames the bytes stand.
struct Walk {
    max_bytes: u64,
    /// The header as far as it has been seen; empty within a body.
    header: Vec<u8>,
    body_left: u64,
}

impl Walk {
    /// Follows the frames through `bytes`; false at the first that announces too much.
    fn is_allowed(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let taken = self.body_left.min(bytes.len() as u64);
                self.body_left -= taken;
                bytes = &bytes[taken as usize..];
                continue;
            }
            self.header.push(bytes[0]);
            bytes = &bytes[1..];
            if let Some(length) = body_length(&self.header) {
                if length > self.max_bytes {
                    return false;
                }
                self.header.clear();
                self.body_left = length;
            }
        }
        true
    }
}

/// Returns the length of the body once the header is complete.
fn body_length(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
    let (length_bytes, short) = match second & 0x7f {
        126 => (2, 0),
        127 => (8, 0),
        short => (0, u64::from(short)),
    };
    if header.len() < 2 + length_bytes + mask_bytes {
        return None;
    }
    let extended = header[2..2 + length_bytes].iter().fold(0, |sum, &byte| (sum << 8) | u64::from(byte));
    Some(if length_bytes == 0 { short } else { extended })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(max_bytes: u64) -> Walk {
        Walk { max_bytes, header: Vec::new(), body_left: 0 }
    }

    /// A masked text frame as a client sends it.
    fn frame(length: usize) -> Vec<u8> {
        let mut bytes = vec![0x81];
        match length {
            0..126 => bytes.push(0x80 | length as u8),
            126..65536 => {
                bytes.push(0x80 | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend([1, 2, 3, 4]);
        bytes.extend(std::iter::repeat_n(0xff, length));
        bytes
    }

    #[test]
    fn frames_of_every_length_pass_however_they_are_cut() {
        let stream: Vec<u8> = [0, 1, 125, 126, 300, 65_535, 65_536, 7].into_iter().flat_map(frame).collect();
        for step in [1, 2, 3, 7, 1000, stream.len()] {
            let mut walk = walk(65_536);
            assert!(stream.chunks(step).all(|chunk| walk.is_allowed(chunk)), "in steps of {step}");
            assert_eq!((walk.header.len(), walk.body_left), (0, 0), "in steps of {step}");
        }
    }

    #[test]
    fn a_frame_that_announces_too_much_is_refused_by_its_header() {
        let mut walk = walk(1000);
        assert!(walk.is_allowed(&frame(1000)));
        let huge = frame(1001);
        assert!(walk.is_allowed(&huge[..7]));
        assert!(!walk.is_allowed(&huge[7..8]));
    }
}
