//! Where somebody speaks: a detector's word for each 16 ms, made into turns that begin a little before
//! the first sound and end after a pause.

use earshot::Detector;

use crate::speech::resample::RATE_HZ;
use crate::speech::resample::dot;

/// Samples of one frame: 16 ms at 16 kHz.
pub const FRAME: usize = 256;
/// The length of a frame, in milliseconds.
pub const FRAME_MS: u64 = FRAME as u64 * 1_000 / RATE_HZ as u64;
/// From which word of the detector on a frame may begin a turn, and down to which it goes on.
const BEGIN_AT: f32 = 0.5;
const GO_ON_AT: f32 = 0.35;
/// How many frames of the last few must be speech for a turn to begin: a click is no turn.
const BEGIN_FRAMES: usize = 4;
const BEGIN_WINDOW: u32 = 6;
/// A frame as loud as this at most is silence whatever the detector says: −60 dBFS.
const QUIET_POWER: f32 = 1e-6;
/// How many such frames in a row the detector hears: all that it remembers.
const QUIET_HEARD: u32 = 8;
/// What a turn is given before its first and after its last frame of speech, in milliseconds.
const LEAD_MS: u64 = 160;
const TAIL_MS: u64 = 120;

/// How turns are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TurnRules {
    /// The pause that ends a turn, in milliseconds.
    pub pause_ms: u64,
    /// The longest turn, in milliseconds: it is cut at its last short pause, and a new one goes on.
    pub longest_ms: u64,
}

impl Default for TurnRules {
    fn default() -> TurnRules {
        TurnRules { pause_ms: 600, longest_ms: 28_000 }
    }
}

/// What a frame changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A turn began here, in milliseconds of the stream.
    Began(u64),
    /// The turn that began there ended here; both in milliseconds of the stream.
    Ended(u64, u64),
}

/// One speaker's activity.
pub struct Activity {
    detector: Box<Detector>,
    rules: TurnRules,
    /// The end of what was heard, in milliseconds of the stream.
    now_ms: u64,
    /// Where what is heard now began: the start, or the end of the latest skip, in milliseconds.
    since_ms: u64,
    /// How many of the latest frames are silence.
    quiet: u32,
    /// The latest frames' words, newest in bit 0.
    recent: u32,
    turn: Option<Turn>,
}

impl std::fmt::Debug for Activity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Activity").field("now_ms", &self.now_ms).field("turn", &self.turn).finish()
    }
}

/// A turn under way.
#[derive(Debug, Clone, Copy)]
struct Turn {
    start_ms: u64,
    /// The end of its last frame of speech.
    spoken_ms: u64,
    /// Where its latest pause of some length began: the best place to cut it.
    cut_ms: Option<u64>,
}

impl Activity {
    /// Returns a stream in which nobody has spoken.
    pub fn new(rules: TurnRules) -> Activity {
        Activity {
            detector: Detector::default_boxed(),
            rules,
            now_ms: 0,
            since_ms: 0,
            quiet: 0,
            recent: 0,
            turn: None,
        }
    }

    /// Returns the end of what was heard, in milliseconds of the stream.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Returns whether a turn is under way whose last frame of speech is at most `pause_ms` ago.
    pub fn is_speaking(&self, pause_ms: u64) -> bool {
        self.turn.is_some_and(|turn| self.now_ms <= turn.spoken_ms + pause_ms)
    }

    /// Hears one frame of 256 samples at 16 kHz.
    pub fn hear(&mut self, frame: &[f32]) -> Option<Change> {
        let is_quiet = dot(frame, frame) / FRAME as f32 <= QUIET_POWER;
        self.quiet = if is_quiet { self.quiet.saturating_add(1) } else { 0 };
        // The detector hears silence too, for it remembers, but not the silence of a track that is off: it
        // begins anew after that.
        if self.quiet == QUIET_HEARD {
            self.detector.reset();
        }
        let word = if self.quiet >= QUIET_HEARD { 0.0 } else { self.detector.predict_f32(frame) };
        let least = if self.turn.is_some() { GO_ON_AT } else { BEGIN_AT };
        let is_speech = !is_quiet && word >= least;
        self.step(is_speech)
    }

    /// Lets time pass that was not sent: whatever was said before it is over.
    pub fn skip(&mut self, ms: u64) -> Option<Change> {
        let change = self.finish();
        self.now_ms += ms;
        self.since_ms = self.now_ms;
        self.recent = 0;
        self.detector.reset();
        change
    }

