//! A carrier's line into its call: what the wire says happened becomes segments, measures and the end.
//!
//! Whoever holds the socket gives every [`Happening`] to [`Line::take`], waits for [`Line::progress`]
//! beside the socket, and hands what comes to [`Line::go_on`], which answers what the carrier may be
//! told. Words come back in the order the turns ended, whichever was recognised first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use chrono::Utc;
use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::stream::FuturesUnordered;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;

use crate::assist::calls::Acknowledgement;
use crate::assist::calls::Calls;
use crate::assist::calls::Feed;
use crate::assist::counters::count;
use crate::assist::intake;
use crate::assist::intake::Refusal;
use crate::assist::intake::Spoken;
use crate::assist::intake::Start;
use crate::assist::loudness::Loudness;
use crate::bus::Published;
use crate::bus::Subscription;
use crate::event::CallId;
use crate::event::CallKey;
use crate::event::Card;
use crate::event::Channel;
use crate::event::Event;
use crate::event::Segment;
use crate::event::Severity;
use crate::event::Speaker;
use crate::event::Voice;
use crate::event::Word;
use crate::speech;
use crate::speech::audio;
use crate::speech::listener::Listener;
use crate::speech::listener::Sensed;
use crate::speech::listener::Turn;
use crate::speech::talk::Noted;
use crate::speech::talk::index;
use crate::speech::whisper::Recognised;
use crate::speech::whisper::Recogniser;
use crate::speech::whisper::Request;
use crate::telephony::AudioFormat;
use crate::telephony::Channels;
use crate::telephony::Happening;
use crate::telephony::Opening;
use crate::telephony::WireError;

/// How often the measures are shown when nothing else shows them.
const SHOWN_EVERY: Duration = Duration::from_secs(1);
/// How long a call that ends waits for the words of its last turns.
const LAST_WORDS: Duration = Duration::from_secs(6);
/// From how far behind on people are told, and below which they may be told again.
const LAG_ALERT: Duration = Duration::from_secs(5);
const LAG_CALM: Duration = Duration::from_secs(2);
/// Every how many interruptions of one speaker people are told.
const INTERRUPTIONS_ALERT: u32 = 3;
/// After how long without audio nobody is said to speak.
const SILENT_AFTER: Duration = Duration::from_secs(2);
/// How many of a carrier's mistakes of one kind people are told of in a call.
const MISTAKES_TOLD: usize = 8;
/// How many segments' word times are kept until the log has them.
const WORDS_KEPT: usize = 16;

/// Makes words of speech, for all calls.
#[derive(Debug, Clone, Default)]
pub struct Speech {
    /// The model with its threads; none: calls are only measured.
    pub recogniser: Option<Recogniser>,
    /// How it is used.
    pub config: speech::Config,
}

/// What a call is when its carrier does not say.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// The tenant.
    pub tenant: String,
    /// The agent's user name.
    pub agent: Option<String>,
    /// The knowledge bases; empty for all.
    pub knowledge: Vec<String>,
}

/// What the carrier may be told.
#[derive(Debug, Clone, PartialEq)]
pub enum Tidings {
    /// Something was said, redacted; with the times of its words where nothing was taken out.
    Segment(Segment, Option<Vec<Word>>),
    /// Passages that answer the customer.
    Cards(Vec<Card>),
    /// The call goes on without this line.
    CutOff(Refusal),
}

/// Something that came while nobody asked.
pub enum Progress {
    /// A turn's words, or that there will be none.
    Words(Turn, Option<Recognised>),
    /// A turn's words so far.
    WordsSoFar(Turn, Option<Recognised>),
    /// What became of a segment on its way to the log.
    Logged(Result<(), Refusal>),
    /// Something that the call published.
    Published(Option<Arc<Published>>),
    /// Another line or the log's failure took the call away.
    CutOff(Refusal),
    /// Time to show the measures.
    Tick,
}

