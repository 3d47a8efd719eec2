//! Puts the category of a term in the place of what was said.

use super::FoundTerm;
use crate::event::TermAction;
use crate::monitor::redact::Redacted;
use crate::monitor::redact::Span;

/// Returns what stands for a term of a category.
pub(super) fn placeholder(category: &str) -> String {
    format!("[{}]", category.replace('_', " "))
}

/// Replaces the terms whose action says so; where two overlap, both go into one placeholder.
pub(super) fn replace(redacted: Redacted, found: &mut [FoundTerm]) -> (Redacted, Vec<FoundTerm>) {
    let characters: Vec<char> = redacted.text.chars().collect();
    let mut holes: Vec<(usize, usize, String)> = Vec::new();
    for term in found.iter().filter(|term| term.action != TermAction::Alert) {
        match holes.last_mut() {
            Some((_, end, _)) if term.start < *end => *end = (*end).max(term.end),
            _ => holes.push((term.start, term.end, placeholder(&term.category))),
        }
    }
    let mut text = String::with_capacity(redacted.text.len());
    let mut from = 0;
    for (start, end, placeholder) in &holes {
        text.extend(&characters[from..*start]);
        text.push_str(placeholder);
        from = *end;
    }
    text.extend(&characters[from..]);
    for term in found.iter_mut() {
        let hole = holes.iter().find(|(start, end, _)| term.start < *end && *start < term.end);
        (term.start, term.end) = (moved(&holes, term.start, true), moved(&holes, term.end, false));
        if let Some((_, _, placeholder)) = hole {
            // What was removed must not come back as the name of the term.
            term.term = placeholder.clone();
        }
    }
    let spans = (redacted.spans.into_iter())
        .map(|span| Span {
            start: moved(&holes, span.start, true),
            end: moved(&holes, span.end, false),
            ..span
        })
        .collect();
    (Redacted { text, spans }, found.to_vec())
}

/// Returns where a place in the old text is in the new one; inside a hole, its start or its end.
fn moved(holes: &[(usize, usize, String)], place: usize, is_start: bool) -> usize {
    let mut moved = place;
    for (start, end, placeholder) in holes {
        let length = placeholder.chars().count();
        if place >= *end {
            moved = moved + length - (end - start);
        } else if place > *start {
            moved = moved - (place - start) + if is_start { 0 } else { length };
        }
    }
    moved
}
