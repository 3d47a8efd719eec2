//! The event log, whatever happens: random segments, repeats, reconnects and crashes leave numbers
//! without gaps and every acknowledged segment once; and calls end when their senders stay away.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use chatdlm::assist;
use chatdlm::assist::Calls;
use chatdlm::assist::Feed;
use chatdlm::assist::intake;
use chatdlm::assist::intake::Incoming;
use chatdlm::assist::intake::Refusal;
use chatdlm::assist::intake::Spoken;
use chatdlm::assist::intake::Start;
use chatdlm::event::Envelope;
use chatdlm::event::Event;
use chatdlm::store::Store;
use chatdlm::store::calls::CallPhase;
use chatdlm::store::calls::CallRecord;
use proptest::prelude::*;
use tokio::runtime::Runtime;

const CALL: &str = "test c-1";

fn start() -> Start {
    match intake::read(&common::start_message("c-1").to_string()) {
        Ok(Incoming::Start(start)) => start,
        other => panic!("{other:?}"),
    }
}

fn spoken(seq: u64) -> Spoken {
    match intake::read(&common::segment(seq, "and then it said four one one one").to_string()) {
        Ok(Incoming::Segment(spoken)) => spoken,
        other => panic!("{other:?}"),
    }
}

/// What a sender and the world may do.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Says the next segment and waits for the acknowledgement.
    Say,
    /// Says some segments at once and waits for none.
    Burst(u8),
    /// Says one again that was said before.
    Repeat(prop::sample::Index),
    /// Says one that was skipped.
    Late,
    /// Skips a number.
    Skip,
    /// Shows a partial segment.
    Partial,
    /// Opens another socket, which takes over.
    Reconnect,
    /// The process dies.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Say),
        3 => (1u8..20).prop_map(Step::Burst),
        3 => any::<prop::sample::Index>().prop_map(Step::Repeat),
        1 => Just(Step::Late),
        1 => Just(Step::Skip),
        1 => Just(Step::Partial),
        2 => Just(Step::Reconnect),
        2 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..30)
}

/// One life of the process. Dropping it is a crash: every task is gone at its next wait.
struct Life {
    runtime: Runtime,
    calls: Calls,
    feed: Feed,
}

impl Life {
    fn begin(folder: &Path) -> Life {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (calls, feed) = runtime.block_on(async {
            let calls = common::calls(folder, assist::Config::default()).await;
            let feed = attach(&calls).await;
            (calls, feed)
        });
        Life { runtime, calls, feed }
    }

    fn crash(self) {
        self.runtime.shutdown_background();
    }
}

/// Opens the call or goes on with it. What the life before left to the disk may still be on its
/// way there, which makes the first actor of this life give up.
async fn attach(calls: &Calls) -> Feed {
    loop {
        match calls.feed("test", start()).await {
            Ok(feed) => return feed,
            Err(Refusal::NotDurable) => {}
            Err(refusal) => panic!("{refusal}"),
        }
    }
}

/// Plays the steps; returns the numbers that were acknowledged and all that were said.
fn play(folder: &Path, steps: &[Step]) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let mut life = Life::begin(folder);
    let mut next = 1;
    let mut said = BTreeSet::new();
    let mut acknowledged = BTreeSet::new();
    for step in steps {
        let mut outcomes = Vec::new();
        life.runtime.block_on(async {
            match step {
                Step::Say => {
                    said.insert(next);
                    outcomes.push((next, life.feed.say(spoken(next)).await.await));
                    next += 1;
                }
                Step::Burst(count) => {
                    for _ in 0..*count {
                        said.insert(next);
                        drop(life.feed.say(spoken(next)).await);
                        next += 1;
                    }
                }
                Step::Repeat(index) if !said.is_empty() => {
                    let seq = *index.get(&said.iter().copied().collect::<Vec<_>>());
                    outcomes.push((seq, life.feed.say(spoken(seq)).await.await));
                }
                Step::Late => {
                    let skipped = (1..next).find(|seq| !said.contains(seq));
                    if let Some(seq) = skipped {
                        let outcome = life.feed.say(spoken(seq)).await.await;
                        assert!(!matches!(outcome, Ok(Ok(()))), "{seq} was taken out of order");
                    }
                }
                Step::Skip if !said.is_empty() => next += 1,
                Step::Partial => life.feed.show(spoken(next).segment),
                Step::Reconnect => life.feed = attach(&life.calls).await,
                Step::Repeat(_) | Step::Skip | Step::Crash => {}
            }
        });
        for (seq, outcome) in outcomes {
            match outcome {
                Ok(Ok(())) => {
                    acknowledged.insert(seq);
                }
                // Said in a life that crashed before it was on disk, and later ones are there.
                Ok(Err(Refusal::OutOfOrder { .. })) => {
                    assert!(!acknowledged.contains(&seq), "{seq} was lost")
                }
                // The actor gave up for what the life before left to the disk: come back.
                Ok(Err(Refusal::NotDurable)) | Err(_) => {
                    life.feed = life.runtime.block_on(attach(&life.calls));
                }
                Ok(Err(refusal)) => panic!("{refusal}"),
            }
        }
        // Skipped numbers must stay behind one that is on disk, or late ones would be in order.
        if matches!(step, Step::Skip) {
            life.runtime.block_on(async {
                said.insert(next);
                if let Ok(Ok(())) = life.feed.say(spoken(next)).await.await {
                    acknowledged.insert(next);
                }
                next += 1;
            });
        }
        if matches!(step, Step::Crash) {
            life.crash();
            life = Life::begin(folder);
        }
    }
    life.crash();
    (acknowledged, said)
}

