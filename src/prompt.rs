//! The textual forms of every task the model knows: what training writes is what serving asks.
//!
//! Control tokens stand between texts as [`Piece::Control`], never as characters, so a customer
//! who says "<|end|>" says just that.
//!
//! ```text
//! transcript   <|customer|> text <|agent|> text … <|end|>
//! emotion      recent turns <|emotion|> <|worried|> <|end|>
//! reply        <|card|> title: text <|card|> … recent turns <|reply|> answer <|end|>
//! summary      turns <|summary|> text <|disposition|> text <|end|>
//! relevance    recent turns <|card|> title: text <|relevant|> <|yes|> <|end|>
//! ```

use crate::engine::tokenizer::Tokenizer;
use crate::engine::tokenizer::TokenizerError;
use crate::event::Emotion;
use crate::event::Speaker;

/// What the agent wants of an answer stands among the cards, under this title.
pub const INSTRUCTION_TITLE: &str = "Instruction";
/// How many turns the emotion is read from.
pub const EMOTION_TURNS: usize = 4;
/// How many turns a reply is written from.
pub const REPLY_TURNS: usize = 5;
/// How many turns a card's relevance is judged from.
pub const RELEVANCE_TURNS: usize = 5;
/// How many turns a summary is written from.
pub const SUMMARY_TURNS: usize = 14;
/// How many characters of a turn are kept in a prompt.
const TURN_MAX_CHARS: usize = 600;
/// How many characters of a card are kept in a prompt.
const CARD_MAX_CHARS: usize = 700;

/// One turn of a conversation, redacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// Who spoke.
    pub speaker: Speaker,
    /// What was said.
    pub text: String,
}

/// A token that steers the model and never stands for text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Not denoised yet.
    Mask,
    /// End of the text.
    End,
    /// Fills the last block.
    Pad,
    /// A customer's turn follows.
    Customer,
    /// An agent's turn follows.
    Agent,
    /// A knowledge card follows.
    Card,
    /// The next token is the customer's emotion.
    Emotion,
    /// The agent's answer follows.
    Reply,
    /// A summary follows.
    Summary,
    /// How the call ended follows.
    Disposition,
    /// A label of the emotion slot.
    Label(Emotion),
    /// The next token says whether the card before it answers the customer.
    Relevant,
    /// It does.
    Yes,
    /// It does not.
    No,
}

impl Control {
    /// All control tokens in the order of their ids, from 0, in a vocabulary that is made anew.
    pub const ALL: [Control; 20] = [
        Control::Mask,
        Control::End,
        Control::Pad,
        Control::Customer,
        Control::Agent,
        Control::Card,
        Control::Emotion,
        Control::Reply,
        Control::Summary,
        Control::Disposition,
        Control::Label(Emotion::Neutral),
        Control::Label(Emotion::Satisfied),
        Control::Label(Emotion::Confused),
        Control::Label(Emotion::Worried),
        Control::Label(Emotion::Sad),
        Control::Label(Emotion::Frustrated),
        Control::Label(Emotion::Angry),
        Control::Relevant,
        Control::Yes,
        Control::No,
    ];

    /// Returns the token as the vocabulary writes it.
    pub fn token(self) -> &'static str {
        match self {
            Control::Mask => "<|mask|>",
            Control::End => "<|end|>",
            Control::Pad => "<|pad|>",
            Control::Customer => "<|customer|>",
            Control::Agent => "<|agent|>",
            Control::Card => "<|card|>",
            Control::Emotion => "<|emotion|>",
            Control::Reply => "<|reply|>",
            Control::Summary => "<|summary|>",
            Control::Disposition => "<|disposition|>",
            Control::Label(Emotion::Neutral) => "<|neutral|>",
            Control::Label(Emotion::Satisfied) => "<|satisfied|>",
            Control::Label(Emotion::Confused) => "<|confused|>",
            Control::Label(Emotion::Worried) => "<|worried|>",
            Control::Label(Emotion::Sad) => "<|sad|>",
            Control::Label(Emotion::Frustrated) => "<|frustrated|>",
            Control::Label(Emotion::Angry) => "<|angry|>",
            Control::Relevant => "<|relevant|>",
            Control::Yes => "<|yes|>",
            Control::No => "<|no|>",
        }
    }
}

