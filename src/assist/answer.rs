//! What the assistant does in a call beside its log: searches, readings, drafts, people's wishes.
//!
//! The second half of the actor: `call` decides when something is asked for, here it is started,
//! taken when it comes, and settled. A newer question drops the older draft.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::assist::call::Actor;
use crate::assist::counters::count;
use crate::assist::draft::DraftRequest;
use crate::assist::draft::DraftUpdate;
use crate::assist::draft::EditRequest;
use crate::assist::intake::Refusal;
use crate::assist::message::Action;
use crate::assist::message::Rewrite;
use crate::assist::work::Found;
use crate::assist::work::Progress;
use crate::assist::work::Reading;
use crate::assist::work::Writing;
use crate::engine::scheduler::Claim;
use crate::engine::scheduler::OwnerId;
use crate::event::Card;
use crate::event::Draft;
use crate::event::DraftState;
use crate::event::Event;
use crate::event::Severity;
use crate::knowledge::Answers;
use crate::knowledge::Question;
use crate::knowledge::search::DRAFT_FROM;
use crate::knowledge::search::SHOW_FROM;
use crate::knowledge::search::worth;
use crate::prompt::Turn;

/// The most cards that are shown and drafted from.
const CARDS_MAX: usize = 3;
/// How many turns a search and an emotion reading see.
const TURNS_SEARCHED: usize = 8;

impl Actor {
    fn recent_turns(&self) -> Vec<Turn> {
        let Some(state) = &self.state else { return Vec::new() };
        let turns = state.turns();
        turns[turns.len().saturating_sub(TURNS_SEARCHED)..].to_vec()
    }

    /// Returns what the call's work is counted to, and how new it is.
    fn claim(&self) -> Claim {
        let turns = self.state.as_ref().map_or(0, |state| state.segments.len());
        Claim { owner: Some(OwnerId::of(&self.key)), turn: turns as u64, deadline: None }
    }

    pub(super) fn start_search(&mut self, segment: String) {
        let Some(state) = &self.state else { return };
        let tenant = self.key.tenant.clone();
        let knowledge = self.parts.knowledge.clone();
        // A base that does not exist, or not any more, must not cost the others.
        let named = &state.record.knowledge;
        let bases: Vec<String> =
            named.iter().filter(|base| knowledge.active(&tenant, base).is_some()).cloned().collect();
        if bases.is_empty() && !named.is_empty() {
            self.go_on(Progress::Found(Found { segment, answers: Answers::default() }));
            return;
        }
        let question = Question { turns: self.recent_turns(), bases, limit: CARDS_MAX };
        let searches = Arc::clone(&self.parts.searches);
        let call = self.key.call.clone();
        self.work.search(async move {
            let _permit = searches.acquire_owned().await;
            let found =
                tokio::task::spawn_blocking(move || knowledge.answers(&tenant, &question, DRAFT_FROM)).await;
            let answers = match found {
                Ok(Ok(answers)) => answers,
                Ok(Err(error)) => {
                    tracing::warn!(%call, %error, "search failed");
                    Answers::default()
                }
                Err(error) => {
                    tracing::error!(%call, %error, "search panicked");
                    Answers::default()
                }
            };
            Found { segment, answers }
        });
    }

    pub(super) fn start_reading(&mut self, segment: String) {
        let Some(reader) = self.emotions.clone() else { return };
        if !self.parts.config.emotions {
            return;
        }
        let (turns, claim) = (self.recent_turns(), self.claim());
        self.work.read(async move { Reading { segment, scores: reader.read(&turns, claim).await } });
    }

    pub(super) fn go_on(&mut self, progress: Progress) {
        match progress {
            Progress::Found(found) => self.found(found),
            Progress::Read(reading) => self.read(reading),
            Progress::Wrote(update) => self.wrote(update),
        }
    }

