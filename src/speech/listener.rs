//! One call's ears: audio of both speakers in, turns to recognise, observations and measures out.
//!
//! Pure: no clock, no thread. A position in the call is what was heard before it, in samples, so a
//! sender's clock changes nothing. An ear that falls far behind the other has missed something and is
//! moved up: the tracks of a call stay side by side.

use std::collections::VecDeque;

use crate::event::Prosody;
use crate::event::Speaker;
use crate::speech::activity::Activity;
use crate::speech::activity::Change;
use crate::speech::activity::FRAME;
use crate::speech::activity::FRAME_MS;
use crate::speech::activity::TurnRules;
use crate::speech::contrast::UsualVoice;
use crate::speech::prosody::ProsodyMeter;
use crate::speech::resample::RATE_HZ;
use crate::speech::resample::Resampler;
use crate::speech::talk::Noted;
use crate::speech::talk::TalkMeter;
use crate::speech::talk::index;

/// Samples of a millisecond.
const SAMPLES_A_MS: u64 = RATE_HZ as u64 / 1_000;
/// What an ear keeps from before a turn begins, for the turn's lead, in milliseconds.
const LEAD_KEPT_MS: u64 = 400;
/// How far an ear may be behind the other before it is moved up, in milliseconds.
const BEHIND_MAX_MS: u64 = 1_000;
/// A gap up to this within a turn is still speaking, in milliseconds.
const GAP_MS: u64 = 200;
/// The longest skip that is measured, in frames: ten minutes.
const SKIP_MAX_FRAMES: u64 = 600_000 / FRAME_MS;
/// The most samples a second that are taken.
const RATE_MAX_HZ: u32 = 192_000;

/// What was sensed.
#[derive(Debug, Clone, PartialEq)]
pub enum Sensed {
    /// A turn goes on: what it is so far may be recognised and shown.
    Partial(Turn),
    /// A turn is over.
    Final(Turn),
    /// Somebody should know.
    Noted(Noted),
    /// Another person speaks, or nobody does any more.
    SpeakingChanged,
}

/// A stretch of speech of one speaker.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Its number among the call's turns of both speakers, from 1.
    pub number: u64,
    /// Who speaks.
    pub speaker: Speaker,
    /// Where it begins, in milliseconds of the call.
    pub start_ms: u64,
    /// Where it ends, or what of it was heard ends.
    pub end_ms: u64,
    /// How it sounds.
    pub prosody: Prosody,
    /// Its samples at 16 kHz; empty where nobody recognises.
    pub samples: Vec<i16>,
}

/// The ears of one call.
#[derive(Debug)]
pub struct Listener {
    /// The customer's and the agent's.
    ears: [Ear; 2],
    meter: TalkMeter,
    turns: u64,
    rules: ListenRules,
}

/// How a call is listened to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenRules {
    /// How turns are cut.
    pub turns: TurnRules,
    /// How much more must be heard of a turn for the next partial, in milliseconds; none: nobody recognises.
    pub partial_ms: Option<u64>,
}

/// One speaker's ear.
#[derive(Debug)]
struct Ear {
    speaker: Speaker,
    /// Whether anything was ever heard here.
    is_open: bool,
    resampler: Option<(u32, Resampler)>,
    /// Samples that fill no frame yet.
    rest: Vec<f32>,
    activity: Activity,
    prosody: ProsodyMeter,
    usual: UsualVoice,
    /// The latest samples: the lead, or the turn under way with its lead.
    kept: VecDeque<i16>,
    /// The turn under way: its number, start and how much of it the last partial had.
    turn: Option<(u64, u64, u64)>,
    /// For each frame that the other ear has not reached, whether somebody speaks in it.
    ahead: VecDeque<bool>,
}

impl Ear {
    fn new(speaker: Speaker, rules: TurnRules) -> Ear {
        Ear {
            speaker,
            is_open: false,
            resampler: None,
            rest: Vec::with_capacity(FRAME),
            activity: Activity::new(rules),
            prosody: ProsodyMeter::default(),
            usual: UsualVoice::default(),
            kept: VecDeque::new(),
            turn: None,
            ahead: VecDeque::new(),
        }
    }

