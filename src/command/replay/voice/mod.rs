//! `chatdlm replay FILE.wav --carrier …`: recordings sent as a carrier would send them, one call or a
//! thousand at once: the load generator for voice.
//!
//! [`recording`] reads the file, [`carrier`] speaks each carrier's wire.

pub mod carrier;
pub mod recording;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::command::replay::Args;
use crate::command::replay::fresh_id;
use crate::command::replay::voice::carrier::Session;
use crate::command::replay::voice::recording::Recording;

/// A carrier that recordings can be sent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Carrier {
    /// Twilio Media Streams: a message of 20 ms for each channel.
    Twilio,
    /// Genesys AudioHook: both channels in frames of 200 ms, with pings.
    Audiohook,
    /// Vonage: a websocket for each channel, frames of 20 ms.
    Vonage,
    /// Asterisk's AudioSocket: a TCP connection for each channel, frames of 20 ms.
    Audiosocket,
}

/// What is only asked for recordings.
#[derive(Debug, Clone, clap::Args)]
pub struct VoiceArgs {
    /// Sends WAV files as this carrier would.
    #[arg(long, value_enum, help_heading = "Recordings")]
    pub carrier: Option<Carrier>,
    /// What requests are signed with: AudioHook's client secret (base64), Twilio's auth token.
    #[arg(long, env = "CHATDLM_CARRIER_SECRET", hide_env_values = true, help_heading = "Recordings")]
    pub secret: Option<String>,
    /// Sends so many seconds, beginning again at the end of the recording, instead of all of it once.
    #[arg(long, value_name = "S", help_heading = "Recordings", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Where the server's AudioSocket listens.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9092", help_heading = "Recordings")]
    pub audiosocket: String,
    /// The recording's first channel is the agent's.
    #[arg(long, help_heading = "Recordings")]
    pub agent_first: bool,
}

/// What all sessions count together.
#[derive(Debug, Default)]
pub(super) struct Tally {
    inner: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    opened: u64,
    closed: u64,
    /// What went against the protocol, or broke.
    errors: u64,
    first_error: Option<String>,
    audio_ms: u64,
    transcripts: u64,
    round_trips_us: Vec<u32>,
    /// How late frames were sent, at most: the generator's own doing.
    latest_ms: u64,
}

impl Tally {
    fn with(&self, change: impl FnOnce(&mut Counted)) {
        // Every change is a few additions: a panic elsewhere leaves the counts whole.
        change(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A session was accepted.
    pub fn opened(&self) {
        self.with(|counted| counted.opened += 1);
    }

    /// A session was closed as its protocol wants.
    pub fn closed(&self) {
        self.with(|counted| counted.closed += 1);
    }

    /// The server sent something that was said.
    pub fn transcript(&self) {
        self.with(|counted| counted.transcripts += 1);
    }

    /// So much audio was sent, in milliseconds, so late.
    pub fn sent(&self, ms: u64, late: Duration) {
        self.with(|counted| {
            counted.audio_ms += ms;
            counted.latest_ms = counted.latest_ms.max(late.as_millis() as u64);
        });
    }

    /// An answer took this long.
    pub fn round_trip(&self, took: Duration) {
        self.with(|counted| counted.round_trips_us.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX)));
    }

    fn failed(&self, error: &anyhow::Error) {
        self.with(|counted| {
            counted.errors += 1;
            counted.first_error.get_or_insert_with(|| format!("{error:#}"));
        });
    }

    fn report(&self, took: Duration) -> Value {
        let mut report = Value::Null;
        self.with(|counted| {
            counted.round_trips_us.sort_unstable();
            let times = &counted.round_trips_us;
            let at = |percent: usize| {
                let rank = (times.len() * percent).div_ceil(100);
                times.get(rank.checked_sub(1)?).map(|us| f64::from(*us) / 1_000.0)
            };
            report = json!({
                "sessions_opened": counted.opened,
                "sessions_closed": counted.closed,
                "errors": counted.errors,
                "first_error": counted.first_error,
                "audio_s": counted.audio_ms as f64 / 1_000.0,
                "transcripts": counted.transcripts,
                "sent_late_ms_max": counted.latest_ms,
                "took_s": (took.as_secs_f64() * 10.0).round() / 10.0,
                "round_trip_ms": {"p50": at(50), "p95": at(95), "p99": at(99), "count": times.len()},
            });
        });
        report
    }
}

/// Sends the recordings.
///
/// # Errors
/// When a file cannot be read, or any session failed.
pub fn run(args: &Args, carrier: Carrier) -> anyhow::Result<()> {
    let recordings: Vec<(PathBuf, Arc<Recording>)> = args
        .files
        .iter()
        .map(|path| Ok((path.clone(), Arc::new(Recording::read(path)?))))
        .collect::<anyhow::Result<_>>()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("replay").enable_all().build()?;
    let tally = Arc::new(Tally::default());
    let started = Instant::now();
    runtime.block_on(play(args, carrier, &recordings, &tally))?;
    let report = tally.report(started.elapsed());
    if args.json {
        println!("{report}");
    } else {
        print!("{}", table(&report));
    }
    let errors = report["errors"].as_u64().unwrap_or(0);
    anyhow::ensure!(errors == 0, "{errors} sessions failed, the first: {}", report["first_error"]);
    Ok(())
}

async fn play(
    args: &Args,
    carrier: Carrier,
    recordings: &[(PathBuf, Arc<Recording>)],
    tally: &Arc<Tally>,
) -> anyhow::Result<()> {
    let count = args.calls.map_or(recordings.len(), |calls| calls as usize);
    let mut playing = JoinSet::new();
    for number in 0..count {
        let (path, recording) = &recordings[number % recordings.len()];
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let session = Session {
            server: args.to.parse()?,
            address: args.to.clone(),
            key: args.key.clone(),
            call: fresh_id(&name, number)?.to_string(),
            agent: args.agent.clone(),
            knowledge: args.knowledge.clone(),
            recording: Arc::clone(recording),
            length_ms: args.voice.seconds.map_or(recording.length_ms(), |seconds| seconds * 1_000),
            speed: args.speed,
            voice: args.voice.clone(),
            tally: Arc::clone(tally),
        };
        // In turn without --calls, at once with it.
        if args.calls.is_none() {
            finish(session, carrier).await;
            continue;
        }
        let start = Duration::from_secs_f64(args.ramp_s * number as f64 / count as f64);
        playing.spawn(async move {
            sleep(start).await;
            finish(session, carrier).await;
        });
    }
    while let Some(outcome) = playing.join_next().await {
        outcome?;
    }
    Ok(())
}

async fn finish(session: Session, carrier: Carrier) {
    let tally = Arc::clone(&session.tally);
    if let Err(error) = session.play(carrier).await {
        tally.failed(&error);
    }
}

fn table(report: &Value) -> String {
    let mut text = String::new();
    for (name, figure) in report.as_object().into_iter().flatten() {
        match figure {
            Value::Object(row) => {
                let cell = |key: &str| row[key].as_f64().map_or("–".to_owned(), |ms| format!("{ms:.1}"));
                let (p50, p95, p99) = (cell("p50"), cell("p95"), cell("p99"));
                text.push_str(&format!("{name:<18} p50 {p50}  p95 {p95}  p99 {p99}  of {}\n", row["count"]));
            }
            Value::Null => {}
            figure => text.push_str(&format!("{name:<18} {figure}\n")),
        }
    }
    text
}
