//! What goes back to Genesys in `event` messages: transcripts of segments, and articles for the agent.
//!
//! Takes segments and cards, gives entities as JSON, each small enough for a message of its own.

use serde::Serialize;
use sha2::Digest;
use sha2::Sha256;

use super::message::TEXT_MAX_CHARS;
use super::message::duration_text;
use crate::event::Card;
use crate::event::Segment;
use crate::event::Speaker;
use crate::event::Word;

/// The most bytes of an entity: what a message may have, less the envelope. Counted in bytes, which are
/// never fewer than the characters that the protocol counts.
const ENTITY_MAX_BYTES: usize = TEXT_MAX_CHARS - 1024;
/// The longest token, in characters: longer words are several tokens.
const TOKEN_MAX_CHARS: usize = 1000;
/// The longest title and document address, in characters.
const TITLE_MAX_CHARS: usize = 500;
/// The most characters of a passage that is shortened: six bytes each, as `\u0000`, still fit.
const EXCERPT_MAX_CHARS: usize = 8000;

/// One entity of an `event` message.
#[derive(Debug, Serialize)]
pub(super) struct Entity<D: Serialize> {
    #[serde(rename = "type")]
    kind: &'static str,
    data: D,
}

/// A stretch of speech, as the protocol has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Transcript<'a> {
    id: String,
    channel_id: u8,
    is_final: bool,
    offset: String,
    duration: String,
    alternatives: [Alternative<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Alternative<'a> {
    confidence: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    languages: Option<[&'a str; 1]>,
    interpretations: [Interpretation<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Interpretation<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    transcript: &'a str,
    tokens: Vec<Token<'a>>,
}

#[derive(Debug, Serialize)]
struct Token<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    value: &'a str,
    confidence: f32,
    offset: String,
    duration: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'a str>,
}

/// A word with its times in microseconds.
#[derive(Debug, Clone, Copy)]
struct Timed<'a> {
    text: &'a str,
    start_us: u64,
    end_us: u64,
    confidence: f32,
}

/// Where nobody says how sure the recognition was: the protocol wants a number.
const CONFIDENCE: f32 = 1.0;

/// Returns a segment's transcript entities, one unless it is too long for a message.
///
/// A long final segment becomes several, its text and words in order and nothing left out; of a long
/// partial one only the first part is told, since the next partial replaces it.
pub(super) fn transcripts<'a>(
    conversation: &str,
    language: Option<&'a str>,
    segment: &'a Segment,
    words: Option<&'a [Word]>,
) -> Vec<Entity<Transcript<'a>>> {
    let pieces = pieces_of(&segment.text);
    let tokens = timed(segment, words);
    let steps = pieces.len().max(tokens.len()).max(1);
    let mut parts = 1;
    loop {
        let entities: Vec<_> = (0..parts)
            .map(|part| {
                let text = share(&pieces, part, parts);
                let text = match (text.first(), text.last()) {
                    (Some(first), Some(last)) => segment.text[first.start..last.end].trim_end(),
                    _ => "",
                };
                let tokens = share(&tokens, part, parts);
                let id = utterance_id(conversation, &segment.id, part);
                transcript(id, language, segment, text, tokens, parts)
            })
            .collect();
        // A part has one piece and one token at last, which always fit.
        if parts >= steps || entities.iter().all(|entity| bytes_of(entity) <= ENTITY_MAX_BYTES) {
            let told = if segment.is_final { parts } else { 1 };
            return entities.into_iter().take(told).collect();
        }
        let bytes: usize = entities.iter().map(bytes_of).sum();
        parts = (parts + 1 + parts / 8).max(bytes.div_ceil(ENTITY_MAX_BYTES)).min(steps);
    }
}

fn transcript<'a>(
    id: String,
    language: Option<&'a str>,
    segment: &Segment,
    text: &'a str,
    tokens: &[Timed<'a>],
    parts: usize,
) -> Entity<Transcript<'a>> {
    let (mut start_us, mut end_us) =
        (segment.start_ms.saturating_mul(1000), segment.end_ms.saturating_mul(1000));
    if let (true, Some(first), Some(last)) = (parts > 1, tokens.first(), tokens.last()) {
        (start_us, end_us) = (first.start_us, last.end_us);
    }
    let sum: f32 = tokens.iter().map(|token| token.confidence).sum();
    let mean = if tokens.is_empty() { CONFIDENCE } else { sum / tokens.len() as f32 };
    let tokens = tokens.iter().map(|token| Token {
        kind: "word",
        value: token.text,
        confidence: token.confidence,
        offset: duration_text(token.start_us),
        duration: duration_text(token.end_us.saturating_sub(token.start_us)),
        language,
    });
    let interpretation = Interpretation { kind: "display", transcript: text, tokens: tokens.collect() };
    Entity {
        kind: "transcript",
        data: Transcript {
            id,
            channel_id: match segment.speaker {
                Speaker::Customer => 0,
                Speaker::Agent => 1,
            },
            is_final: segment.is_final,
            offset: duration_text(start_us),
            duration: duration_text(end_us.saturating_sub(start_us)),
            alternatives: [Alternative {
                confidence: mean,
                languages: language.map(|language| [language]),
                interpretations: [interpretation],
            }],
        },
    }
}

/// Returns the part-th of so many nearly equal shares.
fn share<T>(all: &[T], part: usize, parts: usize) -> &[T] {
    &all[all.len() * part / parts..all.len() * (part + 1) / parts]
}

