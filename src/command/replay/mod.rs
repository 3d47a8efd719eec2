//! `chatdlm replay`: recorded calls streamed into a server, one by one or hundreds at once.
//!
//! [`script`] plans what is sent and when, [`call`] sends it as a telephony system would,
//! [`watcher`] sees what comes of it as a supervisor's browser would, [`figures`] adds up. Recordings are
//! [`voice`]'s.

pub mod call;
pub mod figures;
pub mod script;
pub mod socket;
pub mod voice;
pub mod watcher;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::command::replay::call::Call;
use crate::command::replay::figures::Figures;
use crate::command::replay::figures::count;
use crate::command::replay::figures::value;
use crate::command::replay::script::Script;
use crate::command::replay::socket::Server;
use crate::command::replay::voice::VoiceArgs;
use crate::corpus::dialogue;
use crate::corpus::dialogue::Dialogue;
use crate::event::CALL_ID_MAX_BYTES;
use crate::event::CallId;
use crate::event::Channel;

/// How many bad rows are named; the rest is only counted.
const NAMED_BAD_ROWS: u64 = 5;

/// What `--help` says about times.
const HOW: &str = "\
Reads dialogues as JSON lines, plain or zstd-compressed: {\"id\", \"turns\": [{\"speaker\", \"text\"}]}. \
Turns without times get natural ones, derived from the text: about 160 words a minute by syllables, \
each speaker a little faster or slower, with breaths and pauses. While somebody speaks, partial segments \
grow every half second; a final segment ends the turn. Turns that only have a start are typed messages. \
Latencies count from the sending of a final segment. For more than 400 calls raise `ulimit -n` first.";

/// Streams recorded calls into a server; with --calls it is the load generator.
#[derive(Debug, clap::Args)]
#[command(after_help = HOW)]
pub struct Args {
    /// Files of dialogues (.jsonl, .jsonl.zst), or with --carrier recordings (.wav).
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    to: String,
    /// Key with the role `ingest`.
    #[arg(long, env = "CHATDLM_INGEST_KEY", hide_env_values = true)]
    key: String,
    /// Key with the role `supervisor`, to watch the calls; without one the ingest key is tried.
    #[arg(long, env = "CHATDLM_WATCH_KEY", hide_env_values = true, value_name = "KEY")]
    watch_key: Option<String>,
    /// How many times faster than people speak.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    speed: f64,
    /// Plays this many calls at once, dialogues reused, instead of each dialogue in turn.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    calls: Option<u32>,
    /// Spreads the starts of --calls over this many seconds.
    #[arg(long, default_value_t = 10.0, value_name = "S", value_parser = zero_or_more)]
    ramp_s: f64,
    /// Reads at most this many dialogues.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The agent who has the calls.
    #[arg(long, default_value = "alice", value_name = "NAME")]
    agent: String,
    /// Knowledge bases to search; by default those of the articles that a dialogue names.
    #[arg(long, value_name = "BASE", value_delimiter = ',')]
    knowledge: Vec<String>,
    /// Plays everything as voice or as chat.
    #[arg(long, value_name = "CHANNEL", value_parser = channel)]
    channel: Option<Channel>,
    #[command(flatten)]
    voice: VoiceArgs,
    /// Prints the figures as one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if number.is_finite() && number > 0.0 { Ok(number) } else { Err("must be above 0".to_owned()) }
}

fn zero_or_more(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if number.is_finite() && number >= 0.0 { Ok(number) } else { Err("must be 0 or above".to_owned()) }
}

fn channel(text: &str) -> Result<Channel, String> {
    serde_json::from_value(text.into()).map_err(|_| "must be `voice` or `chat`".to_owned())
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    if let Some(carrier) = args.voice.carrier {
        return voice::run(&args, carrier);
    }
    if let Some(wav) = args.files.iter().find(|file| file.extension().is_some_and(|kind| kind == "wav")) {
        anyhow::bail!("{} is a recording: say which carrier sends it with --carrier", wav.display());
    }
    let dialogues = read(&args)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("replay").enable_all().build()?;
    let figures = runtime.block_on(replay(&args, dialogues))?;

    let report = figures.report();
    if args.json {
        println!("{report}");
    } else {
        print!("{}", figures::table(&report));
    }
    let (lost, duplicated) = (value(&figures.lost), value(&figures.duplicated));
    let missing = value(&figures.segments) - value(&figures.acked);
    anyhow::ensure!(
        lost + duplicated == 0,
        "{lost} acknowledged segments are lost, {duplicated} are doubled"
    );
    anyhow::ensure!(missing == 0, "{missing} segments were never acknowledged");
    Ok(())
}

/// Reads the dialogues; names bad rows and goes on without them.
fn read(args: &Args) -> anyhow::Result<Vec<Dialogue>> {
    let limit = args.limit.or(args.calls.map(|calls| calls as usize)).unwrap_or(usize::MAX);
    let mut dialogues = Vec::new();
    let mut bad_rows = 0;
    for path in &args.files {
        for row in dialogue::read(path)? {
            if dialogues.len() >= limit {
                break;
            }
            match row {
                Ok(dialogue) => dialogues.push(dialogue),
                Err(error) => {
                    bad_rows += 1;
                    if bad_rows <= NAMED_BAD_ROWS {
                        eprintln!("warning: {:#}", anyhow::Error::from(error));
                    }
                }
            }
        }
    }
    if bad_rows > NAMED_BAD_ROWS {
        eprintln!("warning: {bad_rows} rows are no dialogues");
    }
    anyhow::ensure!(!dialogues.is_empty(), "no dialogue found in {}", args.files[0].display());
    Ok(dialogues)
}

