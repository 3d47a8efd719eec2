//! One text being judged: its tokens, numbers and cues, the memory of the call, and the findings.

use std::ops::Range;

use super::Category;
use super::Spoken;
use super::address;
use super::cue;
use super::cue::Cue;
use super::cue::CueAt;
use super::date;
use super::email;
use super::iban;
use super::judge;
use super::memory::Heard;
use super::memory::Memory;
use super::memory::Open;
use super::memory::Trace;
use super::name;
use super::number;
use super::number::Run;
use super::password;
use super::token;
use super::token::Kind;
use super::token::Token;
use crate::event::Speaker;

/// How a text is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// A segment that will not change; the next one may go on with its number.
    Final,
    /// A segment that will change.
    Partial,
    /// A text that stands alone.
    Written,
}

/// A secret and where it stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finding {
    /// First token.
    pub first: usize,
    /// Last token, inclusive.
    pub last: usize,
    /// What it is.
    pub category: Category,
}

/// What was found in a text.
#[derive(Default)]
pub(super) struct Outcome {
    /// The secrets, in no order.
    pub findings: Vec<Finding>,
    /// For each token whether a finding or a harmless date holds it.
    pub taken: Vec<bool>,
    /// The number that goes on.
    pub open: Option<Open>,
    /// The token after which it goes on.
    pub open_last: Option<usize>,
    /// Numbers hidden.
    pub hidden: Vec<(Category, String)>,
    /// Numbers shown.
    pub shown: Vec<String>,
}

impl Outcome {
    /// Adds a finding and takes its tokens.
    pub fn add(&mut self, first: usize, last: usize, category: Category) {
        self.take(first, last);
        self.findings.push(Finding { first, last, category });
    }

    /// Takes tokens, so that later finders leave them alone.
    pub fn take(&mut self, first: usize, last: usize) {
        self.taken[first..=last].fill(true);
    }

    /// Returns whether any token of the stretch is taken.
    pub fn is_taken(&self, first: usize, last: usize) -> bool {
        self.taken[first..=last].iter().any(|&taken| taken)
    }
}

/// One text and all that helps to judge it.
pub(super) struct Scene<'a> {
    /// The text as given.
    pub spoken: Spoken<'a>,
    /// The call so far.
    pub memory: &'a Memory,
    /// How it is judged.
    pub mode: Mode,
    /// The text in tokens.
    pub tokens: Vec<Token>,
    /// Its numbers.
    pub runs: Vec<Run>,
    /// Its cues.
    pub cues: Vec<CueAt>,
}

impl<'a> Scene<'a> {
    /// Reads a text.
    pub fn new(spoken: Spoken<'a>, memory: &'a Memory, mode: Mode) -> Scene<'a> {
        let tokens = token::tokenize(spoken.text);
        let runs = number::find_runs(&tokens);
        let cues = cue::find_cues(&tokens);
        Scene { spoken, memory, mode, tokens, runs, cues }
    }

    /// Finds the secrets. Finders that are surer come first; each leaves alone what is taken.
    pub fn judge(&self) -> Outcome {
        let mut outcome = Outcome { taken: vec![false; self.tokens.len()], ..Outcome::default() };
        for (at, token) in self.tokens.iter().enumerate() {
            outcome.taken[at] = matches!(token.kind, Kind::Placeholder(_));
        }
        email::find(self, &mut outcome);
        iban::find(self, &mut outcome);
        judge::find_cards(self, &mut outcome);
        date::find(self, &mut outcome);
        address::find(self, &mut outcome);
        password::find(self, &mut outcome);
        judge::find_numbers(self, &mut outcome);
        name::find(self, &mut outcome);
        outcome
    }

    /// Returns where the findings stand in the text, in order, those that touch joined.
    pub fn byte_ranges(&self, findings: &[Finding]) -> Vec<(Range<usize>, Category)> {
        let mut sorted = findings.to_vec();
        sorted.sort_by_key(|finding| (finding.first, finding.last));
        let mut ranges: Vec<(Range<usize>, Category)> = Vec::new();
        for finding in sorted {
            let range = self.tokens[finding.first].start..self.tokens[finding.last].end;
            match ranges.last_mut() {
                Some((last, _)) if range.start < last.end => last.end = last.end.max(range.end),
                Some((last, category))
                    if *category == finding.category && self.is_blank(last.end, range.start) =>
                {
                    last.end = range.end;
                }
                _ => ranges.push((range, finding.category)),
            }
        }
        ranges
    }

    fn is_blank(&self, from: usize, to: usize) -> bool {
        self.spoken.text[from..to].chars().all(|character| character.is_whitespace() || character == ',')
    }

    /// Returns what the call's memory should keep of this text.
    pub fn trace(&self, outcome: Outcome) -> Trace {
        let mut found: Vec<Category> = outcome.findings.iter().map(|finding| finding.category).collect();
        // A stored segment given again after a restart has placeholders instead of secrets.
        let placeholders = self.tokens.iter().filter_map(|token| match token.kind {
            Kind::Placeholder(category) => Some(category),
            _ => None,
        });
        found.extend(placeholders);
        Trace {
            heard: Heard {
                speaker: self.spoken.speaker,
                cues: self.cues.iter().map(|cue| cue.cue).collect(),
                found,
            },
            names: name::parts(self, &outcome.findings),
            open: outcome.open,
            hidden: outcome.hidden,
            shown: outcome.shown,
        }
    }

    /// Returns whether one of `cues` stands in the text within `reach` tokens before token `at`.
    pub fn has_cue_before(&self, at: usize, cues: &[Cue], reach: usize) -> bool {
        self.cues_before(at, reach).any(|cue| cues.contains(&cue.cue))
    }

    /// Returns the cues within `reach` tokens before token `at`, the nearest first.
    pub fn cues_before(&self, at: usize, reach: usize) -> impl Iterator<Item = &CueAt> {
        let end = self.cues.partition_point(|cue| cue.last < at);
        self.cues[..end].iter().rev().take_while(move |cue| cue.last + reach >= at)
    }

    /// Returns whether one of the last `segments` spoke of one of `cues`.
    pub fn was_asked(&self, cues: &[Cue], segments: usize) -> bool {
        self.memory.heard_any(cues, segments)
    }

    /// Returns whether the customer speaks.
    pub fn is_customer(&self) -> bool {
        self.spoken.speaker == Speaker::Customer
    }

    /// Returns whether only marks and noises stand in the tokens from `from` to before `to`.
    pub fn is_pause(&self, from: usize, to: usize) -> bool {
        self.tokens[from..to].iter().all(|token| token.kind == Kind::Mark || number::is_filler(&token.lower))
    }

    /// Returns whether at most `words` words follow token `last`.
    pub fn ends_within(&self, last: usize, words: usize) -> bool {
        let after = self.tokens[last + 1..].iter().filter(|token| token.kind != Kind::Mark);
        after.take(words + 1).count() <= words
    }

    /// Returns the lower-case text of token `at`, empty outside.
    pub fn word(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.lower.as_str())
    }
}
