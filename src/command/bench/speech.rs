//! How many calls recognition keeps up with: turns that end at the pace of real calls, and how long each
//! then waits for its words.
//!
//! Without `--model` a model of tiny.en's size with random weights is measured. It says nothing that means
//! anything and takes a real one's time, but for the length of what it writes: see docs/voice.md.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tokio::time::Instant;
use tokio::time::sleep_until;

use crate::speech::ggml::random::RandomShape;
use crate::speech::ggml::random::write_random;
use crate::speech::whisper::Recogniser;
use crate::speech::whisper::Request;

/// Every so many milliseconds a call ends a turn, of both speakers together.
const TURN_EVERY_MS: u64 = 6_000;
/// How long a turn is, in milliseconds.
const TURN_MS: u64 = 4_000;
/// How often a turn is recognised while it lasts, in milliseconds.
const PARTIAL_EVERY_MS: u64 = 1_000;
/// Samples of a millisecond.
const SAMPLES_A_MS: u64 = 16;

/// What is asked of the speech bench.
#[derive(Debug, clap::Args)]
pub struct SpeechArgs {
    /// A Whisper model in ggml form; random weights of tiny.en's size when missing.
    #[arg(long)]
    model: Option<PathBuf>,
    /// How many calls at once, one run for each number.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    calls: Vec<usize>,
    /// How long each run lasts, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// How many turns are recognised at once; 0 for one a core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Runs the bench.
///
/// # Errors
/// When the model cannot be used.
pub fn run(args: &SpeechArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = match &args.model {
        Some(path) => path.clone(),
        None => {
            let path = folder.path().join("random.bin");
            write_random(&path, &RandomShape::TINY_EN, 1)?;
            path
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if args.threads == 0 { cores } else { args.threads };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut rows = Vec::new();
    for &calls in &args.calls {
        // Anew each time: what waits at the end of a run is not the next one's.
        let recogniser = Recogniser::load(&path, threads)?;
        rows.push(runtime.block_on(measure(&recogniser, calls, args.seconds)));
    }
    if args.json {
        println!("{}", json!({"threads": threads, "random_weights": args.model.is_none(), "runs": rows}));
        return Ok(());
    }
    println!("{threads} threads; a turn of {TURN_MS} ms ends every {TURN_EVERY_MS} ms in each call");
    println!(
        "{:>6} {:>7} {:>10} {:>10} {:>10} {:>9} {:>7}",
        "calls", "turns", "lag p50 s", "lag p95 s", "behind s", "partials", "shed"
    );
    for row in &rows {
        let cell = |key: &str| row[key].as_f64().map_or("–".to_owned(), |figure| format!("{figure:.2}"));
        println!(
            "{:>6} {:>7} {:>10} {:>10} {:>10} {:>9} {:>7}",
            row["calls"],
            row["turns"],
            cell("lag_p50_s"),
            cell("lag_p95_s"),
            cell("behind_s"),
            row["partials"],
            row["shed"]
        );
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Seen {
    lags: Vec<Duration>,
    partials: u64,
}

async fn measure(recogniser: &Recogniser, calls: usize, seconds: u64) -> Value {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let started = Instant::now();
    let until = started + Duration::from_secs(seconds);
    let mut playing = tokio::task::JoinSet::new();
    for call in 0..calls {
        // The calls' turns end evenly spread.
        let first = started + Duration::from_millis(TURN_EVERY_MS * call as u64 / calls as u64);
        playing.spawn(play(recogniser.clone(), call as u64, first, until, Arc::clone(&seen)));
    }
    while playing.join_next().await.is_some() {}
    let load = recogniser.load_now();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.lags.sort_unstable();
    let lags = &seen.lags;
    let at = |percent: usize| {
        let rank = (lags.len() * percent).div_ceil(100);
        lags.get(rank.checked_sub(1)?).map(Duration::as_secs_f64)
    };
    json!({
        "calls": calls, "turns": lags.len(), "lag_p50_s": at(50), "lag_p95_s": at(95),
        "behind_s": load.oldest.as_secs_f64(), "waiting": load.waiting,
        "partials": seen.partials, "shed": load.shed,
    })
}

/// Plays one call's turns until the end of the run; what is still waited for then is not counted.
async fn play(recogniser: Recogniser, call: u64, first: Instant, until: Instant, seen: Arc<Mutex<Seen>>) {
    let mut answers = tokio::task::JoinSet::new();
    for turn in 0.. {
        let begin = first + Duration::from_millis(TURN_EVERY_MS * turn);
        let mut ms = PARTIAL_EVERY_MS;
        while ms <= TURN_MS {
            let due = begin + Duration::from_millis(ms);
            if due > until {
                answers.abort_all();
                return;
            }
            sleep_until(due).await;
            let is_final = ms == TURN_MS;
            let asked = Instant::now();
            let recognition = recogniser.ask(Request {
                turn: (call, turn),
                samples: noise(ms * SAMPLES_A_MS, call + turn),
                start_ms: 0,
                language: "en".to_owned(),
                is_final,
            });
            let seen = Arc::clone(&seen);
            answers.spawn(async move {
                if recognition.await.is_ok() {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    match is_final {
                        true => seen.lags.push(asked.elapsed()),
                        false => seen.partials += 1,
                    }
                }
            });
            ms += PARTIAL_EVERY_MS;
        }
        while answers.try_join_next().is_some() {}
    }
}

/// Returns noise: what is said makes no difference to random weights.
fn noise(samples: u64, seed: u64) -> Vec<i16> {
    let mut state = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 52) as i16 - 2_048
    };
    (0..samples).map(|_| next()).collect()
}