/// A call that a line is open to.
struct Open {
    feed: Feed,
    /// What segment ids of this connection begin with: another connection's begin otherwise.
    prefix: String,
    /// The number of the latest segment.
    seq: u64,
    language: String,
    /// Where this connection began, in milliseconds of the call.
    offset_ms: u64,
    news: Option<Subscription>,
}

/// A line. Dropping it leaves the call open for the carrier's return.
pub struct Line {
    calls: Calls,
    defaults: Defaults,
    speech: Speech,
    wants_news: bool,
    open: Option<Open>,
    listener: Listener,
    /// Names this line's turns among all lines'.
    number: u64,
    finals: FuturesOrdered<BoxFuture<'static, (Turn, Option<Recognised>)>>,
    partials: FuturesUnordered<BoxFuture<'static, (Turn, Option<Recognised>)>>,
    /// When each final in `finals` was asked for, oldest first.
    asked: VecDeque<Instant>,
    logged: FuturesOrdered<BoxFuture<'static, Result<(), Refusal>>>,
    /// The word times of the latest segments, by id, with the text as it was recognised.
    words: VecDeque<(String, String, Vec<Word>)>,
    loudness: Loudness,
    shown: Interval,
    /// The number of each speaker's latest turn whose words are final: customer, agent.
    said: [u64; 2],
    /// When audio last came.
    heard_at: Instant,
    /// What the call measured before this connection.
    before: Voice,
    is_lag_told: bool,
    mistakes: Vec<&'static str>,
    has_audio: bool,
}

static LINES: AtomicU64 = AtomicU64::new(0);

impl Line {
    /// Returns a line to a call that is not known yet; `wants_news`: its carrier has words for what the
    /// call says.
    pub fn new(calls: Calls, defaults: Defaults, wants_news: bool) -> Line {
        let speech = calls.parts().speech.clone();
        let listener = Listener::new(speech.config.rules(speech.recogniser.is_some()));
        let mut shown = tokio::time::interval(SHOWN_EVERY);
        shown.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Line {
            calls,
            defaults,
            speech,
            wants_news,
            open: None,
            listener,
            number: LINES.fetch_add(1, Relaxed),
            finals: FuturesOrdered::new(),
            partials: FuturesUnordered::new(),
            asked: VecDeque::new(),
            logged: FuturesOrdered::new(),
            words: VecDeque::new(),
            loudness: Loudness::default(),
            shown,
            said: [0; 2],
            heard_at: Instant::now(),
            before: Voice::default(),
            is_lag_told: false,
            mistakes: Vec::new(),
            has_audio: false,
        }
    }

    /// Returns whether the call is open.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Does what a happening says; the end of a call is [`Line::finish`]'s.
    ///
    /// # Errors
    /// When the call cannot be opened; whatever else is wrong is marked in the call.
    pub async fn take(&mut self, happening: Happening) -> Result<(), Refusal> {
        match happening {
            Happening::Opened(opening) => return self.begin(opening).await,
            Happening::Probed | Happening::Key | Happening::Closed { .. } => {}
            Happening::Audio { format, bytes } => self.hear(format, &bytes).await,
            Happening::Skipped(ms) => {
                let sensed = self.listener.skip(ms);
                self.act_on(sensed).await;
            }
            Happening::Hold(is_on_hold) => {
                let sensed = self.listener.hold(is_on_hold);
                self.act_on(sensed).await;
            }
            Happening::Segment { segment, words } => self.pass_on(segment, words).await,
            Happening::Revised { segment, speaker } => {
                if let Some(open) = &self.open {
                    open.feed.revise(segment, speaker).await;
                }
            }
            Happening::Language(language) => {
                if let Some(open) = &mut self.open {
                    open.language = language;
                }
            }
        }
        Ok(())
    }

    /// Marks a carrier's mistake in the call, once for each kind.
    pub async fn mark(&mut self, error: &WireError) {
        count(&self.calls.parts().counters.wire_errors);
        let code = error.code();
        if self.mistakes.len() >= MISTAKES_TOLD || self.mistakes.contains(&code) {
            return;
        }
        self.mistakes.push(code);
        self.alert("carrier", Severity::Warning, format!("the carrier's stream is faulty: {error}")).await;
    }