    fn keep(&mut self, frame: &[f32]) {
        self.kept.extend(frame.iter().map(|sample| (sample * 32_767.0) as i16));
        if self.turn.is_none() {
            let surplus = self.kept.len().saturating_sub((LEAD_KEPT_MS * SAMPLES_A_MS) as usize);
            self.kept.drain(..surplus);
        }
    }

    /// Returns the kept samples between two positions.
    fn samples(&self, start_ms: u64, end_ms: u64) -> Vec<i16> {
        let kept_from = (self.activity.now_ms() * SAMPLES_A_MS).saturating_sub(self.kept.len() as u64);
        let at = |ms: u64| (ms * SAMPLES_A_MS).saturating_sub(kept_from).min(self.kept.len() as u64) as usize;
        self.kept.range(at(start_ms)..at(end_ms).max(at(start_ms))).copied().collect()
    }
}

impl Listener {
    /// Returns ears that have heard nothing.
    pub fn new(rules: ListenRules) -> Listener {
        let ears = [Speaker::Customer, Speaker::Agent].map(|speaker| Ear::new(speaker, rules.turns));
        Listener { ears, meter: TalkMeter::default(), turns: 0, rules }
    }

    /// Returns the call's measures so far.
    pub fn meter(&self) -> &TalkMeter {
        &self.meter
    }

    /// Returns how much of the call was heard, in milliseconds.
    pub fn now_ms(&self) -> u64 {
        self.ears.iter().map(|ear| ear.activity.now_ms()).max().unwrap_or(0)
    }

    /// Hears samples (from −1 to 1) of one speaker that follow what was heard of them before.
    pub fn hear(&mut self, speaker: Speaker, samples: &[f32], rate_hz: u32) -> Vec<Sensed> {
        let mut sensed = Vec::new();
        if !(1_000..=RATE_MAX_HZ).contains(&rate_hz) {
            return sensed;
        }
        let side = index(speaker);
        let own_ms = samples.len() as u64 * 1_000 / u64::from(rate_hz);
        self.move_up(side, own_ms, &mut sensed);
        let ear = &mut self.ears[side];
        if ear.resampler.as_ref().is_none_or(|(known, _)| *known != rate_hz) {
            ear.resampler = Some((rate_hz, Resampler::new(rate_hz)));
        }
        let mut resampled = Vec::new();
        if let Some((_, resampler)) = &mut ear.resampler {
            resampler.take(samples, &mut resampled);
        }
        self.hear_resampled(side, &resampled, &mut sensed);
        self.measure(&mut sensed);
        sensed
    }

    /// Lets time pass of which nothing was sent. Less than the pause that ends a turn is a pause in it.
    pub fn skip(&mut self, ms: u64) -> Vec<Sensed> {
        let mut sensed = Vec::new();
        if ms < self.rules.turns.pause_ms {
            let silence = vec![0.0; (ms * SAMPLES_A_MS) as usize];
            for side in 0..2 {
                if self.ears[side].is_open {
                    self.hear_resampled(side, &silence, &mut sensed);
                }
            }
            self.measure(&mut sensed);
            return sensed;
        }
        let frames = (ms / FRAME_MS).min(SKIP_MAX_FRAMES) as usize;
        for side in 0..2 {
            self.skip_ear(side, ms, &mut sensed);
            self.ears[side].ahead.extend(std::iter::repeat_n(false, frames));
        }
        self.measure(&mut sensed);
        sensed
    }

    /// Puts the call on hold, which ends the turns under way, or goes on.
    pub fn hold(&mut self, is_on_hold: bool) -> Vec<Sensed> {
        let mut sensed = if is_on_hold { self.finish() } else { Vec::new() };
        self.meter.hold(is_on_hold);
        sensed.push(Sensed::SpeakingChanged);
        sensed
    }

