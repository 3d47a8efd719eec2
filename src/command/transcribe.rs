//! `chatdlm transcribe`: a recording to words with their times, both channels side by side.
//!
//! The same ears and the same recogniser as calls have, only faster than people speak.

use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use serde_json::json;

use crate::event::Speaker;
use crate::event::Word;
use crate::speech;
use crate::speech::listener::Listener;
use crate::speech::listener::Sensed;
use crate::speech::listener::Turn;
use crate::speech::wav;
use crate::speech::whisper::Recogniser;
use crate::speech::whisper::Recognition;
use crate::speech::whisper::Request;

/// How much of a recording is heard at once, in milliseconds.
const PIECE_MS: usize = 200;

/// How many turns wait for their words at once.
const WAITING: usize = 4;

/// Writes what is said in a recording, with times.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A WAV file of one or two channels.
    file: PathBuf,
    /// A Whisper model in ggml form (`chatdlm pull whisper base.en`).
    #[arg(long, env = "CHATDLM_SPEECH_MODEL")]
    model: Option<PathBuf>,
    /// Only says who speaks when: needs no model.
    #[arg(long)]
    activity: bool,
    /// BCP 47 tag of the language.
    #[arg(long, default_value = "en")]
    language: String,
    /// How many turns are recognised at once; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// The first channel is the agent's.
    #[arg(long)]
    agent_first: bool,
    /// Prints one JSON object.
    #[arg(long, conflicts_with = "vtt")]
    json: bool,
    /// Prints WebVTT (W3C).
    #[arg(long)]
    vtt: bool,
}

/// A turn with its words.
struct Line {
    turn: Turn,
    /// None: the recogniser refused or failed.
    words: Option<Vec<Word>>,
}

/// Runs the command.
///
/// # Errors
/// When the recording or the model cannot be used.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let recogniser = match (&args.model, args.activity) {
        (_, true) => None,
        (Some(model), false) => Some(load(model, args.threads)?),
        (None, false) => anyhow::bail!(
            "no speech model: name one with --model (`chatdlm pull whisper base.en` fetches one), or ask for --activity"
        ),
    };
    let (channels, rate_hz) = wav::read(&args.file)?;
    let mut listener = listener(recogniser.is_some());
    let turns = heard(&mut listener, &channels, rate_hz, args.agent_first);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let lines = runtime.block_on(recognised(turns, recogniser.as_ref(), &args.language));
    let failed = lines.iter().filter(|line| line.words.is_none()).count();
    print!(
        "{}",
        match (args.json, args.vtt) {
            (true, _) => format!("{}\n", json_of(&lines, &listener)),
            (_, true) => vtt_of(&lines),
            _ => text_of(&lines),
        }
    );
    anyhow::ensure!(failed == 0, "{failed} turns were not recognised; the log says why");
    Ok(())
}

fn load(model: &Path, threads: usize) -> anyhow::Result<Recogniser> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if threads == 0 { cores } else { threads };
    Recogniser::load(model, threads).with_context(|| format!("cannot use {}", model.display()))
}

fn listener(is_recognised: bool) -> Listener {
    let mut rules = speech::Config::default().rules(is_recognised);
    // Samples are kept, and nobody waits for what a turn is so far.
    rules.partial_ms = rules.partial_ms.map(|_| u64::MAX / 2);
    Listener::new(rules)
}

/// Returns the turns of all channels, in the order they begin.
fn heard(listener: &mut Listener, channels: &[Vec<i16>], rate_hz: u32, agent_first: bool) -> Vec<Turn> {
    let piece = rate_hz as usize * PIECE_MS / 1_000;
    let length = channels.iter().map(Vec::len).max().unwrap_or(0);
    let mut sensed = Vec::new();
    for start in (0..length).step_by(piece) {
        for (number, channel) in channels.iter().enumerate() {
            let end = (start + piece).min(channel.len());
            let samples: Vec<f32> = channel[start..end].iter().map(|&s| f32::from(s) / 32_768.0).collect();
            let speaker = if (number == 0) == agent_first { Speaker::Agent } else { Speaker::Customer };
            sensed.extend(listener.hear(speaker, &samples, rate_hz));
        }
    }
    sensed.extend(listener.finish());
    let turns = sensed.into_iter().filter_map(|sensed| match sensed {
        Sensed::Final(turn) => Some(turn),
        _ => None,
    });
    let mut turns: Vec<Turn> = turns.collect();
    turns.sort_by_key(|turn| turn.start_ms);
    turns
}