    /// Returns what comes next. May be dropped while it waits: nothing is lost.
    pub async fn progress(&mut self) -> Progress {
        let Some(open) = &mut self.open else { return std::future::pending().await };
        tokio::select! {
            Some(logged) = self.logged.next(), if !self.logged.is_empty() => Progress::Logged(logged),
            Some((turn, words)) = self.finals.next(), if !self.finals.is_empty() => Progress::Words(turn, words),
            Some((turn, words)) = self.partials.next(), if !self.partials.is_empty() => {
                Progress::WordsSoFar(turn, words)
            }
            published = next_news(&mut open.news) => Progress::Published(published),
            reason = &mut open.feed.attached.detached => {
                // Without a reason the actor has failed: the carrier may come back at once.
                Progress::CutOff(reason.unwrap_or(Refusal::NotDurable))
            }
            _ = self.shown.tick() => Progress::Tick,
        }
    }

    /// Does what has come, and returns what the carrier may be told of it.
    pub async fn go_on(&mut self, progress: Progress) -> Option<Tidings> {
        match progress {
            Progress::Words(turn, recognised) => self.say(turn, recognised).await,
            Progress::WordsSoFar(turn, recognised) => self.show(&turn, recognised),
            Progress::Logged(Ok(())) => {}
            Progress::Logged(Err(
                refusal @ (Refusal::TakenOver | Refusal::NotDurable | Refusal::Stopping),
            ))
            | Progress::CutOff(refusal) => {
                // Nothing of this connection reaches the call any more.
                self.open = None;
                self.finals.clear();
                self.partials.clear();
                self.logged.clear();
                return Some(Tidings::CutOff(refusal));
            }
            Progress::Logged(Err(refusal)) => {
                tracing::warn!(%refusal, "a segment of a carrier was refused");
                let message = format!("something the carrier said was refused: {}", refusal.code());
                self.alert("carrier", Severity::Warning, message).await;
            }
            Progress::Published(published) => return published.and_then(|published| self.news(&published)),
            Progress::Tick => {
                self.show_voice();
                self.watch_lag().await;
            }
        }
        None
    }

    /// Ends the call: waits for the words of its last turns, settles its measures and closes it. Returns
    /// what the carrier may still be told, in order.
    pub async fn finish(&mut self, reason: String) -> Vec<Tidings> {
        let mut tidings = self.last_words().await;
        if matches!(tidings.last(), Some(Tidings::CutOff(_))) {
            return tidings;
        }
        if let Some(open) = &mut self.open {
            // A call that cannot be closed now is closed by the log's next reader.
            let _ = open.feed.end(reason).await.await;
            while let Some(news) = open.news.as_mut().and_then(|news| news.try_recv().ok()) {
                tidings.extend(news_of(&news, &self.words, open.offset_ms));
            }
        }
        self.open = None;
        tidings
    }

    /// Lets the line go without an end: what was heard is said, and the call waits for its carrier.
    pub async fn lose(&mut self) {
        self.last_words().await;
        self.open = None;
    }

    /// Ends the turns under way, waits for their words and settles the call's measures.
    async fn last_words(&mut self) -> Vec<Tidings> {
        let sensed = self.listener.finish();
        self.act_on(sensed).await;
        let until = tokio::time::Instant::now() + LAST_WORDS;
        let mut tidings = Vec::new();
        while !self.finals.is_empty() || !self.logged.is_empty() {
            let Ok(progress) = tokio::time::timeout_at(until, self.progress()).await else {
                let message = format!("the words of {} turns came too late", self.finals.len());
                self.alert("lag", Severity::Warning, message).await;
                break;
            };
            tidings.extend(self.go_on(progress).await);
            if matches!(tidings.last(), Some(Tidings::CutOff(_))) {
                return tidings;
            }
        }
        if self.has_audio
            && let Some(open) = &self.open
        {
            open.feed.settle_sensed(vec![Event::Voice(self.voice())]).await;
        }
        tidings
    }

