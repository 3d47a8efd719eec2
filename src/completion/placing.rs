//! Where texts stand that must be included: in which open part, and at its beginning, middle or end.
//!
//! Each text is put as it is into every place that has room, the model writes around it, and the place
//! stays where it finds its own words likeliest. What stands cannot be changed by the model, so a text
//! that was placed is there in the end.

use futures_util::future::try_join_all;

use crate::completion::Completer;
use crate::completion::CompletionError;
use crate::completion::Options;
use crate::completion::canvas::Canvas;
use crate::completion::canvas::Part;
use crate::completion::canvas::Piece;
use crate::completion::chat::Prompt;
use crate::completion::writing::Update;

/// The most places that are tried for one text; those with most room count.
const MOST_PLACES: usize = 12;

/// Parts with what must be included in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// The parts.
    pub parts: Vec<Part>,
    /// Denoising passes that it took to choose the places.
    pub steps: u32,
}

/// Where in an open stretch a text is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Beginning,
    Middle,
    End,
}

impl Completer {
    /// Puts each of `texts` into an open part. They take of its tokens.
    ///
    /// # Errors
    /// When one has room nowhere, or the engine refuses or stops.
    pub async fn place(
        &self,
        prompt: &Prompt,
        parts: Vec<Part>,
        texts: &[String],
        options: &Options,
    ) -> Result<Placed, CompletionError> {
        let mut wanted: Vec<&str> =
            texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
        // A text that stands in a longer one stands there with it.
        wanted.sort_by_key(|text| std::cmp::Reverse(text.len()));
        let mut placed = Placed { parts, steps: 0 };
        for (i, text) in wanted.iter().enumerate() {
            if wanted[..i].iter().any(|longer| longer.contains(text)) {
                continue;
            }
            let layouts = self.layouts(&placed.parts, text, prompt.ids.is_empty())?;
            let tried = layouts.iter().map(|layout| self.tried(prompt, layout, options));
            let tried = if layouts.len() > 1 { try_join_all(tried).await? } else { Vec::new() };
            placed.steps += tried.iter().map(|update| update.usage.steps).sum::<u32>();
            let likelihood = |i: &usize| tried.get(*i).map_or(0.0, Update::mean_log_probability);
            // Of equal ones the first.
            let best = (0..layouts.len()).rev().max_by(|a, b| likelihood(a).total_cmp(&likelihood(b)));
            let Some(best) = best else {
                let needed = self.count(&format!(" {text}"))?;
                return Err(CompletionError::NoRoom { text: (*text).to_owned(), needed });
            };
            placed.parts.clone_from(&layouts[best]);
        }
        Ok(placed)
    }

    /// Writes around a layout, greedily.
    async fn tried(
        &self,
        prompt: &Prompt,
        parts: &[Part],
        options: &Options,
    ) -> Result<Update, CompletionError> {
        let canvas: Canvas = self.canvas(prompt, parts, options)?;
        let options = Options { sampling: None, ..options.clone() };
        let snapshot = self.generate(&canvas, &options, Vec::new())?.finish().await?;
        let written = canvas.read(&snapshot, self.reading(&[]));
        let mut update = Update { written, is_done: true, ..Update::default() };
        update.usage.steps = snapshot.steps;
        Ok(update)
    }

    /// Returns the parts with the text in each place that has room, the roomiest first.
    fn layouts(&self, parts: &[Part], text: &str, begins: bool) -> Result<Vec<Vec<Part>>, CompletionError> {
        let mut layouts: Vec<(usize, Vec<Part>)> = Vec::new();
        for (i, part) in parts.iter().enumerate() {
            let pieces = part.pieces().unwrap_or_default();
            for (j, piece) in pieces.iter().enumerate() {
                let Piece::Open(room) = piece else { continue };
                let edges = Edges { parts, i, pieces: &pieces, j, begins };
                for place in [Place::Beginning, Place::Middle, Place::End] {
                    let mut held = edges.spaced(text, place == Place::Beginning, place == Place::End);
                    if self.count(&held)? >= *room {
                        held = edges.spaced(text, true, true);
                    }
                    let Some(left) = room.checked_sub(self.count(&held)?) else { continue };
                    let before = match place {
                        Place::Beginning => 0,
                        Place::Middle => left / 2,
                        Place::End => left,
                    };
                    let layout = edges.with(before, held, left - before);
                    if !layouts.iter().any(|(_, other)| *other == layout) {
                        layouts.push((left, layout));
                    }
                }
            }
        }
        layouts.sort_by_key(|(left, _)| std::cmp::Reverse(*left));
        layouts.truncate(MOST_PLACES);
        Ok(layouts.into_iter().map(|(_, layout)| layout).collect())
    }
}

