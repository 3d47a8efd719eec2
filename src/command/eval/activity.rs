//! How well speech is told from silence: the turns of recordings beside marked stretches of speech.
//!
//! Both are laid over frames of 10 ms. A recording `X.wav` has its marks in `X.json`, as `speech_segments`
//! with `channel`, `start_ms` and `end_ms`.

use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use serde::Deserialize;
use serde_json::json;

use crate::speech;
use crate::speech::activity::Activity;
use crate::speech::activity::Change;
use crate::speech::activity::FRAME;
use crate::speech::resample::Resampler;
use crate::speech::wav;

/// The length of a compared frame, in milliseconds.
const GRAIN_MS: u64 = 10;

/// Measures speech activity on recordings with marked speech.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// WAV files with a JSON file of the same name beside each.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The pause that ends a turn, in milliseconds.
    #[arg(long, default_value_t = speech::Config::default().pause_ms)]
    pause_ms: u64,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
struct Marks {
    speech_segments: Vec<Mark>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Mark {
    channel: usize,
    start_ms: u64,
    end_ms: u64,
}

/// Frames counted by what they are and what they were taken for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Frames {
    hit: u64,
    missed: u64,
    false_alarm: u64,
    silent: u64,
}

impl Frames {
    fn of(heard: &[(u64, u64)], marked: &[(u64, u64)], length_ms: u64) -> Frames {
        let within = |spans: &[(u64, u64)], at| spans.iter().any(|&(start, end)| (start..end).contains(&at));
        let mut frames = Frames::default();
        for at in (0..length_ms).step_by(GRAIN_MS as usize) {
            match (within(heard, at), within(marked, at)) {
                (true, true) => frames.hit += 1,
                (false, true) => frames.missed += 1,
                (true, false) => frames.false_alarm += 1,
                (false, false) => frames.silent += 1,
            }
        }
        frames
    }

    fn add(&mut self, other: Frames) {
        self.hit += other.hit;
        self.missed += other.missed;
        self.false_alarm += other.false_alarm;
        self.silent += other.silent;
    }

    fn recall(&self) -> f64 {
        share(self.hit, self.hit + self.missed)
    }

    fn precision(&self) -> f64 {
        share(self.hit, self.hit + self.false_alarm)
    }

    fn f1(&self) -> f64 {
        share(2 * self.hit, 2 * self.hit + self.missed + self.false_alarm)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// Runs the measurement.
///
/// # Errors
/// When a recording or its marks cannot be read.
pub fn run(args: Args) -> anyhow::Result<()> {
    let mut all = Frames::default();
    let mut rows = Vec::new();
    let (mut audio_s, mut took_s) = (0.0, 0.0);
    for file in &args.files {
        let (channels, rate_hz) = wav::read(file)?;
        let marks = read_marks(&file.with_extension("json"))?;
        let mut frames = Frames::default();
        for (number, samples) in channels.iter().enumerate() {
            let started = Instant::now();
            let heard = turns(samples, rate_hz, args.pause_ms);
            took_s += started.elapsed().as_secs_f64();
            let length_ms = samples.len() as u64 * 1_000 / u64::from(rate_hz);
            audio_s += length_ms as f64 / 1_000.0;
            let marked = marks.iter().filter(|mark| mark.channel == number);
            let marked: Vec<(u64, u64)> = marked.map(|mark| (mark.start_ms, mark.end_ms)).collect();
            frames.add(Frames::of(&heard, &marked, length_ms));
        }
        all.add(frames);
        rows.push((file.file_stem().unwrap_or_default().to_string_lossy().into_owned(), frames));
    }
    let times_real = audio_s / f64::max(took_s, 1e-9);
    if args.json {
        let row = |frames: &Frames| {
            json!({"f1": frames.f1(), "recall": frames.recall(), "precision": frames.precision(),
                   "speech_s": (frames.hit + frames.missed) as f64 / 100.0})
        };
        let files: serde_json::Map<_, _> =
            rows.iter().map(|(name, frames)| (name.clone(), row(frames))).collect();
        println!("{}", json!({"all": row(&all), "files": files, "times_real_time": times_real}));
        return Ok(());
    }
    println!("{:<44} {:>6} {:>7} {:>10}", "", "F1", "recall", "precision");
    for (name, frames) in rows.iter().chain([&("all".to_owned(), all)]) {
        println!("{name:<44} {:>6.3} {:>7.3} {:>10.3}", frames.f1(), frames.recall(), frames.precision());
    }
    println!("{times_real:.0} times faster than speech, one thread");
    Ok(())
}

fn read_marks(path: &Path) -> anyhow::Result<Vec<Mark>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let marks: Marks = serde_json::from_str(&text)
        .with_context(|| format!("{} has no speech_segments that can be read", path.display()))?;
    Ok(marks.speech_segments)
}

/// Returns the turns of one channel, in milliseconds.
fn turns(samples: &[i16], rate_hz: u32, pause_ms: u64) -> Vec<(u64, u64)> {
    let mut rules = speech::Config::default().rules(false).turns;
    rules.pause_ms = pause_ms;
    let mut activity = Activity::new(rules);
    let samples: Vec<f32> = samples.iter().map(|&sample| f32::from(sample) / 32_768.0).collect();
    let mut heard = Vec::new();
    Resampler::new(rate_hz).take(&samples, &mut heard);
    let changes: Vec<Change> = heard.chunks_exact(FRAME).filter_map(|frame| activity.hear(frame)).collect();
    let ended = |change: Change| match change {
        Change::Ended(start_ms, end_ms) => Some((start_ms, end_ms)),
        Change::Began(_) => None,
    };
    changes.into_iter().chain(activity.finish()).filter_map(ended).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_compared_one_by_one() {
        let frames = Frames::of(&[(0, 100), (300, 400)], &[(50, 200)], 500);
        assert_eq!(frames, Frames { hit: 5, missed: 10, false_alarm: 15, silent: 20 });
        assert!((frames.recall() - 1.0 / 3.0).abs() < 1e-9 && (frames.precision() - 0.25).abs() < 1e-9);
        assert_eq!(Frames::default().f1(), 0.0);
    }
}