    async fn begin(&mut self, opening: Opening) -> Result<(), Refusal> {
        let Opening { call, agent, customer, language, knowledge, is_chat, speaker: _, metadata } = opening;
        let agent = agent.or_else(|| self.defaults.agent.clone()).ok_or_else(|| Refusal::InvalidField {
            field: "agent",
            why: "the carrier names no agent and telephony.agent is not set".to_owned(),
        })?;
        let knowledge = if knowledge.is_empty() { self.defaults.knowledge.clone() } else { knowledge };
        let start = intake::check_start(Start {
            call: call_name(&call)?,
            agent,
            customer,
            channel: if is_chat { Channel::Chat } else { Channel::Voice },
            language: language.unwrap_or_else(|| "en".to_owned()),
            started_at: Utc::now(),
            knowledge: (!knowledge.is_empty()).then_some(knowledge),
            metadata,
        })?;
        let key = CallKey { tenant: self.defaults.tenant.clone(), call: start.call.clone() };
        let language = start.language.clone();
        let news = self.wants_news.then(|| self.calls.parts().bus.watch_call(&key));
        let feed = self.calls.feed(&self.defaults.tenant, start).await?;
        let (seq, offset_ms) = (feed.attached.resume_after, feed.attached.duration_ms);
        self.before = feed.attached.voice.clone();
        let prefix = format!("v{seq}-");
        self.open = Some(Open { feed, prefix, seq, language, offset_ms, news });
        Ok(())
    }

    async fn hear(&mut self, format: AudioFormat, bytes: &[u8]) {
        self.has_audio = true;
        self.heard_at = Instant::now();
        let channels = match format.channels {
            Channels::One(speaker) => vec![speaker],
            Channels::Two(first, second) => vec![first, second],
        };
        for (at, &speaker) in channels.iter().enumerate() {
            let samples = audio::decode(bytes, format.encoding, at, channels.len());
            let sensed = self.listener.hear(speaker, &samples, format.rate_hz);
            self.act_on(sensed).await;
        }
    }

    async fn act_on(&mut self, sensed: Vec<Sensed>) {
        let mut has_changed = false;
        for sensed in sensed {
            match sensed {
                Sensed::SpeakingChanged => has_changed = true,
                Sensed::Final(turn) => {
                    if self.loudness.is_raised(&turn) {
                        let message = "the customer raises their voice".to_owned();
                        self.alert("raised_voice", Severity::Warning, message).await;
                    }
                    self.ask(turn, true);
                }
                Sensed::Partial(turn) => self.ask(turn, false),
                Sensed::Noted(noted) => self.note(noted).await,
            }
        }
        if has_changed {
            self.show_voice();
        }
    }

    fn ask(&mut self, mut turn: Turn, is_final: bool) {
        let (Some(open), Some(recogniser)) = (&self.open, &self.speech.recogniser) else { return };
        turn.start_ms += open.offset_ms;
        turn.end_ms += open.offset_ms;
        let recognition = recogniser.ask(Request {
            turn: (self.number, turn.number),
            samples: std::mem::take(&mut turn.samples),
            start_ms: turn.start_ms,
            language: open.language.clone(),
            is_final,
        });
        let answer = async move { (turn, recognition.await.ok()) }.boxed();
        if is_final {
            self.asked.push_back(Instant::now());
            self.finals.push_back(answer);
        } else {
            self.partials.push(answer);
        }
    }

