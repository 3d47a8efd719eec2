//! Decides what numbers are: cards that prove themselves first, then every other run by what was
//! hidden or shown before, by what it continues, by the words that name it, and by its shape.

use super::Category;
use super::check;
use super::cue::Cue;
use super::date;
use super::memory::Open;
use super::number::Form;
use super::number::Piece;
use super::number::Run;
use super::number::is_filler;
use super::scene::Mode;
use super::scene::Outcome;
use super::scene::Scene;
use super::token::Kind;

/// How far before a number a word still names it, in tokens.
const CUE_REACH: usize = 14;
/// How far a number may be from its continuation in one segment, in tokens.
const GAP_REACH: usize = 12;
/// Longer numbers are not remembered: nobody repeats them.
const MAX_REMEMBERED_DIGITS: usize = 40;

/// What a number turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It goes.
    Secret(Category),
    /// It stays, and may be repeated.
    Shown,
    /// It stays.
    Nothing,
}

/// Finds cards that pass the Luhn check, over fillers, interruptions and the segment's beginning.
pub(super) fn find_cards(scene: &Scene<'_>, outcome: &mut Outcome) {
    let may_be = |run: &&Run| !run.has_suffix && (!run.is_quantity || run.len() >= 13);
    let pieces: Vec<&Piece> = scene.runs.iter().filter(may_be).flat_map(|run| &run.pieces).collect();
    let mut at = 0;
    while at < pieces.len() {
        let Some(last) = card_from(scene, outcome, &pieces, at) else {
            at += 1;
            continue;
        };
        let digits: String = pieces[at..=last].iter().map(|piece| piece.digits.as_str()).collect();
        let mut from = pieces[at].first;
        for pair in pieces[at..=last].windows(2) {
            if !scene.is_pause(pair[0].last + 1, pair[1].first) {
                outcome.add(from, pair[0].last, Category::PaymentCard);
                from = pair[1].first;
            }
        }
        outcome.add(from, pieces[last].last, Category::PaymentCard);
        outcome.hidden.push((Category::PaymentCard, digits));
        at = last + 1;
    }
}

/// Returns the last piece of a card that begins with piece `first`.
fn card_from(scene: &Scene<'_>, outcome: &Outcome, pieces: &[&Piece], first: usize) -> Option<usize> {
    const MAX_PIECES: usize = 24;
    let mut digits = String::new();
    let mut card = None;
    for (at, piece) in pieces.iter().enumerate().skip(first).take(MAX_PIECES) {
        let gap_from = if at == first { piece.first } else { pieces[at - 1].last + 1 };
        let is_far = piece.first - gap_from > GAP_REACH;
        if is_far || piece.form == Form::Scaled || outcome.is_taken(piece.first, piece.last) {
            break;
        }
        // An amount said between two parts of a card is stepped over by the other rules.
        digits.push_str(&piece.digits);
        if digits.len() > 19 || !check::may_begin_card(&digits) {
            break;
        }
        // A longer match is preferred up to the usual sixteen digits.
        if check::is_card(&digits) && (card.is_none() || digits.len() <= 16) {
            card = Some(at);
        }
    }
    let last = card?;
    // Over a gap, whole numbers are joined, never parts of them.
    let (from, to) = (pieces[first].first, pieces[last].last);
    let begin = scene.runs.partition_point(|run| run.last() < from);
    let end = scene.runs.partition_point(|run| run.last() < to);
    let joined = &scene.runs[begin..=end];
    let are_whole = joined[0].first() == from && joined[joined.len() - 1].last() == to;
    let are_bare = joined.iter().all(|run| run.letters.is_empty());
    let is_spelled = pieces[first..=last].iter().all(|piece| piece.form != Form::Compound);
    (joined.len() == 1 || (is_spelled && are_whole && are_bare)).then_some(last)
}

/// Decides every run that no finder has taken, in order.
pub(super) fn find_numbers(scene: &Scene<'_>, outcome: &mut Outcome) {
    let before = || scene.memory.open(scene.spoken.speaker, scene.spoken.start_ms);
    let open = match (outcome.open_last, scene.mode) {
        (Some(_), _) => outcome.open.take(),
        (None, Mode::Written) => None,
        (None, Mode::Final | Mode::Partial) => before(),
    };
    let mut judge = Judge { scene, open, open_last: outcome.open_last };
    for run in &scene.runs {
        judge.decide(run, outcome);
    }
    judge.see_placeholder_at_the_end();
    outcome.open = judge.open.filter(|_| scene.mode == Mode::Final);
}

