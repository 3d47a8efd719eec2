//! A carrier's line into its call: what the wire says happened becomes segments, measures and the end.
//!
//! Whoever holds the socket gives every [`Happening`] to [`Line::take`], waits for [`Line::progress`]
//! beside the socket, and hands what comes to [`Line::go_on`], which answers what the carrier may be
//! told. Words come back in the order the turns ended, whichever was recognised first.

mod news;
mod told;
mod words;

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use std::time::Instant;

use chrono::Utc;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use futures_util::stream::FuturesUnordered;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;

use crate::assist::calls::Calls;
use crate::assist::calls::Feed;
use crate::assist::intake;
use crate::assist::intake::Refusal;
use crate::assist::intake::Start;
use crate::assist::line::news::News;
use crate::event::CALL_ID_MAX_BYTES;
use crate::event::CallId;
use crate::event::CallIdError;
use crate::event::CallKey;
use crate::event::Card;
use crate::event::Channel;
use crate::event::Event;
use crate::event::Segment;
use crate::event::Severity;
use crate::event::Voice;
use crate::event::Word;
use crate::speech;
use crate::speech::audio;
use crate::speech::listener::Listener;
use crate::speech::listener::Sensed;
use crate::speech::listener::Turn;
use crate::speech::whisper::Recognised;
use crate::speech::whisper::Recogniser;
use crate::telephony::AudioFormat;
use crate::telephony::Channels;
use crate::telephony::Happening;
use crate::telephony::Opening;

/// How often the measures are shown when nothing else shows them.
const SHOWN_EVERY: Duration = Duration::from_secs(1);
/// How long a call that ends waits for the words of its last turns.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// After how long without audio nobody is said to speak.
const SILENT_AFTER: Duration = Duration::from_secs(2);
/// How often a call that is over is opened again under a name of its own, as another part of it.
const PARTS_MAX: u32 = 9;

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
    /// Something of the call that the carrier may be told.
    News(Tidings),
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
    /// Where the carrier has words for what the call says.
    news: Option<News>,
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
    /// When people were last told that the customer raised their voice, in milliseconds of what was heard.
    raised_ms: Option<u64>,
    shown: Interval,
    /// The number of each speaker's latest turn whose words are final: customer, agent.
    said: [u64; 2],
    /// When audio last came, and whether that is so long ago that its turns were ended.
    heard_at: Instant,
    is_quiet: bool,
    /// What the call measured before this connection.
    before: Voice,
    is_lag_told: bool,
    is_refusal_told: bool,
    mistakes: Vec<&'static str>,
    has_audio: bool,
    /// Whether a call that is over is not gone on with under another name.
    pub is_whole: bool,
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
            raised_ms: None,
            shown,
            said: [0; 2],
            heard_at: Instant::now(),
            is_quiet: false,
            before: Voice::default(),
            is_lag_told: false,
            is_refusal_told: false,
            mistakes: Vec::new(),
            has_audio: false,
            is_whole: false,
        }
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
            Happening::Language(language) => self.change_language(language).await,
        }
        Ok(())
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
            tidings = next_news(&mut open.news) => Progress::News(tidings),
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
                let sensed = self.listener.finish();
                self.act_on(sensed).await;
                self.hand_over();
                return Some(Tidings::CutOff(refusal));
            }
            Progress::Logged(Err(refusal)) => {
                tracing::warn!(%refusal, "a segment of a carrier was refused");
                let message = format!("something the carrier said was refused: {}", refusal.code());
                self.alert("carrier", Severity::Warning, message).await;
            }
            Progress::News(tidings) => return Some(tidings),
            Progress::Tick => {
                if self.has_audio && !self.is_quiet && self.heard_at.elapsed() >= SILENT_AFTER {
                    // Audio stopped coming: whatever was said is over.
                    self.is_quiet = true;
                    let sensed = self.listener.finish();
                    self.act_on(sensed).await;
                }
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
            if let Some(news) = &mut open.news {
                tidings.extend(news.rest().await);
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
            call: call_name(&call, 1)?,
            agent,
            customer,
            channel: if is_chat { Channel::Chat } else { Channel::Voice },
            language: language.unwrap_or_else(|| "en".to_owned()),
            started_at: Utc::now(),
            knowledge: (!knowledge.is_empty()).then_some(knowledge),
            metadata,
        })?;
        let language = start.language.clone();
        let (key, feed) = self.feed(start, &call).await?;
        let offset_ms = feed.attached.duration_ms.max(feed.attached.voice.heard_ms);
        let seq = feed.attached.resume_after;
        self.before = feed.attached.voice.clone();
        let (parts, seen) = (self.calls.parts(), feed.attached.seq);
        let news = self
            .wants_news
            .then(|| News::new(parts.bus.watch_call(&key), parts.store.clone(), key, seen, offset_ms));
        self.open = Some(Open { feed, prefix: format!("v{seq}-"), seq, language, offset_ms, news });
        Ok(())
    }

    /// Opens the call. Carriers use a name again, after a transfer or a second stream of the same call: then
    /// the call that is over stays over, and this is another part of it.
    async fn feed(&self, mut start: Start, name: &str) -> Result<(CallKey, Feed), Refusal> {
        let tenant = &self.defaults.tenant;
        for part in 1.. {
            start.call = call_name(name, part)?;
            match self.calls.feed(tenant, start.clone()).await {
                Err(Refusal::CallClosed { .. }) if part < PARTS_MAX && !self.is_whole => {}
                Err(refusal) => return Err(refusal),
                Ok(feed) => return Ok((CallKey { tenant: tenant.clone(), call: start.call }, feed)),
            }
        }
        unreachable!("the last part is opened or refused")
    }

    /// Has what is said from now on recognised in this language: what was said before is a turn of its own.
    async fn change_language(&mut self, language: String) {
        let sensed = self.listener.finish();
        self.act_on(sensed).await;
        if let Some(open) = &mut self.open {
            open.language = language;
        }
    }

    async fn hear(&mut self, format: AudioFormat, bytes: &[u8]) {
        self.has_audio = true;
        self.heard_at = Instant::now();
        self.is_quiet = false;
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
                    self.watch_voice(&turn).await;
                    self.ask(turn, true).await;
                }
                Sensed::Partial(turn) => self.ask(turn, false).await,
                Sensed::Noted(noted) => self.note(noted).await,
            }
        }
        if has_changed {
            self.show_voice();
        }
    }
}

/// Returns the next thing that the carrier may be told; never without an ear for it.
async fn next_news(news: &mut Option<News>) -> Tidings {
    match news {
        Some(news) => news.next().await,
        None => std::future::pending().await,
    }
}

/// Returns a carrier's name of a call as ours, of its later parts with their number: what may not stand in
/// one becomes a hyphen.
fn call_name(name: &str, part: u32) -> Result<CallId, Refusal> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    let allowed = name.chars().map(|c| if is_allowed(c) { c } else { '-' });
    let mut name: String = allowed.take(CALL_ID_MAX_BYTES - 2).collect();
    if part > 1 {
        name = format!("{name}.{part}");
    }
    name.parse().map_err(|error: CallIdError| Refusal::InvalidField { field: "call", why: error.to_string() })
}