/// An open stretch and what is around it.
struct Edges<'a> {
    parts: &'a [Part],
    /// The part.
    i: usize,
    pieces: &'a [Piece],
    /// The stretch of the part.
    j: usize,
    /// Whether nothing stands before the first part.
    begins: bool,
}

impl Edges<'_> {
    /// Returns the text with the spaces that part it from what stands or is written beside it.
    fn spaced(&self, text: &str, is_first: bool, is_last: bool) -> String {
        let before = match self.i.checked_sub(1).map(|before| &self.parts[before]) {
            Some(Part::Fixed(before)) => before.chars().next_back(),
            Some(_) => None,
            None if self.begins => Some(' '),
            None => None,
        };
        let after = match self.parts.get(self.i + 1) {
            Some(Part::Fixed(after)) => after.chars().next(),
            _ => None,
        };
        let is_spaced =
            is_first && self.j == 0 && before.is_some_and(|c| c.is_whitespace() || "([{\"“‘⟨".contains(c));
        let is_apart =
            !is_last || self.j + 1 < self.pieces.len() || !after.is_some_and(char::is_alphanumeric);
        format!("{}{text}{}", if is_spaced { "" } else { " " }, if is_apart { "" } else { " " })
    }

    /// Returns the parts with `held` in the stretch, between so many open tokens.
    fn with(&self, before: usize, held: String, after: usize) -> Vec<Part> {
        let mut pieces = self.pieces[..self.j].to_vec();
        pieces.extend((before > 0).then_some(Piece::Open(before)));
        pieces.push(Piece::Held(held));
        pieces.extend((after > 0).then_some(Piece::Open(after)));
        pieces.extend_from_slice(&self.pieces[self.j + 1..]);
        let mut parts = self.parts.to_vec();
        parts[self.i] = Part::Cut(pieces);
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[Part], i: usize, j: usize, is_first: bool, is_last: bool, expected: &str) {
        let pieces = parts[i].pieces().expect("is open");
        let edges = Edges { parts, i, pieces: &pieces, j, begins: true };
        assert_eq!(edges.spaced("x y", is_first, is_last), expected);
    }

    #[test]
    fn spaces_part_a_text_from_what_is_beside_it() {
        let fixed = |text: &str| Part::Fixed(text.into());
        let parts = [fixed("dear "), Part::Open(4), fixed("you, "), Part::Open(4), fixed(".")];
        check(&parts, 1, 0, true, false, "x y");
        check(&parts, 1, 0, false, false, " x y");
        check(&parts, 1, 0, true, true, "x y ");
        check(&parts, 3, 0, false, true, " x y");
        check(&[Part::Open(4)], 0, 0, true, true, "x y");
        check(&[fixed("a"), Part::Open(4)], 1, 0, true, false, " x y");
        let cut = Part::Cut(vec![Piece::Open(2), Piece::Held(" z".into()), Piece::Open(2)]);
        check(&[fixed("a "), cut.clone(), fixed("b")], 1, 0, true, true, "x y");
        check(&[fixed("a "), cut, fixed("b")], 1, 2, true, true, " x y ");
    }

    #[test]
    fn a_text_cuts_the_stretch_it_stands_in() {
        let parts = [Part::Fixed("a ".into()), Part::Open(5)];
        let edges = Edges { parts: &parts, i: 1, pieces: &[Piece::Open(5)], j: 0, begins: true };
        let held = || Piece::Held(" x".into());
        let cut = |before, after| edges.with(before, " x".into(), after)[1].clone();
        assert_eq!(cut(2, 2), Part::Cut(vec![Piece::Open(2), held(), Piece::Open(2)]));
        assert_eq!(cut(0, 4), Part::Cut(vec![held(), Piece::Open(4)]));
        assert_eq!(cut(0, 0), Part::Cut(vec![held()]));
    }
}