/// Goes through the runs of one text.
struct Judge<'a> {
    scene: &'a Scene<'a>,
    /// The number that may go on.
    open: Option<Open>,
    /// Where in this text it stopped; `None` when in an earlier segment.
    open_last: Option<usize>,
}

impl Judge<'_> {
    fn decide(&mut self, run: &Run, outcome: &mut Outcome) {
        let (first, last) = (run.first(), run.last());
        if outcome.is_taken(first, last) {
            self.pass_taken(run, outcome);
            return;
        }
        match self.verdict(run, outcome) {
            Verdict::Secret(category) => {
                let from = if category == Category::Iban { self.first_letter(run) } else { first };
                let opens = first > 0 && self.scene.tokens[first - 1].is_mark('(');
                let closes = (first..last).any(|at| self.scene.tokens[at].is_mark(')'));
                let from =
                    if from == first && (run.has_plus || (opens && closes)) { first - 1 } else { from };
                let to = if run.has_suffix { last + 1 } else { last };
                outcome.add(from, to, category);
                self.go_on(run, category, outcome);
            }
            Verdict::Shown => {
                if run.len() >= 3 && run.len() <= MAX_REMEMBERED_DIGITS {
                    outcome.shown.push(run.digits.clone());
                }
                if run.len() >= 3 {
                    self.open = None;
                }
            }
            Verdict::Nothing => {}
        }
    }

    /// Treats a run that another finder took, wholly or in part: what is left of it goes too.
    fn pass_taken(&mut self, run: &Run, outcome: &mut Outcome) {
        let is_card = |at: usize, outcome: &Outcome| {
            let holds = |f: &super::scene::Finding| {
                f.first <= at && at <= f.last && matches!(f.category, Category::PaymentCard | Category::Iban)
            };
            outcome.findings.iter().rev().take(32).find(|f| holds(f)).map(|f| f.category)
        };
        let Some(category) = run.pieces.iter().find_map(|piece| is_card(piece.first, outcome)) else {
            return;
        };
        if category == Category::PaymentCard {
            self.open = None;
        }
        for piece in &run.pieces {
            if !outcome.is_taken(piece.first, piece.last) {
                outcome.add(piece.first, piece.last, category);
            }
        }
    }

    fn verdict(&self, run: &Run, outcome: &Outcome) -> Verdict {
        let scene = self.scene;
        if run.is_quantity && run.len() < 9 {
            return Verdict::Nothing;
        }
        if run.groups() == [3, 2, 4]
            && !run.is_spoken()
            && check::is_ssn(&run.digits)
            && run.letters.is_empty()
        {
            return Verdict::Secret(Category::Ssn);
        }
        if let Some(category) = scene.memory.hidden(&run.digits) {
            return Verdict::Secret(category);
        }
        if scene.memory.is_shown(&run.digits) {
            return Verdict::Shown;
        }
        if self.is_expiry_after_card(run, outcome) {
            return Verdict::Secret(Category::CardExpiry);
        }
        if let Some(category) = self.continued(run) {
            return Verdict::Secret(category);
        }
        if self.is_code_after_card(run, outcome) {
            return Verdict::Secret(Category::CardCode);
        }
        self.named(run).unwrap_or_else(|| self.unnamed(run))
    }

    /// Returns the category of the unfinished number that this run goes on with.
    fn continued(&self, run: &Run) -> Option<Category> {
        let open = self.open.as_ref()?;
        let from = self.open_last.map_or(0, |last| last + 1);
        let is_near = (from..=from + GAP_REACH).contains(&run.first());
        let is_alone = self.scene.tokens.len() <= 4;
        let counts = run.len() >= 2 || is_alone;
        let is_number = run.is_strong() || run.is_spelled() || run.pieces.len() >= 2 || is_alone;
        let renamed = (self.scene.cues_before(run.first(), run.first().saturating_sub(from)))
            .any(|cue| !matches!(cue.cue, Cue::Card | Cue::Iban | Cue::Bank | Cue::Account | Cue::Ending));
        // Four digits like a year may be a group of the number when little else is said.
        let is_no_year = !run.is_year() || self.scene.tokens.len() <= 6;
        let fits = open.has_room_for(run.len()) && is_no_year && run.letters.is_empty();
        (is_near && counts && is_number && !renamed && fits).then_some(open.category)
    }

    /// Returns whether the run is a month and year right after a whole card.
    fn is_expiry_after_card(&self, run: &Run, outcome: &Outcome) -> bool {
        const REACH: usize = 8;
        let from = run.first().saturating_sub(REACH);
        let card_is_done = self.open.as_ref().is_none_or(|open| open.text.len() >= 12);
        card_is_done
            && date::is_month_and_year(run)
            && self.follows(run, outcome, &[Category::PaymentCard, Category::Number], REACH)
            && self.scene.cues_before(run.first(), run.first() - from).all(|cue| cue.cue != Cue::Plain)
    }

    /// Returns whether the run is three or four digits right after a card or its expiry.
    fn is_code_after_card(&self, run: &Run, outcome: &Outcome) -> bool {
        let is_code = run.is_spelled() && matches!(run.len(), 3 | 4) && run.letters.is_empty();
        let is_named = self.scene.has_cue_before(run.first(), &[Cue::Code, Cue::CardCode], 6);
        let reach = if is_named { 14 } else { 4 };
        is_code
            && self.follows(run, outcome, &[Category::CardExpiry, Category::PaymentCard], reach)
            && self.scene.cues_before(run.first(), 4).all(|cue| cue.cue != Cue::Plain)
    }

    /// Returns whether a finding of one of the categories ends within `reach` tokens before the run.
    fn follows(&self, run: &Run, outcome: &Outcome, categories: &[Category], reach: usize) -> bool {
        outcome.findings.iter().rev().take(24).any(|finding| {
            categories.contains(&finding.category)
                && finding.last < run.first()
                && run.first() - finding.last <= reach
        })
    }

    /// Decides by the words that name the run: before it, right after it, or said just before.
    fn named(&self, run: &Run) -> Option<Verdict> {
        let scene = self.scene;
        let from = self.open_last.map_or(0, |last| last + 1);
        for cue in scene.cues_before(run.first(), CUE_REACH) {
            // A name that another number already answered to counts only close by.
            if cue.last < from && run.first() - cue.last > 6 {
                continue;
            }
            if let Some(verdict) = self.accepts(cue.cue, run, Where::Here(cue.first, cue.last)) {
                return Some(verdict);
            }
        }
        if matches!(scene.word(run.last() + 1), "is" | "was" | "for" | "as" | "that's" | "being") {
            let after = scene.cues.partition_point(|cue| cue.first <= run.last());
            if let Some(cue) = scene.cues.get(after).filter(|cue| cue.first <= run.last() + 4)
                && let Some(verdict) = self.accepts(cue.cue, run, Where::Here(cue.first, cue.last))
            {
                return Some(verdict);
            }
        }
        if scene.mode == Mode::Written {
            return None;
        }
        if !run.letters.is_empty() {
            return Some(Verdict::Shown);
        }
        for (age, heard) in scene.memory.heard().take(5).enumerate() {
            for &cue in heard.cues.iter().rev() {
                let place = if age < 2 { Where::Asked } else { Where::Earlier };
                // An agent who was not asked for a secret of the customer's tells none, but for a
                // number that the company keeps secret for the customer.
                if !scene.is_customer() && (cue != Cue::Pin || run.len() < 4) {
                    continue;
                }
                if let Some(verdict) = self.accepts(cue, run, place) {
                    return Some(verdict);
                }
            }
        }
        None
    }

    /// Returns what the run is if it is what the cue says; `None` when its shape does not fit.
    fn accepts(&self, cue: Cue, run: &Run, place: Where) -> Option<Verdict> {
        let scene = self.scene;
        let length = run.len();
        let is_here = matches!(place, Where::Here(..));
        let is_near = place != Where::Earlier;
        let ends_here = scene.ends_within(run.last(), 3);
        let secret = |category: Category, fits: bool| fits.then_some(Verdict::Secret(category));
        let is_bare = run.letters.is_empty() && !run.is_year();
        match cue {
            Cue::Card => {
                secret(Category::PaymentCard, is_bare && run.is_strong() && (is_near || length >= 8))
            }
            // "Eleven eighty three" is a code only as the whole answer.
            Cue::CardCode => {
                let is_whole = place == Where::Asked && scene.tokens.len() <= 6;
                let is_code = run.is_spelled() || is_whole;
                secret(Category::CardCode, is_bare && is_code && matches!(length, 3 | 4))
            }
            Cue::Code => {
                let near_card = scene.memory.found_any(Category::PaymentCard, 4)
                    || scene.memory.found_any(Category::CardExpiry, 4)
                    || scene.has_cue_before(run.first(), &[Cue::Card, Cue::Expiry], 24);
                if self.looks_like_phone(run) {
                    return None;
                }
                match near_card && run.is_spelled() && matches!(length, 3 | 4) {
                    true => Some(Verdict::Secret(Category::CardCode)),
                    false => is_near.then_some(Verdict::Shown),
                }
            }
            Cue::Ssn => secret(
                Category::Ssn,
                is_bare && (length == 4 || length == 9 || ((3..9).contains(&length) && is_near)),
            ),
            Cue::Iban => secret(Category::Iban, length >= 4 && !run.is_year() && run.is_strong()),
            Cue::BankAccount => {
                secret(Category::BankAccount, is_bare && run.is_strong() && length <= 17 && is_near)
            }
            Cue::Account => {
                let banks = [Cue::Bank, Cue::BankAccount, Cue::Iban];
                let is_bank = scene.cues.iter().take(64).any(|cue| banks.contains(&cue.cue))
                    || (scene.mode != Mode::Written && scene.was_asked(&banks, 4));
                match is_bank && run.is_strong() && is_bare && (4..=17).contains(&length) && is_near {
                    true => Some(Verdict::Secret(Category::BankAccount)),
                    false => (is_here && length >= 4 || is_near && length >= 5).then_some(Verdict::Shown),
                }
            }
            Cue::Phone => self.accepts_phone(run, place, ends_here),
            Cue::Pin => secret(
                Category::Pin,
                is_bare
                    && (2..=8).contains(&length)
                    && run.pieces.len() <= 8
                    && is_near
                    && (is_here || run.is_spelled()),
            ),
            Cue::Postcode => {
                secret(Category::Address, run.is_spelled() && (length == 5 || length == 9) && is_near)
            }
            Cue::Ending => is_near.then(|| self.ending(run)).flatten(),
            Cue::Plain if is_here => Some(Verdict::Shown),
            Cue::Plain if self.looks_like_phone(run) => None,
            Cue::Plain if is_near => (length >= 3).then_some(Verdict::Shown),
            // What was asked for some turns ago only speaks for numbers that are not said in fours.
            Cue::Plain => ((3..13).contains(&length) && !length.is_multiple_of(4)).then_some(Verdict::Shown),
            Cue::Expiry | Cue::Bank | Cue::Password | Cue::Birth | Cue::Address | Cue::Email | Cue::Name => {
                None
            }
        }
    }

    /// Returns whether a customer's number has the shape of a whole telephone number.
    fn looks_like_phone(&self, run: &Run) -> bool {
        self.scene.is_customer()
            && run.letters.is_empty()
            && run.is_strong()
            && check::is_phone(&run.digits, &run.groups(), run.has_plus)
    }

    fn accepts_phone(&self, run: &Run, place: Where, ends_here: bool) -> Option<Verdict> {
        if !run.letters.is_empty() || run.is_year() || run.len() > 15 || !run.is_strong() && run.len() < 3 {
            return None;
        }
        let is_long = run.len() >= 7 && run.is_strong();
        if self.scene.is_customer() {
            let is_here = matches!(place, Where::Here(..));
            let has_size = run.len() >= 4
                || (run.len() == 3 && (is_here || run.digits == "555" || run.digits.starts_with('0')));
            let is_part = run.is_spelled() && has_size && ends_here && place != Where::Earlier;
            return (is_long && place != Where::Earlier || is_part)
                .then_some(Verdict::Secret(Category::Phone));
        }
        // An agent gives out the company's lines; only "your number" is the customer's.
        let Where::Here(first, last) = place else { return None };
        let is_yours = (first..=last).any(|at| {
            matches!(
                self.scene.word(at),
                "you" | "your" | "his" | "her" | "him" | "have" | "calling" | "new" | "old"
            )
        });
        (is_yours && is_long).then_some(Verdict::Secret(Category::Phone))
    }

    /// Decides what the last digits of a number are by what else was named.
    fn ending(&self, run: &Run) -> Option<Verdict> {
        if !(3..=6).contains(&run.len()) || !run.is_spelled() {
            return None;
        }
        let whole = |cue: &Cue| match cue {
            Cue::Card => Some(Verdict::Secret(Category::PaymentCard)),
            Cue::Phone => Some(Verdict::Secret(Category::Phone)),
            Cue::Iban => Some(Verdict::Secret(Category::Iban)),
            Cue::BankAccount => Some(Verdict::Secret(Category::BankAccount)),
            Cue::Ssn => Some(Verdict::Secret(Category::Ssn)),
            Cue::Pin => Some(Verdict::Secret(Category::Pin)),
            Cue::Plain => Some(Verdict::Shown),
            _ => None,
        };
        let here = self.scene.cues_before(run.first(), CUE_REACH).find_map(|cue| whole(&cue.cue));
        let before =
            || self.scene.memory.heard().take(3).flat_map(|heard| heard.cues.iter().rev()).find_map(whole);
        let by_length = (run.len() == 4).then_some(Verdict::Secret(Category::PaymentCard));
        here.or_else(before).or(by_length)
    }

    /// Decides by the shape alone.
    fn unnamed(&self, run: &Run) -> Verdict {
        let scene = self.scene;
        let length = run.len();
        if !run.letters.is_empty() || run.has_suffix {
            return if length >= 13 { Verdict::Secret(Category::Number) } else { Verdict::Shown };
        }
        if self.looks_like_phone(run) {
            return Verdict::Secret(Category::Phone);
        }
        if (6..=9).contains(&length)
            && run.is_spelled()
            && scene.memory.found_any(Category::BankAccount, if scene.is_customer() { 4 } else { 1 })
        {
            return Verdict::Secret(Category::BankAccount);
        }
        if !scene.is_customer() && length < 13 {
            // What an agent says that is no secret of the call may be repeated by the customer.
            return if length >= 3 { Verdict::Shown } else { Verdict::Nothing };
        }
        if length >= 13 && run.is_strong() {
            return Verdict::Secret(Category::Number);
        }
        let is_last_word = scene.ends_within(run.last(), 0);
        if scene.mode == Mode::Partial && is_last_word && length >= 2 && !run.is_year() {
            return Verdict::Secret(Category::Number);
        }
        if scene.mode == Mode::Written || !scene.is_customer() || run.is_year() {
            return Verdict::Nothing;
        }
        let may_go_on =
            run.is_strong() && check::may_begin_card(&run.digits) && self.is_grouped_like_card(run);
        let pauses = scene.ends_within(run.last(), 3)
            || matches!(
                scene.word(run.last() + 1),
                "hang" | "hold" | "wait" | "one" | "sorry" | "then" | "uh" | "um"
            );
        if (length >= 9 && run.is_strong()) || (may_go_on && pauses) {
            return Verdict::Secret(Category::Number);
        }
        Verdict::Nothing
    }

    /// Returns whether the run may be the first groups of a card: spoken, or typed in fours.
    fn is_grouped_like_card(&self, run: &Run) -> bool {
        let groups = run.groups();
        run.is_spoken() || groups.iter().all(|&group| group == 4) || groups.starts_with(&[4, 6])
    }

    /// Remembers a secret number and whether it goes on.
    fn go_on(&mut self, run: &Run, category: Category, outcome: &mut Outcome) {
        let is_part = self.open.as_ref().is_some_and(|open| open.category == category);
        let mut text = match (&self.open, is_part) {
            (Some(open), true) => open.text.clone(),
            _ => String::new(),
        };
        text.push_str(&run.digits);
        if text.len() <= MAX_REMEMBERED_DIGITS && run.len() >= 3 {
            outcome.hidden.push((category, run.digits.clone()));
            if is_part {
                outcome.hidden.push((category, text.clone()));
            }
        }
        let is_whole = match category {
            Category::PaymentCard | Category::Number => check::is_card(&text) || text.len() >= 16,
            Category::Iban => text.len() >= 30,
            Category::Ssn => text.len() >= 9,
            Category::Phone => text.len() >= 10 || (text.len() == 7 && text.starts_with("555")),
            Category::BankAccount => text.len() >= 6,
            Category::Pin => text.len() >= 4,
            _ => true,
        };
        let end_ms = self.scene.spoken.end_ms;
        self.open = (!is_whole).then_some(Open { category, text, end_ms });
        self.open_last = Some(run.last());
    }

    /// Returns the first token of the letters that stand directly before a run.
    fn first_letter(&self, run: &Run) -> usize {
        let mut left = run.letters.len();
        let mut at = run.first();
        while left > 0 && at > 0 {
            at -= 1;
            left = left.saturating_sub(self.scene.tokens[at].lower.len());
        }
        at
    }

    /// Opens the number of a placeholder at the end: the redactor is being brought up to date.
    fn see_placeholder_at_the_end(&mut self) {
        let tokens = &self.scene.tokens;
        let Some(at) = tokens.iter().rposition(|token| !token.is_mark('.') && !is_filler(&token.lower))
        else {
            return;
        };
        let Kind::Placeholder(category) = tokens[at].kind else { return };
        let goes_on = Open { category, text: String::new(), end_ms: self.scene.spoken.end_ms };
        if goes_on.has_room_for(1) {
            self.open = Some(goes_on);
        }
    }
}

/// Where a cue stands in relation to a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    /// In the same text, at these tokens.
    Here(usize, usize),
    /// In one of the last two segments.
    Asked,
    /// Before that.
    Earlier,
}
