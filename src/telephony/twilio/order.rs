//! Puts the frames of one numbering into order and knows repeats, within a small window.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::hash::DefaultHasher;
use std::hash::Hash;
use std::hash::Hasher;

use crate::event::Speaker;

/// How many frames wait for an earlier one, and how many late ones in a row begin a new numbering.
pub(super) const WINDOW_FRAMES: usize = 8;
/// How many of the latest frames are remembered to know repeats.
const REMEMBERED: usize = 16;

/// The audio of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Who is heard.
    pub speaker: Speaker,
    /// The samples.
    pub bytes: Vec<u8>,
}

/// Frames of one numbering, let through in order.
///
/// A missing number holds up what follows until [`WINDOW_FRAMES`] wait or their bytes are too many;
/// then it is given up. At most that is kept.
#[derive(Debug)]
pub(super) struct Order {
    /// The number that is let through next; none before the first frame.
    due: Option<u64>,
    waiting: BTreeMap<u64, Frame>,
    waiting_bytes: usize,
    max_bytes: usize,
    late_in_a_row: usize,
}

impl Order {
    /// Returns an order whose first number may be `first`, or any when there is none, and that keeps
    /// no more than `max_bytes` of audio.
    pub(super) fn new(first: Option<u64>, max_bytes: usize) -> Order {
        Order { due: first, waiting: BTreeMap::new(), waiting_bytes: 0, max_bytes, late_in_a_row: 0 }
    }

    /// Takes a frame and returns those whose turn it is.
    ///
    /// # Errors
    /// The number that is due, when the frame comes after a later one was let through or while one of
    /// its number waits.
    pub(super) fn take(&mut self, number: u64, frame: Frame) -> Result<Vec<Frame>, u64> {
        let due = self.due.unwrap_or(number);
        if number < due || self.waiting.contains_key(&number) {
            self.late_in_a_row += 1;
            // The sender counts anew: what waits belongs to the old numbers and goes first.
            if self.late_in_a_row > WINDOW_FRAMES {
                let mut released = self.flush();
                released.push(frame);
                self.due = number.checked_add(1);
                return Ok(released);
            }
            self.due = Some(due);
            return Err(due);
        }
        self.late_in_a_row = 0;
        self.due = Some(due);
        self.waiting_bytes += frame.bytes.len();
        self.waiting.insert(number, frame);
        let mut released = Vec::new();
        self.release(&mut released);
        while self.waiting.len() > WINDOW_FRAMES || self.waiting_bytes > self.max_bytes {
            self.due = self.waiting.keys().next().copied();
            self.release(&mut released);
        }
        Ok(released)
    }

    /// Returns everything that waits, in order.
    pub(super) fn flush(&mut self) -> Vec<Frame> {
        let waiting = std::mem::take(&mut self.waiting);
        if let Some(last) = waiting.keys().next_back() {
            self.due = last.checked_add(1);
        }
        self.waiting_bytes = 0;
        self.late_in_a_row = 0;
        waiting.into_values().collect()
    }

    /// Returns the bytes of the frames that wait.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        assert!(self.waiting.len() <= WINDOW_FRAMES);
        self.waiting.values().map(|frame| frame.bytes.len()).sum()
    }

    /// Moves the frames from the due number on, as far as they follow each other.
    fn release(&mut self, released: &mut Vec<Frame>) {
        while let Some(due) = self.due
            && let Some(frame) = self.waiting.remove(&due)
        {
            self.waiting_bytes -= frame.bytes.len();
            released.push(frame);
            self.due = due.checked_add(1);
        }
    }
}

/// The numbers and contents of the latest frames.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    highest: u64,
    latest: VecDeque<(u64, u64)>,
}

