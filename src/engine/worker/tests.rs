//! Checks round by round what is dropped, refused and let in, with a tiny model of random weights.

use std::path::Path;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;

use super::*;
use crate::engine::config::ModelConfig;
use crate::engine::device;
use crate::engine::device::Device;
use crate::engine::model::linear::Quant;
use crate::engine::scheduler::OwnerId;
use crate::engine::sequence::Form;
use crate::engine::sequence::Generate;
use crate::engine::weights::Weights;

type Answer = watch::Receiver<Result<Snapshot, Late>>;

struct Bench {
    worker: Worker,
    jobs: SyncSender<Job>,
    receiver: Receiver<Job>,
    form: Form,
}

impl Bench {
    fn new(config: EngineConfig) -> Bench {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llada2_moe");
        let model = ModelConfig::read(&folder).expect("a fixture");
        let form = Form { block: 8, ..Form::of(&model) };
        let weights = Weights::open(&folder).expect("a fixture");
        let backend = device::load(Device::Cpu, model, &weights, Quant::Q8, |_, _| {}).expect("a fixture");
        let (jobs, receiver) = sync_channel(64);
        let worker = Worker {
            runner: Runner::new(backend, 1 << 22),
            config,
            load: Arc::new(Load::default()),
            queue: Vec::new(),
            running: Vec::new(),
            arrivals: 0,
            scheduler: Scheduler::default(),
            step_time: None,
        };
        Bench { worker, jobs, receiver, form }
    }

    fn send(&self, sequence: Sequence, claim: Claim, reader: Reader) {
        self.worker.load.waiting.fetch_add(1, Relaxed);
        self.jobs.send(Job { sequence, adapter: None, claim, reader }).expect("the channel has room");
    }

    fn draft(&self, prompt: usize, claim: Claim) -> Answer {
        let generate = Generate { banned: vec![self.form.mask], ..Generate::default() };
        let prompt: Vec<u32> = (0..prompt as u32).map(|i| 20 + i % 64).collect();
        let sequence = Sequence::generate(&prompt, &[None; 16], self.form, generate);
        let (sender, receiver) = watch::channel(Ok(Snapshot::default()));
        self.send(sequence, claim, Reader::Generate(sender));
        receiver
    }

    fn score(&self, claim: Claim) -> oneshot::Receiver<Result<Vec<f32>, Late>> {
        let sequence = Sequence::score(&[20, 21, self.form.mask], 2, self.form);
        let (sender, receiver) = oneshot::channel();
        self.send(sequence, claim, Reader::Score(vec![30, 31], sender));
        receiver
    }

    fn round(&mut self) {
        assert!(self.worker.round(&self.receiver));
    }

    fn waiting(&self) -> usize {
        self.worker.load.waiting.load(Relaxed)
    }
}

fn steps(answer: &Answer) -> u32 {
    answer.borrow().as_ref().expect("is not refused").steps
}

#[test]
fn work_that_nobody_waits_for_is_dropped_before_it_runs() {
    let mut bench = Bench::new(EngineConfig { max_running: 1, ..EngineConfig::default() });
    let wanted = bench.draft(8, Claim::default());
    drop(bench.draft(16, Claim::default()));
    drop(bench.score(Claim::default()));
    let queued = bench.draft(24, Claim::default());
    bench.round();
    assert_eq!((bench.waiting(), bench.worker.running.len()), (1, 1));
    assert_eq!(bench.worker.load.prompt_tokens.load(Relaxed), 8);
    // One that runs is dropped too, and what waited takes its place.
    drop(wanted);
    bench.round();
    assert_eq!((bench.waiting(), bench.worker.running.len()), (0, 1));
    assert_eq!(bench.worker.load.prompt_tokens.load(Relaxed), 8 + 24);
    assert_eq!(steps(&queued), 1);
}

#[test]
fn what_did_not_begin_by_its_deadline_is_refused_and_what_runs_goes_on() {
    let mut bench = Bench::new(EngineConfig { max_running: 1, ..EngineConfig::default() });
    let now = Instant::now();
    let late = Claim { deadline: Some(now), ..Claim::default() };
    let hour = Claim { deadline: Some(now + Duration::from_secs(3600)), ..Claim::default() };
    let in_time = bench.draft(8, hour);
    let (draft, mut score) = (bench.draft(8, late), bench.score(late));
    bench.round();
    assert_eq!(draft.borrow().clone(), Err(Late));
    assert_eq!(score.try_recv(), Ok(Err(Late)));
    assert_eq!((steps(&in_time), bench.waiting()), (1, 0));
    // Its own deadline passes while it runs: it is hurried, not refused.
    bench.worker.running[0].claim = late;
    while !in_time.borrow().as_ref().expect("is not refused").is_done {
        bench.round();
        assert_eq!(bench.worker.running.first().map_or(Some(0), |r| r.slot.sequence.passes_left), Some(0));
    }
}

#[test]
fn a_score_waits_for_no_draft() {
    let config = EngineConfig { max_running: 2, step_rows: 8, ..EngineConfig::default() };
    let mut bench = Bench::new(config);
    let drafts = [8, 8, 8].map(|prompt| bench.draft(prompt, Claim::default()));
    let mut score = bench.score(Claim::default());
    bench.round();
    let scores = score.try_recv().expect("is answered first").expect("is not refused");
    assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    assert_eq!(drafts.each_ref().map(steps), [0, 0, 0]);
    assert_eq!(bench.waiting(), 1, "of the drafts only as many run as may");
}

#[test]
fn drafts_leave_pages_for_scores() {
    let mut bench = Bench::new(EngineConfig { max_running: 8, ..EngineConfig::default() });
    // Four would fill the cache.
    let prompt = bench.worker.runner.capacity() / PAGE / 4 * PAGE - 16;
    let _drafts = [(); 5].map(|()| bench.draft(prompt, Claim::default()));
    bench.round();
    assert_eq!((bench.worker.running.len(), bench.waiting()), (3, 2));
    let mut score = bench.score(Claim::default());
    bench.round();
    assert!(score.try_recv().expect("is answered though drafts wait for pages").is_ok());
    // What is larger than what would be left runs alone.
    let mut bench = Bench::new(EngineConfig { max_running: 8, ..EngineConfig::default() });
    let whole = bench.worker.runner.capacity() / PAGE * PAGE - 16;
    let _drafts = [(); 2].map(|()| bench.draft(whole, Claim::default()));
    bench.round();
    assert_eq!((bench.worker.running.len(), bench.waiting()), (1, 1));
}

#[test]
fn the_newest_turn_of_a_call_is_let_in_first_and_calls_take_turns() {
    let mut bench = Bench::new(EngineConfig { max_running: 1, step_rows: 16, ..EngineConfig::default() });
    let claim = |call: &str, turn| Claim { owner: Some(OwnerId::of(&call)), turn, deadline: None };
    let old = bench.draft(0, claim("a", 1));
    let new = bench.draft(0, claim("a", 2));
    let other = bench.draft(0, claim("b", 1));
    let mut ended = Vec::new();
    while ended.len() < 3 {
        bench.round();
        for (name, answer) in [("old", &old), ("new", &new), ("other", &other)] {
            if answer.borrow().as_ref().expect("is not refused").is_done && !ended.contains(&name) {
                ended.push(name);
            }
        }
    }
    assert_eq!(ended, ["new", "other", "old"]);
}