/// Adds the words, a few turns at a time so that nothing is refused.
async fn recognised(turns: Vec<Turn>, recogniser: Option<&Recogniser>, language: &str) -> Vec<Line> {
    let Some(recogniser) = recogniser else {
        return turns.into_iter().map(|turn| Line { turn, words: Some(Vec::new()) }).collect();
    };
    let bar = ProgressBar::new(turns.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} turns, {eta} left") {
        bar.set_style(style);
    }
    let mut waiting: std::collections::VecDeque<(Turn, Recognition)> = std::collections::VecDeque::new();
    let mut lines = Vec::new();
    let mut turns = turns.into_iter();
    loop {
        while waiting.len() < WAITING
            && let Some(mut turn) = turns.next()
        {
            let samples = std::mem::take(&mut turn.samples);
            let (number, start_ms) = (turn.number, turn.start_ms);
            let language = language.to_owned();
            let request = Request { turn: (0, number), samples, start_ms, language, is_final: true };
            waiting.push_back((turn, recogniser.ask(request)));
        }
        let Some((turn, recognition)) = waiting.pop_front() else { break };
        let words = recognition.await.ok().map(|recognised| recognised.words);
        lines.push(Line { turn, words });
        bar.inc(1);
    }
    bar.finish_and_clear();
    lines
}

fn words_of(line: &Line) -> String {
    let words = line.words.iter().flatten().map(|word| word.text.as_str());
    words.collect::<Vec<_>>().join(" ")
}

fn name(speaker: Speaker) -> &'static str {
    match speaker {
        Speaker::Customer => "customer",
        Speaker::Agent => "agent",
    }
}

fn text_of(lines: &[Line]) -> String {
    let line = |line: &Line| {
        let (start, end) = (clock(line.turn.start_ms), clock(line.turn.end_ms));
        let text = words_of(line);
        format!("{start} - {end}  {:<8}  {text}", name(line.turn.speaker)).trim_end().to_owned() + "\n"
    };
    lines.iter().map(line).collect()
}

fn vtt_of(lines: &[Line]) -> String {
    let cue = |line: &Line| {
        let (start, end) = (clock(line.turn.start_ms), clock(line.turn.end_ms));
        // What could be taken for a tag or an entity is escaped.
        let text = words_of(line).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        format!("\n{start} --> {end}\n<v {}>{text}\n", name(line.turn.speaker))
    };
    std::iter::once("WEBVTT\n".to_owned()).chain(lines.iter().map(cue)).collect()
}

fn json_of(lines: &[Line], listener: &Listener) -> serde_json::Value {
    let meter = listener.meter();
    let turn = |line: &Line| {
        let words: Vec<&Word> = line.words.iter().flatten().collect();
        json!({
            "speaker": line.turn.speaker,
            "start_ms": line.turn.start_ms,
            "end_ms": line.turn.end_ms,
            "text": words_of(line),
            "words": words,
            "prosody": line.turn.prosody,
        })
    };
    json!({
        "duration_ms": listener.now_ms(),
        "customer_ms": meter.speaking_ms[0],
        "agent_ms": meter.speaking_ms[1],
        "overlap_ms": meter.overlap_ms,
        "customer_interruptions": meter.interruptions[0],
        "agent_interruptions": meter.interruptions[1],
        "turns": lines.iter().map(turn).collect::<Vec<_>>(),
    })
}

/// Returns a time as `hours:minutes:seconds.milliseconds`.
fn clock(ms: u64) -> String {
    let (seconds, ms) = (ms / 1_000, ms % 1_000);
    format!("{:02}:{:02}:{:02}.{ms:03}", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Prosody;

    fn line(speaker: Speaker, start_ms: u64, text: &str) -> Line {
        let prosody = Prosody {
            energy_db: -20.0,
            pitch_hz: None,
            pitch_range: 0.0,
            pauses: 0,
            spoken_ms: 500,
            contrast: None,
        };
        let turn =
            Turn { number: 1, speaker, start_ms, end_ms: start_ms + 1_500, prosody, samples: Vec::new() };
        let word = |text: &str| Word {
            text: text.to_owned(),
            start_ms,
            end_ms: start_ms + 10,
            confidence: Some(0.5),
        };
        Line { turn, words: Some(text.split(' ').filter(|word| !word.is_empty()).map(word).collect()) }
    }

    #[test]
    fn every_form_has_times_speakers_and_words() {
        let lines =
            [line(Speaker::Customer, 3_723_004, "Is 3 < 4 & so?"), line(Speaker::Agent, 3_725_000, "")];
        assert_eq!(
            text_of(&lines),
            "01:02:03.004 - 01:02:04.504  customer  Is 3 < 4 & so?\n01:02:05.000 - 01:02:06.500  agent\n"
        );
        let vtt = vtt_of(&lines);
        assert!(
            vtt.starts_with("WEBVTT\n\n01:02:03.004 --> 01:02:04.504\n<v customer>Is 3 &lt; 4 &amp; so?\n"),
            "{vtt}"
        );
        let json = json_of(&lines, &listener(false));
        assert_eq!(json["turns"][0]["words"][1]["text"], "3");
        assert_eq!(json["turns"][1]["speaker"], "agent");
    }
}