/// A stretch of a prompt: a control token, or plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// One control token.
    Control(Control),
    /// Text, whatever characters it holds.
    Text(String),
}

/// Appends the last `limit` turns.
pub fn turns(pieces: &mut Vec<Piece>, turns: &[Turn], limit: usize) {
    for turn in &turns[turns.len().saturating_sub(limit)..] {
        pieces.push(Piece::Control(match turn.speaker {
            Speaker::Customer => Control::Customer,
            Speaker::Agent => Control::Agent,
        }));
        pieces.push(Piece::Text(format!(" {}", shortened(&turn.text, TURN_MAX_CHARS))));
    }
}

/// Appends one card.
pub fn card(pieces: &mut Vec<Piece>, title: &str, passage: &str) {
    pieces.push(Piece::Control(Control::Card));
    let text = passage.split_whitespace().collect::<Vec<_>>().join(" ");
    pieces.push(Piece::Text(format!(" {title}: {}", shortened(&text, CARD_MAX_CHARS))));
}

/// Returns the prompt whose next token is the customer's emotion.
pub fn emotion(recent: &[Turn]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    turns(&mut pieces, recent, EMOTION_TURNS);
    pieces.push(Piece::Control(Control::Emotion));
    pieces
}

/// Returns the prompt that the agent's answer follows; cards are `(title, passage)`, best first.
pub fn reply(cards: &[(&str, &str)], recent: &[Turn]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (title, passage) in cards {
        card(&mut pieces, title, passage);
    }
    turns(&mut pieces, recent, REPLY_TURNS);
    pieces.push(Piece::Control(Control::Reply));
    pieces
}

/// Returns the prompt whose next token says whether a card, or a sentence of it, answers the customer's last
/// turn. The turns come first: for many cards they are the same.
pub fn relevance(recent: &[Turn], title: &str, passage: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    turns(&mut pieces, recent, RELEVANCE_TURNS);
    card(&mut pieces, title, passage);
    pieces.push(Piece::Control(Control::Relevant));
    pieces
}

/// Returns the prompt that a call's summary follows, and then how the call ended.
pub fn summary(recent: &[Turn]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    turns(&mut pieces, recent, SUMMARY_TURNS);
    pieces.push(Piece::Control(Control::Summary));
    pieces
}

/// Returns a disposition as the model writes it.
pub fn disposition(name: &str) -> String {
    format!(" {}", name.replace('_', " "))
}

/// Returns the token ids of pieces.
///
/// # Errors
/// When the tokenizer has no token for a control.
pub fn encode(pieces: &[Piece], tokenizer: &Tokenizer) -> Result<Vec<u32>, TokenizerError> {
    let mut ids = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(text) => tokenizer.encode(text, &mut ids)?,
            Piece::Control(control) => ids.push(tokenizer.control(control.token())?),
        }
    }
    Ok(ids)
}

fn shortened(text: &str, limit: usize) -> &str {
    match text.char_indices().nth(limit) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_asked_for_after_the_last_turns() {
        let turn = |n: usize| Turn { speaker: Speaker::Agent, text: format!("{n}") };
        let pieces = summary(&(0..20).map(turn).collect::<Vec<_>>());
        assert_eq!(pieces.len(), 2 * SUMMARY_TURNS + 1);
        assert_eq!(pieces[1], Piece::Text(" 6".to_owned()));
        assert_eq!(pieces.last(), Some(&Piece::Control(Control::Summary)));
        assert_eq!(disposition("refund_sent"), " refund sent");
    }
}