    async fn say(&mut self, turn: Turn, recognised: Option<Recognised>) {
        self.asked.pop_front();
        self.said[index(turn.speaker)] = turn.number;
        let Some(recognised) = recognised else {
            if let Some(open) = &self.open {
                let id = format!("{}{}", open.prefix, turn.number);
                open.feed.show(segment(id, &turn, String::new(), false));
            }
            let message = "speech was not recognised: too much waits".to_owned();
            self.alert("lag", Severity::Warning, message).await;
            return;
        };
        let Some(open) = &mut self.open else { return };
        let id = format!("{}{}", open.prefix, turn.number);
        if recognised.words.is_empty() {
            // Whatever was shown of it so far was nothing.
            open.feed.show(segment(id, &turn, String::new(), false));
            return;
        }
        let segment = segment(id.clone(), &turn, recognised.text(), true);
        let words: Vec<Word> = recognised.words.into_iter().map(|sure| sure.word).collect();
        self.say_segment(segment, Some(words)).await;
        if let Some(open) = &self.open {
            let Turn { speaker, prosody, .. } = turn;
            open.feed.settle_sensed(vec![Event::Prosody { segment: id, speaker, prosody }]).await;
        }
    }

    fn show(&mut self, turn: &Turn, recognised: Option<Recognised>) {
        let (Some(open), Some(recognised)) = (&self.open, recognised) else { return };
        if turn.number <= self.said[index(turn.speaker)] {
            // Its final text is there already.
            return;
        }
        if !recognised.words.is_empty() {
            let id = format!("{}{}", open.prefix, turn.number);
            open.feed.show(segment(id, turn, recognised.text(), false));
        }
    }

    /// Passes a segment on that the carrier recognised.
    async fn pass_on(&mut self, segment: Segment, words: Option<Vec<Word>>) {
        let Some(open) = &self.open else { return };
        if segment.is_final {
            self.say_segment(segment, words).await;
        } else if let Ok(checked) = intake::check_segment(Spoken { seq: 1, segment, words: None }) {
            open.feed.show(checked.segment);
        }
    }

    async fn say_segment(&mut self, segment: Segment, words: Option<Vec<Word>>) {
        let Some(open) = &mut self.open else { return };
        if open.feed.attached.known.contains(&segment.id) {
            // The carrier came back and says it again.
            return;
        }
        let spoken = Spoken { seq: open.seq + 1, segment, words };
        let spoken = match intake::check_segment(spoken) {
            Ok(spoken) => spoken,
            Err(refusal) => {
                self.logged.push_back(std::future::ready(Err(refusal)).boxed());
                return;
            }
        };
        open.seq += 1;
        if let Some(words) = &spoken.words
            && open.news.is_some()
        {
            if self.words.len() == WORDS_KEPT {
                self.words.pop_front();
            }
            self.words.push_back((spoken.segment.id.clone(), spoken.segment.text.clone(), words.clone()));
        }
        let acknowledgement: Acknowledgement = open.feed.say(spoken).await;
        // An actor that drops the question has failed before it was on disk.
        let logged = async move { acknowledgement.await.unwrap_or(Err(Refusal::NotDurable)) };
        self.logged.push_back(logged.boxed());
    }

    async fn note(&mut self, noted: Noted) {
        match noted {
            Noted::DeadAir { ms, severity } => {
                let message = format!("nobody has spoken for {} seconds", ms / 1_000);
                self.alert("dead_air", severity, message).await;
            }
            Noted::Interruption { by } => {
                let [customer, agent] = self.listener.meter().interruptions;
                let (who, times) = match by {
                    Speaker::Customer => ("customer", customer),
                    Speaker::Agent => ("agent", agent),
                };
                if times % INTERRUPTIONS_ALERT == 0 {
                    let message = format!("the {who} has interrupted {times} times");
                    self.alert("interruption", Severity::Warning, message).await;
                }
            }
        }
    }

    async fn watch_lag(&mut self) {
        let lag = self.lag();
        if lag >= LAG_ALERT && !self.is_lag_told {
            self.is_lag_told = true;
            let message = format!("recognition is {} seconds behind", lag.as_secs());
            self.alert("lag", Severity::Warning, message).await;
        } else if lag < LAG_CALM {
            self.is_lag_told = false;
        }
    }