impl Repeats {
    /// Remembers a frame; returns whether it is an exact repeat: its message's number does not rise, and
    /// the same speaker's chunk with the same content was there lately.
    pub(super) fn is_repeat(&mut self, sequence: u64, chunk: u64, speaker: Speaker, payload: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        (speaker, chunk, payload).hash(&mut hasher);
        let content = hasher.finish();
        if sequence <= self.highest && self.latest.contains(&(sequence, content)) {
            return true;
        }
        self.highest = self.highest.max(sequence);
        if self.latest.len() == REMEMBERED {
            self.latest.pop_front();
        }
        self.latest.push_back((sequence, content));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_BYTES: usize = 8000;

    fn frame(number: u64) -> Frame {
        Frame { speaker: Speaker::Customer, bytes: number.to_le_bytes().to_vec() }
    }

    fn pass(order: &mut Order, numbers: &[u64]) -> Vec<u64> {
        let mut passed = Vec::new();
        for number in numbers {
            for frame in order.take(*number, frame(*number)).unwrap_or_default() {
                passed.push(u64::from_le_bytes(frame.bytes.try_into().unwrap()));
            }
        }
        passed
    }

    #[test]
    fn frames_in_order_pass_at_once() {
        let mut order = Order::new(Some(1), MAX_BYTES);
        for number in 1..100 {
            assert_eq!(pass(&mut order, &[number]), [number]);
        }
    }

    #[test]
    fn swapped_frames_are_put_right() {
        let mut order = Order::new(Some(1), MAX_BYTES);
        assert_eq!(pass(&mut order, &[2, 1, 3, 6, 5, 4, 7]), [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_lost_frame_holds_up_no_more_than_the_window() {
        let mut order = Order::new(Some(1), MAX_BYTES);
        assert_eq!(pass(&mut order, &[1, 3, 4, 5, 6, 7, 8, 9, 10]), [1]);
        assert_eq!(pass(&mut order, &[11]), [3, 4, 5, 6, 7, 8, 9, 10, 11]);
        assert_eq!(order.take(2, frame(2)), Err(12));
        assert_eq!(pass(&mut order, &[12]), [12]);
    }

    #[test]
    fn a_sender_that_counts_anew_is_heard_again() {
        let mut order = Order::new(Some(1), MAX_BYTES);
        pass(&mut order, &(1..50).collect::<Vec<_>>());
        let passed = pass(&mut order, &(1..20).collect::<Vec<_>>());
        assert_eq!(passed, (9..20).collect::<Vec<_>>());
    }

    #[test]
    fn large_frames_do_not_wait_for_the_window() {
        let mut order = Order::new(Some(1), MAX_BYTES);
        let large = || Frame { speaker: Speaker::Agent, bytes: vec![0; 5000] };
        assert_eq!(order.take(2, large()), Ok(Vec::new()));
        assert_eq!(order.take(3, large()).map(|frames| frames.len()), Ok(2));
        assert_eq!(order.waiting_bytes, 0);
    }

    #[test]
    fn the_largest_number_is_no_trouble() {
        let mut order = Order::new(None, MAX_BYTES);
        assert_eq!(pass(&mut order, &[u64::MAX, 3]), [u64::MAX, 3]);
    }

    #[test]
    fn only_an_exact_repeat_is_one() {
        let mut repeats = Repeats::default();
        assert!(!repeats.is_repeat(5, 1, Speaker::Customer, "AAAA"));
        assert!(repeats.is_repeat(5, 1, Speaker::Customer, "AAAA"));
        assert!(!repeats.is_repeat(5, 1, Speaker::Agent, "AAAA"));
        assert!(!repeats.is_repeat(5, 1, Speaker::Customer, "AAAB"));
        assert!(!repeats.is_repeat(4, 1, Speaker::Customer, "AAAA"));
        assert!(!repeats.is_repeat(6, 2, Speaker::Customer, "AAAA"));
        assert!(repeats.is_repeat(5, 1, Speaker::Customer, "AAAA"));
        for sequence in 7..1000 {
            repeats.is_repeat(sequence, sequence, Speaker::Customer, "AAAA");
        }
        assert_eq!(repeats.latest.len(), REMEMBERED);
    }
}
