//! When a wire that has no words for mistakes gives a connection up.

use crate::telephony::Frame;
use crate::telephony::Heard;
use crate::telephony::WireError;

/// How many bad messages in a row end a connection.
pub const BAD_IN_A_ROW_MAX: u32 = 50;

/// What a connection got right and wrong so far.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    has_understood: bool,
    in_a_row: u32,
}

impl Mistakes {
    /// Notes what became of a message.
    pub(super) fn note(&mut self, heard: &Result<Heard, WireError>) {
        match heard {
            Ok(_) => *self = Mistakes { has_understood: true, in_a_row: 0 },
            Err(_) => self.in_a_row = self.in_a_row.saturating_add(1),
        }
    }

    /// Returns the end of the connection when nothing was understood so far, when the error leaves nothing
    /// to hear (`is_hopeless`), or after [`BAD_IN_A_ROW_MAX`] bad messages.
    pub(super) fn refusal(&self, error: &WireError, is_hopeless: bool) -> Vec<Frame> {
        if self.in_a_row >= BAD_IN_A_ROW_MAX {
            return vec![Frame::Close(1008, format!("{BAD_IN_A_ROW_MAX} bad messages in a row"))];
        }
        if self.has_understood && !is_hopeless {
            return Vec::new();
        }
        let code = match error {
            WireError::Malformed(_) | WireError::TooLarge { .. } | WireError::UnknownAudio(_) => 1003,
            _ => 1008,
        };
        vec![Frame::Close(code, error.code().to_owned())]
    }
}