/// Returns where a text's words lie, each with the space behind it, long ones cut.
fn pieces_of(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut pieces = Vec::new();
    let (mut start, mut chars, mut in_space) = (0, 0, false);
    for (at, char) in text.char_indices() {
        let begins_word = in_space && !char.is_whitespace();
        if at > start && (begins_word || chars == TOKEN_MAX_CHARS) {
            pieces.push(start..at);
            (start, chars) = (at, 0);
        }
        chars += 1;
        in_space = char.is_whitespace();
    }
    if start < text.len() {
        pieces.push(start..text.len());
    }
    pieces
}

/// Returns a segment's tokens with strictly rising starts: the given words, or the text's own spread evenly.
fn timed<'a>(segment: &'a Segment, words: Option<&'a [Word]>) -> Vec<Timed<'a>> {
    let mut tokens = Vec::new();
    match words {
        Some(words) if !words.is_empty() => {
            for word in words {
                let from = tokens.len();
                spread(&word.text, word.start_ms, word.end_ms, &mut tokens);
                let confidence = word.confidence.unwrap_or(CONFIDENCE);
                tokens[from..].iter_mut().for_each(|token| token.confidence = confidence);
            }
        }
        _ => spread(&segment.text, segment.start_ms, segment.end_ms, &mut tokens),
    }
    let mut least_us = 0;
    for token in &mut tokens {
        token.start_us = token.start_us.max(least_us);
        token.end_us = token.end_us.max(token.start_us);
        least_us = token.start_us.saturating_add(1);
    }
    tokens
}

/// Adds the words of a text, each with the same share of its time.
fn spread<'a>(text: &'a str, start_ms: u64, end_ms: u64, tokens: &mut Vec<Timed<'a>>) {
    let pieces: Vec<&str> = pieces_of(text)
        .into_iter()
        .map(|piece| text[piece].trim())
        .filter(|piece| !piece.is_empty())
        .collect();
    let start_us = start_ms.saturating_mul(1000);
    let whole_us = u128::from(end_ms.saturating_mul(1000).saturating_sub(start_us));
    let count = pieces.len() as u128;
    // A share of a u64 is a u64.
    let at = |index: usize| start_us.saturating_add((whole_us * index as u128 / count) as u64);
    tokens.extend(pieces.iter().enumerate().map(|(index, &text)| Timed {
        text,
        start_us: at(index),
        end_us: at(index + 1),
        confidence: CONFIDENCE,
    }));
}

/// Passages for the agent, as the protocol has them.
#[derive(Debug, Serialize)]
pub(super) struct AgentAssist {
    id: String,
    suggestions: Vec<Article>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Article {
    #[serde(rename = "type")]
    kind: &'static str,
    id: String,
    confidence: f32,
    title: String,
    excerpts: [String; 1],
    document_uri: String,
    metadata: ArticleMetadata,
}

#[derive(Debug, Serialize)]
struct ArticleMetadata {
    base: String,
    version: String,
}

/// Returns the cards as articles in as many entities as it takes; passages that are too long are shortened.
///
/// Scores have no upper end, so an article's confidence is its share of the best card's score.
pub(super) fn articles(conversation: &str, sequence: u64, cards: &[Card]) -> Vec<Entity<AgentAssist>> {
    let best = cards.iter().map(|card| card.score).fold(0.0, f32::max);
    let mut lists: Vec<(usize, Vec<Article>)> = Vec::new();
    for card in cards {
        let article = article(conversation, card, best);
        let bytes = bytes_of(&article) + 1;
        match lists.last_mut() {
            Some((used, list)) if *used + bytes <= ENTITY_MAX_BYTES - 1024 => {
                *used += bytes;
                list.push(article);
            }
            _ => lists.push((bytes, vec![article])),
        }
    }
    let entity = |(index, (_, suggestions)): (usize, (usize, Vec<Article>))| Entity {
        kind: "agentassist",
        data: AgentAssist {
            id: uuid(&[conversation, "cards", &sequence.to_string(), &index.to_string()]),
            suggestions,
        },
    };
    lists.into_iter().enumerate().map(entity).collect()
}

fn article(conversation: &str, card: &Card, best: f32) -> Article {
    let confidence = if best > 0.0 && best.is_finite() { (card.score / best).clamp(0.0, 1.0) } else { 1.0 };
    let version = card.version.to_string();
    Article {
        kind: "article",
        id: uuid(&[conversation, "card", &card.base, &version, &card.id]),
        confidence: if confidence.is_finite() { confidence } else { 0.0 },
        title: shortened(&card.title, TITLE_MAX_CHARS),
        excerpts: [shortened(&card.passage, EXCERPT_MAX_CHARS)],
        document_uri: format!("/knowledge/{}/{}", path_segment(&card.base), path_segment(&card.article)),
        metadata: ArticleMetadata { base: shortened(&card.base, TITLE_MAX_CHARS), version },
    }
}

/// Returns the text with at most so many characters, the last one an ellipsis where something is missing.
pub(super) fn shortened(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Escapes what cannot stand in a path (RFC 3986, section 2.3); what is longer than a name may be is cut.
fn path_segment(name: &str) -> String {
    let mut segment = String::new();
    for byte in name.bytes().take(TITLE_MAX_CHARS) {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}

/// Returns the utterance id of a segment's part: always the same for the same call, segment and part.
pub(super) fn utterance_id(conversation: &str, segment: &str, part: usize) -> String {
    uuid(&[conversation, "segment", segment, &part.to_string()])
}

/// Returns a name in the form of a version 5 UUID (RFC 9562, section 5.5), from SHA-256 instead of SHA-1.
fn uuid(names: &[&str]) -> String {
    let mut hash = Sha256::new();
    for name in names {
        // With the length before it, no two lists of names give the same bytes.
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name.as_bytes());
    }
    let hash = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x50;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex::encode(bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn bytes_of(value: &impl Serialize) -> usize {
    serde_json::to_vec(value).expect("texts, numbers and lists of them are always JSON").len()
}