    /// Ends the turn under way.
    pub fn finish(&mut self) -> Option<Change> {
        let turn = self.turn.take()?;
        let end_ms = (turn.spoken_ms + TAIL_MS).min(self.now_ms);
        self.recent = 0;
        Some(Change::Ended(turn.start_ms, end_ms))
    }

    fn step(&mut self, is_speech: bool) -> Option<Change> {
        self.now_ms += FRAME_MS;
        self.recent = (self.recent << 1) | u32::from(is_speech);
        let Some(turn) = &mut self.turn else {
            let spoken = (self.recent & ((1 << BEGIN_WINDOW) - 1)).count_ones() as usize;
            if spoken < BEGIN_FRAMES {
                return None;
            }
            let lead_ms = u64::from(BEGIN_WINDOW) * FRAME_MS + LEAD_MS;
            let start_ms = self.now_ms.saturating_sub(lead_ms).max(self.since_ms);
            self.turn = Some(Turn { start_ms, spoken_ms: self.now_ms, cut_ms: None });
            return Some(Change::Began(start_ms));
        };
        let pause_ms = self.now_ms - turn.spoken_ms;
        if is_speech {
            if pause_ms > 200 {
                turn.cut_ms = Some(turn.spoken_ms);
            }
            turn.spoken_ms = self.now_ms;
        } else if pause_ms >= self.rules.pause_ms {
            return self.finish();
        }
        if self.now_ms - turn.start_ms >= self.rules.longest_ms {
            // The next turn begins where this one is cut: nothing between them is lost.
            let (start_ms, spoken_ms) = (turn.start_ms, turn.spoken_ms);
            let halfway = start_ms + self.rules.longest_ms / 2;
            let end_ms = turn.cut_ms.filter(|&cut| cut > halfway).map_or(self.now_ms, |cut| cut + TAIL_MS);
            self.turn = Some(Turn { start_ms: end_ms, spoken_ms: spoken_ms.max(end_ms), cut_ms: None });
            return Some(Change::Ended(start_ms, end_ms));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a stream of (is speech, milliseconds) and returns its changes.
    fn run(rules: TurnRules, script: &[(bool, u64)]) -> Vec<Change> {
        let mut activity = Activity::new(rules);
        let mut changes = Vec::new();
        for &(is_speech, ms) in script {
            changes.extend((0..ms / FRAME_MS).filter_map(|_| activity.step(is_speech)));
        }
        changes.extend(activity.finish());
        changes
    }

    #[test]
    fn a_click_begins_no_turn_and_a_short_pause_ends_none() {
        assert_eq!(run(TurnRules::default(), &[(false, 480), (true, 32), (false, 960)]), []);
        let changes = run(TurnRules::default(), &[(true, 960), (false, 320), (true, 960), (false, 960)]);
        assert_eq!(changes.len(), 2, "{changes:?}");
    }

    #[test]
    fn a_turn_has_room_before_and_after() {
        let changes = run(TurnRules::default(), &[(false, 1_600), (true, 1_600), (false, 1_600)]);
        let [Change::Began(start), Change::Ended(same, end)] = changes[..] else { panic!("{changes:?}") };
        assert_eq!(start, same);
        assert!((1_300..1_600).contains(&start) && (3_200..3_400).contains(&end), "{start} to {end}");
    }

    #[test]
    fn a_turn_without_end_is_cut_and_nothing_between_is_lost() {
        let rules = TurnRules { pause_ms: 600, longest_ms: 8_000 };
        let changes = run(rules, &[(true, 6_400), (false, 320), (true, 12_800)]);
        let ends: Vec<(u64, u64)> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Ended(start, end) => Some((*start, *end)),
                Change::Began(_) => None,
            })
            .collect();
        assert!(ends.len() >= 3, "{ends:?}");
        assert!(ends.windows(2).all(|pair| pair[0].1 == pair[1].0), "{ends:?}");
        assert!((6_400..6_700).contains(&ends[0].1), "cut at the pause: {ends:?}");
    }

    #[test]
    fn silence_and_noise_floor_are_no_speech() {
        let mut activity = Activity::new(TurnRules::default());
        for n in 0..200 {
            let frame: Vec<f32> = (0..FRAME).map(|i| (((i * 7 + n) % 13) as f32 - 6.0) * 1e-5).collect();
            assert_eq!(activity.hear(&frame), None);
        }
        assert_eq!(activity.now_ms(), 200 * FRAME_MS);
    }
}