    /// Ends the turns under way: nothing more comes, or not for a while.
    pub fn finish(&mut self) -> Vec<Sensed> {
        let mut sensed = Vec::new();
        for side in 0..2 {
            self.finish_ear(side, &mut sensed);
        }
        self.meter.speaking = [false, false];
        sensed
    }

    /// Brings an ear that is about to hear `own_ms` to the other's place, when it first hears or has missed too
    /// much. Channels of one message come one after the other, and neither is late.
    fn move_up(&mut self, side: usize, own_ms: u64, sensed: &mut Vec<Sensed>) {
        let there_ms = self.ears[1 - side].activity.now_ms();
        let behind_ms = there_ms.saturating_sub(self.ears[side].activity.now_ms() + own_ms);
        let is_first = !std::mem::replace(&mut self.ears[side].is_open, true);
        if behind_ms > BEHIND_MAX_MS || (is_first && behind_ms > 0) {
            self.skip_ear(side, behind_ms / FRAME_MS * FRAME_MS, sensed);
            // What the other has passed alone is measured already.
            let missing = self.ears[1 - side].ahead.len().saturating_sub(self.ears[side].ahead.len());
            self.ears[side].ahead.extend(std::iter::repeat_n(false, missing));
        }
    }

    fn skip_ear(&mut self, side: usize, ms: u64, sensed: &mut Vec<Sensed>) {
        // A turn under way ends where it is: its samples lie before the skip.
        self.finish_ear(side, sensed);
        let ear = &mut self.ears[side];
        ear.activity.skip(ms);
        ear.kept.clear();
        ear.rest.clear();
    }

    fn finish_ear(&mut self, side: usize, sensed: &mut Vec<Sensed>) {
        if let Some(change) = self.ears[side].activity.finish() {
            self.change(side, change, sensed);
        }
    }

    /// Hears samples at 16 kHz, whole frames of them; the rest waits for more.
    fn hear_resampled(&mut self, side: usize, samples: &[f32], sensed: &mut Vec<Sensed>) {
        let mut waiting = std::mem::take(&mut self.ears[side].rest);
        waiting.extend_from_slice(samples);
        let mut frames = waiting.chunks_exact(FRAME);
        for frame in &mut frames {
            self.hear_frame(side, frame, sensed);
        }
        self.ears[side].rest = frames.remainder().to_vec();
    }

    fn hear_frame(&mut self, side: usize, frame: &[f32], sensed: &mut Vec<Sensed>) {
        let ear = &mut self.ears[side];
        if self.rules.partial_ms.is_some() {
            ear.keep(frame);
        }
        let change = ear.activity.hear(frame);
        if ear.turn.is_some() {
            ear.prosody.hear(frame, ear.activity.is_speaking(0));
        }
        ear.ahead.push_back(ear.activity.is_speaking(GAP_MS));
        if let Some(change) = change {
            self.change(side, change, sensed);
        }
        let Some(partial_ms) = self.rules.partial_ms else { return };
        let ear = &mut self.ears[side];
        if let Some((number, start_ms, shown_ms)) = &mut ear.turn
            && ear.activity.now_ms() >= *shown_ms + partial_ms
        {
            let (number, start_ms, end_ms) = (*number, *start_ms, ear.activity.now_ms());
            *shown_ms = end_ms;
            let samples = ear.samples(start_ms, end_ms);
            let (speaker, prosody) = (ear.speaker, ear.prosody.finish());
            sensed.push(Sensed::Partial(Turn { number, speaker, start_ms, end_ms, prosody, samples }));
        }
    }

    fn change(&mut self, side: usize, change: Change, sensed: &mut Vec<Sensed>) {
        let ear = &mut self.ears[side];
        let begin_ms = match change {
            Change::Began(start_ms) => start_ms,
            Change::Ended(start_ms, end_ms) => {
                let number = ear.turn.take().map_or(0, |(number, ..)| number);
                let mut prosody = std::mem::take(&mut ear.prosody).finish();
                prosody.contrast = ear.usual.hear(&prosody);
                let samples = ear.samples(start_ms, end_ms);
                let speaker = ear.speaker;
                sensed.push(Sensed::Final(Turn { number, speaker, start_ms, end_ms, prosody, samples }));
                // A turn that was cut goes on as another.
                if !ear.activity.is_speaking(u64::MAX / 2) {
                    return;
                }
                let surplus = ear.activity.now_ms().saturating_sub(end_ms) * SAMPLES_A_MS;
                let spent = ear.kept.len().saturating_sub(surplus as usize);
                ear.kept.drain(..spent);
                end_ms
            }
        };
        self.turns += 1;
        self.ears[side].turn = Some((self.turns, begin_ms, begin_ms));
    }