    /// Pushes what is new, and drafts an answer to the latest question.
    fn found(&mut self, found: Found) {
        self.show(&found.segment, worth(found.answers.cards, SHOW_FROM));
        if found.segment == self.question {
            self.answers = found.answers.sources;
            if self.parts.config.drafts && self.ending.is_none() {
                self.start_draft(None);
            }
        }
    }

    /// Pushes those of the cards that the agent does not have.
    fn show(&mut self, segment: &str, cards: Vec<Card>) {
        let Some(state) = &mut self.state else { return };
        let new = state.deck.observe(cards);
        if !new.is_empty() {
            self.parts.counters.cards.fetch_add(new.len() as u64, Relaxed);
            self.settle(Event::Cards { segment: segment.to_owned(), cards: new });
        }
    }

    fn read(&mut self, reading: Reading) {
        match reading.scores {
            Ok(scores) => {
                count(&self.parts.counters.emotions);
                for event in self.observer.emotion(reading.segment, scores) {
                    self.settle(event);
                }
            }
            Err(error) => tracing::warn!(call = %self.key.call, %error, "emotion not read"),
        }
    }

    /// Starts a draft for the latest question and returns its id.
    fn start_draft(&mut self, instruction: Option<String>) -> String {
        self.drop_draft();
        let claim = self.claim();
        let Some(state) = &mut self.state else { return String::new() };
        let id = state.next_draft_id();
        let (question, cards) = (self.question.clone(), self.answers.clone());
        let request = DraftRequest { turns: state.turns(), cards: cards.clone(), instruction, claim };
        let stream = self.drafter.draft(request);
        let is_promised = false;
        self.work.writing = Some(Writing {
            id: id.clone(),
            stream,
            question,
            cards,
            shown: None,
            original: None,
            is_promised,
        });
        id
    }

    fn start_rewrite(&mut self, rewrite: Rewrite) -> Result<String, Refusal> {
        let Some(state) = &self.state else { return Err(Refusal::NoSuchDraft(rewrite.draft)) };
        let Some(finished) = state.finished_draft(&rewrite.draft).cloned() else {
            return Err(Refusal::NoSuchDraft(rewrite.draft));
        };
        check_spans(&finished.draft.text, &rewrite.spans)?;
        let written = |texts: &[String]| texts.iter().map(|text| self.observer.written(text)).collect();
        let (must_include, forbid) = (written(&rewrite.must_include), written(&rewrite.forbid));
        let instruction = rewrite.instruction.map(|text| self.observer.written(&text));
        self.drop_draft();
        let claim = self.claim();
        let context = DraftRequest { turns: finished.turns, cards: finished.cards, instruction, claim };
        let stream = self.drafter.edit(EditRequest {
            context,
            text: finished.draft.text.clone(),
            quotes: finished.draft.quotes.clone(),
            spans: rewrite.spans,
            must_include,
            forbid,
            max_tokens: rewrite.max_tokens,
        });
        let id = rewrite.draft;
        let original = Some(finished.draft);
        self.work.writing = Some(Writing {
            id: id.clone(),
            stream,
            question: String::new(),
            cards: Vec::new(),
            shown: None,
            original,
            is_promised: true,
        });
        Ok(id)
    }

    /// Shows a draft as it stands, or settles it.
    fn wrote(&mut self, update: Option<DraftUpdate>) {
        let Some(mut writing) = self.work.writing.take() else { return };
        match update {
            Some(update) if update.state == DraftState::Writing => {
                self.outbox.tentative.push(Event::Draft(draft(&writing.id, update.clone())));
                writing.shown = Some(update);
                self.work.writing = Some(writing);
            }
            Some(update) if update.state == DraftState::Done => {
                count(&self.parts.counters.drafts_done);
                // What a draft rests on is seen with it, also where no card was shown for its own sake.
                writing.cards.retain(|card| update.cards.contains(&card.id));
                self.show(&writing.question, writing.cards);
                self.settle(Event::Draft(draft(&writing.id, update)));
            }
            Some(update) if update.state == DraftState::Dropped => {
                count(&self.parts.counters.drafts_dropped);
                self.settle(Event::Draft(draft(&writing.id, update)));
            }
            Some(update) => self.fail_draft(writing, update),
            None => self.fail_draft(writing, ending(DraftState::Failed, "the engine stopped")),
        }
    }

