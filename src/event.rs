//! The vocabulary: what happens in a call, as the log stores it and the sockets send it.
//!
//! A call's state is the fold of its settled [`Envelope`]s. Settled envelopes are numbered from 1
//! without gaps; tentative ones carry the number of the last settled one and are never stored.

use std::fmt;
use std::str::FromStr;

use chrono::DateTime;
use chrono::Utc;
use serde::Deserialize;
use serde::Serialize;

/// The longest name of a call, in bytes.
pub const CALL_ID_MAX_BYTES: usize = 128;

/// Names one call within its tenant: 1 to 128 of the characters `A-Z a-z 0-9 . _ : -`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CallId(String);

impl CallId {
    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Says why a text is no [`CallId`].
#[derive(Debug, thiserror::Error)]
#[error("call name {0:?} must be 1 to 128 of the characters A-Z a-z 0-9 . _ : -")]
pub struct CallIdError(String);

impl FromStr for CallId {
    type Err = CallIdError;

    fn from_str(text: &str) -> Result<Self, CallIdError> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
        if text.is_empty() || text.len() > CALL_ID_MAX_BYTES || !text.chars().all(is_allowed) {
            return Err(CallIdError(text.chars().take(CALL_ID_MAX_BYTES).collect()));
        }
        Ok(CallId(text.to_owned()))
    }
}

impl TryFrom<String> for CallId {
    type Error = CallIdError;

    fn try_from(text: String) -> Result<Self, CallIdError> {
        text.parse()
    }
}

impl From<CallId> for String {
    fn from(id: CallId) -> String {
        id.0
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one call across tenants.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey {
    /// The tenant it belongs to.
    pub tenant: String,
    /// Its name there.
    pub call: CallId,
}

/// Who speaks in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// The person who calls or writes.
    Customer,
    /// The person of the contact center who answers.
    Agent,
}

/// How the two people talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Speech: segments have real times.
    Voice,
    /// Typed messages: speech rate means nothing.
    Chat,
}

/// One word of a segment with its times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word as recognised.
    pub text: String,
    /// Start, in milliseconds from the call's start.
    pub start_ms: u64,
    /// End, in milliseconds from the call's start.
    pub end_ms: u64,
    /// How sure the recogniser is of it, from 0 to 1, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confidence: Option<f32>,
}

/// One stretch of speech of one speaker; partial until final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The sender's name for it; a later segment of the same id replaces a partial one.
    pub id: String,
    /// Who spoke.
    pub speaker: Speaker,
    /// What was said. In an event it is always redacted.
    pub text: String,
    /// Start, in milliseconds from the call's start.
    pub start_ms: u64,
    /// End, in milliseconds from the call's start.
    pub end_ms: u64,
    /// Whether it will not change any more.
    #[serde(rename = "final")]
    pub is_final: bool,
}

/// Who speaks, and what the call's speech measures so far. Times in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voice {
    /// Who speaks now.
    pub speaking: Vec<Speaker>,
    /// Whether the call is on hold.
    pub on_hold: bool,
    /// How long nobody has spoken now, hold excluded.
    pub silence_ms: u64,
    /// How long both spoke at once, over the whole call.
    pub overlap_ms: u64,
    /// How long the customer has spoken, over the whole call.
    pub customer_ms: u64,
    /// How long the agent has spoken, over the whole call.
    pub agent_ms: u64,
    /// How often the customer cut the agent off.
    pub customer_interruptions: u32,
    /// How often the agent cut the customer off.
    pub agent_interruptions: u32,
    /// How long the call was on hold.
    pub hold_ms: u64,
    /// How much of the call was heard.
    pub heard_ms: u64,
    /// How far recognition is behind what was heard.
    pub lag_ms: u64,
    /// Whether somebody makes words of the audio.
    pub recognised: bool,
}

/// How a segment sounded, whatever its words.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Prosody {
    /// Loudness of its speech, in decibels of full scale (0 is the loudest there is).
    pub energy_db: f32,
    /// The median pitch, in hertz; none when nothing was voiced.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pitch_hz: Option<f32>,
    /// From the 10th to the 90th hundredth of the pitch, in semitones.
    pub pitch_range: f32,
    /// How many pauses of a quarter of a second or more it has.
    pub pauses: u32,
    /// How long it was spoken in, without pauses, in milliseconds.
    pub spoken_ms: u64,
    /// How it differs from the speaker's turns before; none until there are a few.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub contrast: Option<Contrast>,
}