/// Returns the events, the sender's numbers and the record of the call as they are at one moment: the last life may
/// still be writing, so they are read until they stay.
async fn log(folder: &Path) -> (Vec<Envelope>, Vec<u64>, CallRecord) {
    let store = Store::open(&folder.join("chatdlm.sqlite")).await.unwrap();
    let key = common::call_key(CALL);
    let mut before = None;
    loop {
        let events = store.events_after(&key, 0, 100_000).await.unwrap();
        let ingested = store.ingest_seqs(&key).await.unwrap();
        let record = store.call(&key).await.unwrap().unwrap();
        let now = (events.len(), ingested.len(), record.seq);
        if before == Some(now) {
            return (events, ingested, record);
        }
        before = Some(now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_log_has_no_gaps_and_every_acknowledged_segment_once(steps in steps()) {
        let folder = tempfile::tempdir().unwrap();
        let (acknowledged, said) = play(folder.path(), &steps);
        let runtime = Runtime::new().unwrap();
        let (events, ingested, record) = runtime.block_on(log(folder.path()));
        let numbers: Vec<u64> = events.iter().map(|envelope| envelope.seq).collect();
        prop_assert_eq!(&numbers, &(1..=events.len() as u64).collect::<Vec<_>>());
        let mut segments = Vec::new();
        for envelope in &events {
            if let Event::Segment(segment) = &envelope.event {
                segments.push(segment.id.trim_start_matches('s').parse::<u64>().unwrap());
            }
        }
        prop_assert_eq!(&segments, &ingested, "one segment for each number, in order");
        let logged: BTreeSet<u64> = segments.iter().copied().collect();
        prop_assert_eq!(logged.len(), segments.len(), "doubled");
        prop_assert!(acknowledged.is_subset(&logged), "lost {:?}", acknowledged.difference(&logged));
        prop_assert!(logged.is_subset(&said));
        prop_assert_eq!(record.seq, events.len() as u64);
        prop_assert_eq!(record.resume_after, ingested.last().copied().unwrap_or(0));
        prop_assert_eq!(record.counts.segments, segments.len() as u64);
    }
}

/// Returns a configuration in which lost senders have this long to come back.
fn patience(resume_s: u64) -> assist::Config {
    assist::Config { resume_s, ..assist::Config::default() }
}

/// Returns the reason with which the call is closed, when it is.
async fn closed(subscription: &mut chatdlm::bus::Subscription) -> String {
    loop {
        if let Event::CallClosed { reason, .. } = &subscription.recv().await.unwrap().envelope.event {
            return reason.clone();
        }
    }
}

#[tokio::test]
async fn a_call_waits_for_its_sender_and_is_interrupted_when_the_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let calls = common::calls(folder.path(), patience(3600)).await;
    let feed = attach(&calls).await;
    feed.say(spoken(1)).await.await.unwrap().unwrap();
    drop(feed);
    let feed = attach(&calls).await;
    assert_eq!(feed.attached.resume_after, 1, "the sender came back in time");
    calls.stop().await;

    let calls = common::calls(folder.path(), patience(0)).await;
    let mut subscription = calls.parts().bus.watch_call(&common::call_key(CALL));
    let feed = attach(&calls).await;
    feed.say(spoken(2)).await.await.unwrap().unwrap();
    drop(feed);
    assert_eq!(closed(&mut subscription).await, "interrupted");
    let refusal = calls.feed("test", start()).await.unwrap_err();
    assert!(matches!(refusal, Refusal::CallClosed { resume_after: 2, .. }), "{refusal}");
}

#[tokio::test]
async fn open_calls_of_the_last_life_are_interrupted_when_nobody_resumes_them() {
    let folder = tempfile::tempdir().unwrap();
    let calls = common::calls(folder.path(), patience(3600)).await;
    attach(&calls).await.say(spoken(1)).await.await.unwrap().unwrap();
    calls.stop().await;

    let calls = common::calls(folder.path(), patience(0)).await;
    let key = common::call_key(CALL);
    assert_eq!(calls.parts().store.call(&key).await.unwrap().unwrap().state, CallPhase::Open);
    let mut subscription = calls.parts().bus.watch_call(&key);
    calls.give_up_lost().await.unwrap();
    assert_eq!(closed(&mut subscription).await, "interrupted");
}

#[tokio::test]
async fn a_newer_sender_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let calls = common::calls(folder.path(), assist::Config::default()).await;
    let mut older = attach(&calls).await;
    older.say(spoken(1)).await.await.unwrap().unwrap();
    let newer = attach(&calls).await;
    assert_eq!(newer.attached.resume_after, 1);
    assert_eq!((&mut older.attached.detached).await.unwrap(), Refusal::TakenOver);
    assert_eq!(older.say(spoken(2)).await.await.unwrap(), Err(Refusal::TakenOver));
    newer.say(spoken(2)).await.await.unwrap().unwrap();
    newer.end("hangup".to_owned()).await.await.unwrap().unwrap();
    let record = calls.parts().store.call(&common::call_key(CALL)).await.unwrap().unwrap();
    assert_eq!((record.state, record.counts.segments), (CallPhase::Closed, 2));
}