/// What every call of a replay shares.
struct Shared {
    server: Server,
    key: String,
    watch_key: String,
    figures: Figures,
    progress: ProgressBar,
}

async fn replay(args: &Args, dialogues: Vec<Dialogue>) -> anyhow::Result<Figures> {
    let server: Server = args.to.parse()?;
    // A wrong address or key is named at once, not once for every call.
    server.connect("/v1/calls/ingest", &args.key).await?.close().await;
    let watch_key = args.watch_key.clone().unwrap_or_else(|| args.key.clone());
    let progress = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} segments acknowledged, {elapsed}")
    {
        progress.set_style(style);
    }
    let key = args.key.clone();
    let shared = Arc::new(Shared { server, key, watch_key, figures: Figures::default(), progress });

    let showing = show(&shared);
    let playing = async {
        match args.calls {
            Some(calls) => play_at_once(args, &dialogues, calls, &shared).await,
            None => play_in_turn(args, &dialogues, &shared).await,
        }
    };
    tokio::select! {
        outcome = playing => outcome?,
        () = showing => {}
    }
    shared.progress.finish_and_clear();
    let shared = Arc::into_inner(shared).context("a call is still running: replay bug")?;
    Ok(shared.figures)
}

/// Keeps the progress bar up to date; never ends.
async fn show(shared: &Shared) {
    loop {
        shared.progress.set_position(value(&shared.figures.acked));
        shared.progress.set_message(format!("{} calls live", value(&shared.figures.live)));
        sleep(Duration::from_millis(250)).await;
    }
}

async fn play_in_turn(args: &Args, dialogues: &[Dialogue], shared: &Arc<Shared>) -> anyhow::Result<()> {
    for (number, dialogue) in dialogues.iter().enumerate() {
        let script = Arc::new(Script::new(dialogue, args.channel));
        shared.progress.inc_length(script.turns.len() as u64);
        play(prepare(args, script, number)?, shared).await?;
    }
    Ok(())
}

async fn play_at_once(
    args: &Args,
    dialogues: &[Dialogue],
    calls: u32,
    shared: &Arc<Shared>,
) -> anyhow::Result<()> {
    let scripts: Vec<Arc<Script>> =
        dialogues.iter().map(|dialogue| Arc::new(Script::new(dialogue, args.channel))).collect();
    let mut playing = JoinSet::new();
    for number in 0..calls as usize {
        let call = prepare(args, Arc::clone(&scripts[number % scripts.len()]), number)?;
        shared.progress.inc_length(call.script.turns.len() as u64);
        let start = Duration::from_secs_f64(args.ramp_s * number as f64 / f64::from(calls));
        let shared = Arc::clone(shared);
        playing.spawn(async move {
            sleep(start).await;
            play(call, &shared).await
        });
    }
    let mut failed = 0;
    let mut first_error = None;
    while let Some(outcome) = playing.join_next().await {
        if let Err(error) = outcome? {
            failed += 1;
            first_error.get_or_insert(error);
        }
    }
    match first_error {
        Some(error) => Err(error.context(format!("{failed} of {calls} calls failed"))),
        None => Ok(()),
    }
}

/// Plays one call, watches it, and reads it back.
async fn play(call: Call, shared: &Shared) -> anyhow::Result<()> {
    let Shared { server, key, watch_key, figures, .. } = shared;
    figures.live.fetch_add(1, Ordering::Relaxed);
    let (played, ()) =
        tokio::join!(call.play(server, key, figures), watcher::watch(&call, server, watch_key, figures));
    figures.live.fetch_sub(1, Ordering::Relaxed);
    played?;
    count(&figures.calls);
    if !figures.is_blind.load(Ordering::Relaxed) {
        watcher::verify(&call, server, watch_key, figures).await?;
    }
    Ok(())
}

/// Makes a call of a recording under a name that no earlier replay used.
fn prepare(args: &Args, script: Arc<Script>, number: usize) -> anyhow::Result<Call> {
    let mut call = Call::new(fresh_id(&script.recording, number)?, &args.agent, script);
    call.speed = args.speed;
    if !args.knowledge.is_empty() {
        call.knowledge.clone_from(&args.knowledge);
    }
    Ok(call)
}

/// Returns a call's name: the recording's, the time, and the number of the call.
pub fn fresh_id(recording: &str, number: usize) -> anyhow::Result<CallId> {
    let suffix = format!("-{}-{number}", Utc::now().format("%Y%m%d%H%M%S%3f"));
    let keep = CALL_ID_MAX_BYTES - suffix.len();
    let allowed = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    let name: String = recording.chars().map(allowed).take(keep).collect();
    Ok(format!("{name}{suffix}").parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recording_makes_a_valid_call_name() {
        for recording in ["bank-001", "", "Bed / 003 – ü", &"x".repeat(500)] {
            let id = fresh_id(recording, 499).unwrap();
            assert!(id.as_str().ends_with("-499"), "{id}");
        }
    }
}