/// How a segment sounded against the speaker's turns before.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Contrast {
    /// How much louder, in decibels.
    pub louder_db: f32,
    /// How much higher its median pitch is, in semitones.
    pub higher: f32,
}

/// What the customer feels, judged from the words in context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Emotion {
    /// Plain information or question.
    Neutral,
    /// Pleased, relieved, really thankful.
    Satisfied,
    /// Does not understand, lost.
    Confused,
    /// Anxious about consequences.
    Worried,
    /// Hurt, resigned, let down without heat.
    Sad,
    /// Annoyed by effort or delay, still cooperative.
    Frustrated,
    /// Hostile, blaming.
    Angry,
}

impl Emotion {
    /// All emotions, in the order of every score vector.
    pub const ALL: [Emotion; 7] = [
        Emotion::Neutral,
        Emotion::Satisfied,
        Emotion::Confused,
        Emotion::Worried,
        Emotion::Sad,
        Emotion::Frustrated,
        Emotion::Angry,
    ];

    /// Returns the label as the sockets and the training data write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Emotion::Neutral => "neutral",
            Emotion::Satisfied => "satisfied",
            Emotion::Confused => "confused",
            Emotion::Worried => "worried",
            Emotion::Sad => "sad",
            Emotion::Frustrated => "frustrated",
            Emotion::Angry => "angry",
        }
    }

    /// Returns how pleasant the emotion is, from −1 to 1.
    pub fn valence(self) -> f32 {
        match self {
            Emotion::Neutral => 0.0,
            Emotion::Satisfied => 1.0,
            Emotion::Confused => -0.3,
            Emotion::Worried => -0.5,
            Emotion::Sad => -0.6,
            Emotion::Frustrated => -0.7,
            Emotion::Angry => -1.0,
        }
    }

    /// Returns how excited somebody who feels it is, from −1 to 1. Source: the circumplex of Russell 1980,
    /// read roughly.
    pub fn arousal(self) -> f32 {
        match self {
            Emotion::Neutral => 0.0,
            Emotion::Satisfied => 0.2,
            Emotion::Confused => 0.1,
            Emotion::Worried => 0.5,
            Emotion::Sad => -0.5,
            Emotion::Frustrated => 0.6,
            Emotion::Angry => 1.0,
        }
    }
}

/// Where the customer's emotion is going.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trend {
    /// Valence rises.
    Rising,
    /// Valence stays.
    Steady,
    /// Valence falls.
    Falling,
}

/// A speaker's speed, as people hear it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateLevel {
    /// Slower than most.
    Slow,
    /// As most people speak.
    Normal,
    /// Faster than most.
    Fast,
}

/// How much a term or an alert matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Somebody should look.
    Warning,
    /// Somebody must look now.
    Critical,
}

/// What is done when a sensitive term is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TermAction {
    /// An alert is raised, the text stays.
    Alert,
    /// The text is replaced, nobody is alerted.
    Redact,
    /// The text is replaced and an alert is raised.
    Both,
}

/// A passage pushed to the agent, with its score and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// Names the passage: `article#number`, unique within the base.
    pub id: String,
    /// The article's id.
    pub article: String,
    /// The article's title.
    pub title: String,
    /// The passage's plain text.
    pub passage: String,
    /// The matched stretches of `passage`: `[start, end)` in Unicode scalar values.
    pub highlights: Vec<(usize, usize)>,
    /// The retrieval score, comparable within one base version only.
    pub score: f32,
    /// The knowledge base.
    pub base: String,
    /// The version of the base that was searched.
    pub version: u64,
}

/// Where a draft stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DraftState {
    /// The model is denoising it.
    Writing,
    /// Complete.
    Done,
    /// A newer question made it useless, or the model was not sure of any words; then `error` says so.
    Dropped,
    /// The model could not write it; `error` says why.
    Failed,
}

/// What the agent did with a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Used as it was.
    Accepted,
    /// Used after changes.
    Edited,
    /// Not used.
    Rejected,
}