    async fn alert(&mut self, kind: &str, severity: Severity, message: String) {
        let Some(open) = &self.open else { return };
        let alert = Event::Alert { kind: kind.to_owned(), severity, message, segment: None };
        open.feed.settle_sensed(vec![alert]).await;
    }

    /// Returns how long the oldest turn that is over has waited for its words.
    fn lag(&self) -> Duration {
        self.asked.front().map_or(Duration::ZERO, Instant::elapsed)
    }

    fn show_voice(&self) {
        if self.has_audio
            && let Some(open) = &self.open
        {
            open.feed.show_sensed(Event::Voice(self.voice()));
        }
    }

    fn voice(&self) -> Voice {
        let (meter, before) = (self.listener.meter(), &self.before);
        let is_heard = self.heard_at.elapsed() < SILENT_AFTER;
        let speakers = [Speaker::Customer, Speaker::Agent];
        let speaking = speakers.into_iter().zip(meter.speaking).filter(|(_, speaks)| *speaks && is_heard);
        Voice {
            speaking: speaking.map(|(speaker, _)| speaker).collect(),
            on_hold: meter.is_on_hold,
            silence_ms: meter.silence_ms,
            overlap_ms: before.overlap_ms + meter.overlap_ms,
            customer_ms: before.customer_ms + meter.speaking_ms[0],
            agent_ms: before.agent_ms + meter.speaking_ms[1],
            customer_interruptions: before.customer_interruptions + meter.interruptions[0],
            agent_interruptions: before.agent_interruptions + meter.interruptions[1],
            hold_ms: before.hold_ms + meter.hold_ms,
            heard_ms: self.open.as_ref().map_or(0, |open| open.offset_ms) + self.listener.now_ms(),
            lag_ms: self.lag().as_millis() as u64,
            recognised: self.speech.recogniser.is_some(),
        }
    }

    fn news(&self, published: &Published) -> Option<Tidings> {
        news_of(published, &self.words, self.open.as_ref()?.offset_ms)
    }
}

/// Returns what the carrier may be told of something that the call published; its times are those of the
/// connection, which began at `offset_ms` of the call.
fn news_of(
    published: &Published,
    words: &VecDeque<(String, String, Vec<Word>)>,
    offset_ms: u64,
) -> Option<Tidings> {
    let since = |ms: u64| ms.saturating_sub(offset_ms);
    match &published.envelope.event {
        Event::Segment(segment) => {
            let known = words.iter().find(|(id, text, _)| *id == segment.id && *text == segment.text);
            let word = |word: &Word| Word {
                text: word.text.clone(),
                start_ms: since(word.start_ms),
                end_ms: since(word.end_ms),
            };
            let words = known.map(|(_, _, words)| words.iter().map(word).collect());
            let (start_ms, end_ms) = (since(segment.start_ms), since(segment.end_ms));
            Some(Tidings::Segment(Segment { start_ms, end_ms, ..segment.clone() }, words))
        }
        Event::Cards { cards, .. } => Some(Tidings::Cards(cards.clone())),
        _ => None,
    }
}

/// Returns the next thing that the call published; never without a subscription.
async fn next_news(news: &mut Option<Subscription>) -> Option<Arc<Published>> {
    let Some(news) = news else { return std::future::pending().await };
    match news.recv().await {
        Ok(published) => Some(published),
        Err(RecvError::Lagged(_)) => None,
        Err(RecvError::Closed) => std::future::pending().await,
    }
}

fn segment(id: String, turn: &Turn, text: String, is_final: bool) -> Segment {
    Segment { id, speaker: turn.speaker, text, start_ms: turn.start_ms, end_ms: turn.end_ms, is_final }
}

/// Returns a carrier's name of a call as ours: what may not stand in one becomes a hyphen.
fn call_name(name: &str) -> Result<CallId, Refusal> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    let name: String = name.chars().map(|c| if is_allowed(c) { c } else { '-' }).take(128).collect();
    let refused =
        |error: crate::event::CallIdError| Refusal::InvalidField { field: "call", why: error.to_string() };
    name.parse().map_err(refused)
}