    /// Settles a failure. A rewrite that failed leaves the draft as it was and says why.
    fn fail_draft(&mut self, writing: Writing, update: DraftUpdate) {
        count(&self.parts.counters.drafts_failed);
        let error = update.error.clone();
        tracing::warn!(call = %self.key.call, draft = %writing.id, error = ?error, "draft failed");
        let settled = match writing.original {
            Some(original) => Draft { error, ..original },
            None => draft(&writing.id, update),
        };
        self.settle(Event::Draft(settled));
    }

    /// Cancels the draft under way; if somebody saw it or waits for it, it is settled as dropped.
    pub(super) fn drop_draft(&mut self) {
        let Some(writing) = self.work.writing.take() else { return };
        count(&self.parts.counters.drafts_dropped);
        if writing.shown.is_none() && !writing.is_promised {
            return;
        }
        let shown = writing.shown.unwrap_or_else(|| ending(DraftState::Dropped, "a newer question came"));
        let dropped = match writing.original {
            Some(original) => Draft { state: DraftState::Dropped, ..original },
            None => {
                draft(&writing.id, DraftUpdate { state: DraftState::Dropped, tentative_text: None, ..shown })
            }
        };
        self.settle(Event::Draft(dropped));
    }

    pub(super) fn act(&mut self, action: Action) -> Result<Option<String>, Refusal> {
        match action {
            Action::Draft { instruction } => {
                let instruction = instruction.map(|text| self.observer.written(&text));
                let id = self.start_draft(instruction);
                if let Some(writing) = &mut self.work.writing {
                    writing.is_promised = true;
                }
                return Ok(Some(id));
            }
            Action::Rewrite(rewrite) => return self.start_rewrite(rewrite).map(Some),
            Action::Judge { draft, verdict, text } => {
                let is_known =
                    self.state.as_ref().is_some_and(|state| state.finished_draft(&draft).is_some());
                if !is_known {
                    return Err(Refusal::NoSuchDraft(draft));
                }
                let text = text.map(|text| self.observer.written(&text));
                self.settle(Event::DraftJudged { id: draft, verdict, text });
            }
            Action::Note { from, text } => {
                let text = self.observer.written(&text);
                self.settle(Event::Note { from, text });
            }
            Action::Flag { message } => {
                let (kind, severity) = ("flag".to_owned(), Severity::Critical);
                let message = self.observer.written(&message);
                self.settle(Event::Alert { kind, severity, message, segment: None });
            }
        }
        Ok(None)
    }
}

fn check_spans(text: &str, spans: &[(usize, usize)]) -> Result<(), Refusal> {
    let length = text.chars().count();
    let mut from = 0;
    if spans.is_empty() {
        return Err(invalid_spans("name at least one".to_owned()));
    }
    for &(start, end) in spans {
        if start < from || end < start || end > length {
            let why = format!("[{start}, {end}) must be ascending, not overlap and end by {length}");
            return Err(invalid_spans(why));
        }
        from = end;
    }
    Ok(())
}

fn invalid_spans(why: String) -> Refusal {
    Refusal::InvalidField { field: "spans", why }
}

fn draft(id: &str, update: DraftUpdate) -> Draft {
    let DraftUpdate { text, tentative_text, quotes, cards, state, steps, tokens, error } = update;
    Draft { id: id.to_owned(), text, tentative_text, state, cards, quotes, steps, tokens, error }
}

fn ending(state: DraftState, why: &str) -> DraftUpdate {
    DraftUpdate {
        text: String::new(),
        tentative_text: None,
        quotes: Vec::new(),
        cards: Vec::new(),
        state,
        steps: 0,
        tokens: 0,
        error: Some(why.to_owned()),
    }
}