/// An answer that the assistant proposes, as it stands now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// Names the draft within its call.
    pub id: String,
    /// The settled text.
    pub text: String,
    /// What follows `text` while blocks denoise; each masked token is one `░` (U+2591).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tentative_text: Option<String>,
    /// Where it stands.
    pub state: DraftState,
    /// The ids of the cards it rests on.
    pub cards: Vec<String>,
    /// The stretches of `text` that are quoted from cards: `[start, end)` in Unicode scalar values.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub quotes: Vec<(usize, usize)>,
    /// Denoising passes so far.
    pub steps: u32,
    /// Tokens written so far.
    pub tokens: u32,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The call began.
    CallOpened {
        /// The agent's user name.
        agent: String,
        /// The customer as the sender names them, redacted.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        customer: Option<String>,
        /// Voice or chat.
        channel: Channel,
        /// BCP 47 language tag.
        language: String,
        /// The knowledge bases that are searched.
        knowledge: Vec<String>,
    },
    /// Somebody said something. A later one of the same id corrects who spoke.
    Segment(Segment),
    /// Who speaks now, and the measures of the call's speech; tentative but for a call's last.
    Voice(Voice),
    /// How a segment sounded.
    Prosody {
        /// The segment.
        segment: String,
        /// Whose.
        speaker: Speaker,
        /// What was measured.
        #[serde(flatten)]
        prosody: Prosody,
    },
    /// The customer's emotion after a segment.
    Emotion {
        /// The segment it was read from.
        segment: String,
        /// Whose emotion.
        speaker: Speaker,
        /// The likeliest label.
        label: Emotion,
        /// The probability of every label.
        scores: std::collections::BTreeMap<Emotion, f32>,
        /// How pleasant, −1 to 1.
        valence: f32,
        /// Where it is going.
        trend: Trend,
    },
    /// How fast somebody speaks.
    SpeechRate {
        /// Who.
        speaker: Speaker,
        /// Words per minute of speaking time in the window.
        words_per_minute: f32,
        /// Syllables per second of speaking time in the window.
        articulation_rate: f32,
        /// Words per minute of speaking time over the whole call.
        call_words_per_minute: f32,
        /// The window, in milliseconds.
        window_ms: u64,
        /// The rate as people hear it.
        level: RateLevel,
    },
    /// A sensitive term or a redacted span was found.
    Sensitive {
        /// The segment it stands in.
        segment: String,
        /// The kind of thing: `payment_card`, `threat`, ….
        category: String,
        /// The listed term; for a redaction the placeholder, never what was removed.
        term: String,
        /// Start in the redacted text, in Unicode scalar values.
        start: usize,
        /// End in the redacted text, in Unicode scalar values, exclusive.
        end: usize,
        /// How much it matters.
        severity: Severity,
        /// What was done.
        action: TermAction,
    },
    /// Somebody should look at the call.
    Alert {
        /// The rule that fired: `emotion`, `term`, `flag`, ….
        kind: String,
        /// How much it matters.
        severity: Severity,
        /// A sentence for people, redacted.
        message: String,
        /// The segment that caused it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        segment: Option<String>,
    },
    /// Passages that answer the customer.
    Cards {
        /// The segment they answer.
        segment: String,
        /// Best first.
        cards: Vec<Card>,
    },
    /// An answer being drafted.
    Draft(Draft),
    /// What the agent did with a draft.
    DraftJudged {
        /// The draft.
        id: String,
        /// The agent's verdict.
        verdict: Verdict,
        /// The text as used, redacted.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        text: Option<String>,
    },
    /// A supervisor's whisper to the agent.
    Note {
        /// The supervisor's user name.
        from: String,
        /// The note, redacted.
        text: String,
    },
    /// What the call was about.
    Summary {
        /// A few sentences, redacted.
        text: String,
        /// How it ended.
        disposition: String,
        /// What it touched.
        topics: Vec<String>,
    },
    /// The call ended.
    CallClosed {
        /// `hangup`, `interrupted`, ….
        reason: String,
        /// From the call's start to the end of what was said and heard.
        duration_ms: u64,
    },
}

impl Event {
    /// Returns the event's `type` as the log and the sockets write it.
    pub fn name(&self) -> &'static str {
        match self {
            Event::CallOpened { .. } => "call_opened",
            Event::Segment(_) => "segment",
            Event::Voice(_) => "voice",
            Event::Prosody { .. } => "prosody",
            Event::Emotion { .. } => "emotion",
            Event::SpeechRate { .. } => "speech_rate",
            Event::Sensitive { .. } => "sensitive",
            Event::Alert { .. } => "alert",
            Event::Cards { .. } => "cards",
            Event::Draft(_) => "draft",
            Event::DraftJudged { .. } => "draft_judged",
            Event::Note { .. } => "note",
            Event::Summary { .. } => "summary",
            Event::CallClosed { .. } => "call_closed",
        }
    }
}

/// An event with its call, number and time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The call.
    pub call: CallId,
    /// The settled number; on a tentative envelope, the last settled one's.
    pub seq: u64,
    /// When the actor made it.
    pub at: DateTime<Utc>,
    /// Whether the next one of its kind replaces it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tentative: bool,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