    /// Gives the meter every frame that both ears have reached, or that one will not reach any more.
    fn measure(&mut self, sensed: &mut Vec<Sensed>) {
        let behind = (BEHIND_MAX_MS / FRAME_MS) as usize;
        loop {
            let [customer, agent] = &mut self.ears;
            let lengths = (customer.ahead.len(), agent.ahead.len());
            let is_due = match lengths {
                (0, 0) => false,
                (0, ahead) => !customer.is_open || ahead > behind,
                (ahead, 0) => !agent.is_open || ahead > behind,
                _ => true,
            };
            if !is_due {
                return;
            }
            let speaking = [customer, agent].map(|ear| ear.ahead.pop_front().unwrap_or(false));
            let was = self.meter.speaking;
            sensed.extend(self.meter.pass(FRAME_MS, speaking).map(Sensed::Noted));
            if was != self.meter.speaking {
                sensed.push(Sensed::SpeakingChanged);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f32::consts::TAU;

    const RULES: ListenRules =
        ListenRules { turns: TurnRules { pause_ms: 600, longest_ms: 28_000 }, partial_ms: Some(1_000) };

    /// Something that the detector takes for speech: harmonics of a gliding pitch, syllable by syllable.
    fn babble(seconds: f32) -> Vec<f32> {
        let mut phase = 0.0f32;
        (0..(seconds * 8_000.0) as usize)
            .map(|n| {
                let t = n as f32 / 8_000.0;
                let syllable = (TAU * 2.0 * t).sin().max(0.0).sqrt();
                phase += (130.0 + 30.0 * (TAU * 1.3 * t).sin()) / 8_000.0;
                let formant = |h: f32, at: f32| (-((h * 140.0 - at) / 250.0).powi(2)).exp();
                let voice: f32 = (1..24)
                    .map(|h| {
                        let h = h as f32;
                        let weight =
                            formant(h, 600.0 + 150.0 * (TAU * 2.0 * t).cos()) + 0.5 * formant(h, 1_700.0);
                        weight * (TAU * phase * h).sin()
                    })
                    .sum();
                0.15 * syllable * voice
            })
            .collect()
    }

    fn finals(sensed: &[Sensed]) -> Vec<&Turn> {
        let turns = sensed.iter().filter_map(|sensed| match sensed {
            Sensed::Final(turn) => Some(turn),
            _ => None,
        });
        turns.collect()
    }

    #[test]
    fn turns_of_both_speakers_come_with_their_samples() {
        let mut listener = Listener::new(RULES);
        let (speech, silence) = (babble(3.0), vec![0.0; 16_000]);
        let mut sensed = listener.hear(Speaker::Customer, &speech, 8_000);
        sensed.extend(listener.hear(Speaker::Agent, &vec![0.0; 24_000], 8_000));
        sensed.extend(listener.hear(Speaker::Customer, &silence, 8_000));
        sensed.extend(listener.hear(Speaker::Agent, &speech, 8_000));
        sensed.extend(listener.finish());
        let turns = finals(&sensed);
        assert!(turns.len() >= 2, "{}", turns.len());
        for turn in &turns {
            assert_eq!(
                turn.samples.len() as u64,
                (turn.end_ms - turn.start_ms) * SAMPLES_A_MS,
                "{}",
                turn.number
            );
        }
        assert_eq!((turns[0].speaker, turns.last().unwrap().speaker), (Speaker::Customer, Speaker::Agent));
        assert!(turns.last().unwrap().start_ms >= 2_800, "{}", turns.last().unwrap().start_ms);
        assert!(sensed.iter().any(|sensed| matches!(sensed, Sensed::Partial(_))));
    }

    #[test]
    fn a_track_that_begins_late_or_misses_much_is_moved_up() {
        let mut listener = Listener::new(RULES);
        listener.hear(Speaker::Customer, &vec![0.0; 8_000 * 5], 8_000);
        listener.hear(Speaker::Agent, &vec![0.0; 160], 8_000);
        let behind = |listener: &Listener| {
            listener.ears[0].activity.now_ms().abs_diff(listener.ears[1].activity.now_ms())
        };
        assert!(behind(&listener) < 40, "{}", behind(&listener));
        let measured = |listener: &Listener| listener.meter().now_ms().abs_diff(listener.now_ms());
        assert!(measured(&listener) < 40, "no silence is measured twice: {}", measured(&listener));
        listener.hear(Speaker::Customer, &vec![0.0; 8_000 * 3], 8_000);
        listener.hear(Speaker::Agent, &vec![0.0; 160], 8_000);
        assert!(behind(&listener) < 40, "{}", behind(&listener));
        assert!(measured(&listener) < 40, "{}", measured(&listener));
    }

    #[test]
    fn a_single_track_is_measured_too_and_keeps_little() {
        let mut listener = Listener::new(RULES);
        for _ in 0..600 {
            listener.hear(Speaker::Customer, &vec![0.0; 8_000], 8_000);
        }
        assert!(listener.ears[0].ahead.len() < 100 && listener.ears[0].kept.len() < 10_000);
        // The resampler still holds a millisecond or two.
        assert!(listener.now_ms().abs_diff(600_000) <= FRAME_MS, "{}", listener.now_ms());
    }

    #[test]
    fn time_that_was_not_sent_counts() {
        let mut listener = Listener::new(RULES);
        listener.hear(Speaker::Customer, &babble(2.0), 8_000);
        let sensed = listener.skip(5_000);
        assert_eq!(finals(&sensed).len(), 1, "what was said before is over");
        let turn = finals(&sensed)[0];
        assert_eq!(
            turn.samples.len() as u64,
            (turn.end_ms - turn.start_ms) * SAMPLES_A_MS,
            "none of it is lost"
        );
        listener.hear(Speaker::Customer, &babble(2.0), 8_000);
        let sensed = listener.finish();
        assert!(finals(&sensed)[0].start_ms > 6_500, "{}", finals(&sensed)[0].start_ms);
    }

    #[test]
    fn a_short_gap_is_a_pause_of_the_turn_that_counts() {
        let mut listener = Listener::new(RULES);
        listener.hear(Speaker::Customer, &babble(2.0), 8_000);
        assert_eq!(finals(&listener.skip(300)).len(), 0);
        listener.hear(Speaker::Customer, &babble(2.0), 8_000);
        let sensed = listener.finish();
        let turn = finals(&sensed)[0];
        assert!((4_000..4_500).contains(&turn.end_ms), "{turn:?}");
        assert_eq!(turn.samples.len() as u64, (turn.end_ms - turn.start_ms) * SAMPLES_A_MS);
    }

    #[test]
    fn both_channels_of_long_messages_are_at_the_same_place() {
        let mut listener = Listener::new(RULES);
        for _ in 0..5 {
            for speaker in [Speaker::Customer, Speaker::Agent] {
                listener.hear(speaker, &[0.0; 1_600], 8_000);
            }
        }
        let [customer, agent] = [0, 1].map(|side| listener.ears[side].activity.now_ms());
        assert_eq!(customer, agent);
        assert!(customer.abs_diff(1_000) <= FRAME_MS, "{customer}");
    }

    #[test]
    fn an_absurd_rate_changes_nothing() {
        let mut listener = Listener::new(RULES);
        assert_eq!(listener.hear(Speaker::Customer, &[0.5; 100], 0), []);
        assert_eq!(listener.hear(Speaker::Customer, &[0.5; 100], u32::MAX), []);
        assert_eq!(listener.now_ms(), 0);
    }
}
