//! `chatdlm demo`: the whole product on one machine, alive at once.
//!
//! Recorded calls come in through the same ingest socket that telephony systems use, with a key of
//! their own, in a loop and at natural speed. Some are under way when the pages open.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use chrono::Utc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::app::App;
use crate::command::Place;
use crate::command::loading;
use crate::command::replay::call::Call;
use crate::command::replay::figures::Figures;
use crate::command::replay::script::Script;
use crate::command::replay::socket::Server;
use crate::command::serve;
use crate::config::Config;
use crate::corpus::dialogue::Dialogue;
use crate::corpus::rows;
use crate::event::CallId;
use crate::event::Speaker;
use crate::server::users::link_path;
use crate::store::users::DemoAccess;

/// The tenant that everything of the demo belongs to.
const TENANT: &str = "demo";

/// The recorded calls, by the base of the company.
const RECORDINGS: [(&str, &[u8]); 4] = [
    ("tel", include_bytes!("../../knowledge/tel/calls.jsonl")),
    ("bank", include_bytes!("../../knowledge/bank/calls.jsonl")),
    ("energy", include_bytes!("../../knowledge/energy/calls.jsonl")),
    ("shop", include_bytes!("../../knowledge/shop/calls.jsonl")),
];

/// One of the calls that are live at any time: its agent, and how much of the first one is over
/// when the demo starts. Alice has most, all under way: hers is the page that visitors open.
const LANES: [(&str, f64); 7] = [
    ("alice", 0.35),
    ("alice", 0.55),
    ("ben", 0.0),
    ("alice", 0.2),
    ("cleo", 0.6),
    ("alice", 0.45),
    ("ben", 0.3),
];

/// How soon after the start a customer finishes speaking on the first lane, and how much later on
/// each next one: all pages are alive within five seconds, and drafts do not come all at once.
const FIRST_ANSWER_MS: u64 = 1500;
const NEXT_ANSWER_MS: u64 = 500;

/// The quiet between two calls on a lane.
const BETWEEN_CALLS: Duration = Duration::from_secs(4);
/// How long a lane waits after a call that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
/// How long the calls of the run before may look open, in seconds.
const RESUME_S: u64 = 15;

/// Serves on 127.0.0.1:8080 with seed knowledge, users and recorded calls replayed live.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The recordings are text; the times of their words are derived from it: about 160 words a \
minute, by syllables, with breaths and pauses."
)]
pub struct Args {
    /// Port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8080)]
    port: u16,
    /// Folder of the database and the index.
    #[arg(long, default_value = "./chatdlm-data", env = "CHATDLM_DATA_DIR")]
    data_dir: PathBuf,
    /// How many times faster than people speak.
    #[arg(long, default_value_t = 1.0, value_parser = crate::command::replay::positive)]
    speed: f64,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let place = Place { data_dir: args.data_dir.clone(), config: None };
    let _lock = place.lock()?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let outcome = runtime.block_on(demo(args));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn demo(args: Args) -> anyhow::Result<()> {
    let mut config = Config::load(None)?;
    config.server.address = format!("127.0.0.1:{}", args.port);
    config.auth.tenant = TENANT.to_owned();
    config.auth.is_demo = true;
    config.calls.resume_s = RESUME_S;
    let scripts = scripts()?;

    let starting = App::start(config, &args.data_dir, loading::bar()).await;
    let app = starting.with_context(|| format!("port {} may be taken, try --port", args.port))?;
    let access = app.store().open_demo(TENANT).await?;
    app.knowledge().seed(TENANT).await.context("cannot load the seed knowledge")?;

    let origin = format!("http://{}", app.address);
    println!("{}", welcome(&origin, &access, scripts.len()));
    let stage = Arc::new(Stage {
        server: origin.parse()?,
        key: access.ingest_key.reveal().to_owned(),
        speed: args.speed,
        scripts,
    });
    let mut lanes = JoinSet::new();
    for lane in 0..LANES.len() {
        lanes.spawn(keep_playing(lane, Arc::clone(&stage)));
    }
    serve::until_asked_to_stop().await?;
    lanes.abort_all();
    app.stop().await
}

/// What all lanes share.
struct Stage {
    server: Server,
    key: String,
    speed: f64,
    scripts: Vec<Arc<Script>>,
}

/// Plays recordings on one lane for as long as the demo runs.
async fn keep_playing(lane: usize, stage: Arc<Stage>) {
    let (agent, begun) = LANES[lane];
    let figures = Figures::default();
    for round in 0.. {
        // The numbers of lanes and recordings have no common divisor: every lane plays them all.
        let script = &stage.scripts[(lane + round * LANES.len()) % stage.scripts.len()];
        let Ok(id) = call_name(&script.recording) else { return };
        let mut call = Call::new(id, agent, Arc::clone(script));
        call.speed = stage.speed;
        if round == 0 {
            call.begun_ms = begin(script, begun, FIRST_ANSWER_MS + NEXT_ANSWER_MS * lane as u64);
        }
        if let Err(error) = call.play(&stage.server, &stage.key, &figures).await {
            tracing::warn!(call = %call.id, %error, "a recorded call could not be played");
            sleep(AFTER_FAILURE).await;
        }
        sleep(BETWEEN_CALLS).await;
    }
}

/// Returns how much of a recording is over when it begins `answer_in_ms` before the customer
/// finishes a turn, the first one after the given part of it.
fn begin(script: &Script, part: f64, answer_in_ms: u64) -> u64 {
    let end_ms = script.turns.last().map_or(0, |turn| turn.end_ms);
    let from_ms = (end_ms as f64 * part) as u64;
    let mut customer = script.turns.iter().filter(|turn| turn.speaker == Speaker::Customer);
    let answer = customer.find(|turn| turn.end_ms >= from_ms);
    answer.map_or(0, |turn| turn.end_ms.saturating_sub(answer_in_ms))
}

/// Returns a call's name that is new and still tells people the recording.
fn call_name(recording: &str) -> anyhow::Result<CallId> {
    Ok(format!("{recording}-{}", Utc::now().format("%d%H%M%S")).parse()?)
}

/// Reads the recordings, one company after the other in turn, so that the first lanes differ.
fn scripts() -> anyhow::Result<Vec<Arc<Script>>> {
    let mut companies = Vec::new();
    for (base, bytes) in RECORDINGS {
        let dialogues: Vec<Dialogue> = rows::parse(base, bytes).collect::<Result<_, _>>()?;
        companies.push(dialogues);
    }
    let most = companies.iter().map(Vec::len).max().unwrap_or(0);
    let mut scripts = Vec::new();
    for number in 0..most {
        for dialogue in companies.iter().filter_map(|company| company.get(number)) {
            scripts.push(Arc::new(Script::new(dialogue, None)));
        }
    }
    Ok(scripts)
}

/// Returns what the demo prints: where to click.
fn welcome(origin: &str, access: &DemoAccess, recordings: usize) -> String {
    let mut text = format!("\nChatDLM demo on {origin}\n\nSign in with a click; each link works once:\n");
    for (name, role, token) in &access.links {
        text += &format!("  {name:<6} {:<11} {origin}{}\n", role.as_str(), link_path(token));
    }
    text += &format!("\nPlay the customer yourself, once signed in: {origin}/try\n");
    text += &format!(
        "{recordings} recorded calls play in a loop, {} at a time. The times of their words are derived from \
         the text.\nCtrl-C stops.\n",
        LANES.len()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Channel;

    #[test]
    fn the_recordings_are_many_and_each_names_its_base() {
        let scripts = scripts().unwrap();
        assert!(scripts.len() >= 12, "{}", scripts.len());
        for script in &scripts {
            assert_eq!(script.channel, Channel::Voice);
            let base = script.recording.split('-').next().unwrap();
            assert_eq!(script.knowledge, [base], "{}", script.recording);
            assert!(call_name(&script.recording).is_ok());
        }
        assert_eq!(scripts[0].knowledge, ["tel"]);
        assert_eq!(scripts[1].knowledge, ["bank"]);
    }

    #[test]
    fn every_first_call_is_about_to_hear_a_customer() {
        let scripts = scripts().unwrap();
        for (lane, (_, part)) in LANES.into_iter().enumerate() {
            let script = &scripts[lane % scripts.len()];
            let answer_in_ms = FIRST_ANSWER_MS + NEXT_ANSWER_MS * lane as u64;
            let begun_ms = begin(script, part, answer_in_ms);
            let soon = begun_ms..=begun_ms + 5000;
            let answers = |step: &&crate::command::replay::script::Step| {
                step.is_final && script.turns[step.turn].speaker == Speaker::Customer
            };
            assert!(
                script.steps.iter().filter(answers).any(|step| soon.contains(&step.at_ms)),
                "lane {lane} is quiet for five seconds"
            );
        }
    }
}
