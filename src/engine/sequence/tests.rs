//! Checks how sequences go from block to block, with either kind of attention.

use super::*;

fn generate() -> Generate {
    let rule = Rule::Threshold { threshold: 0.5, steps: 4 };
    Generate {
        rule,
        banned: vec![],
        banned_at: vec![],
        stops_at_end: true,
        sampling: None,
        min_passes: 0,
        ..Generate::default()
    }
}

const BLOCKS: Form = Form {
    attention: Attention::BlockCausal,
    block: 4,
    cache: CacheMode::Exact,
    logits_shift: 0,
    mask: 0,
    end_of_text: 1,
    pad: 2,
};
const FULL: Form = Form { attention: Attention::Full, ..BLOCKS };

fn sure(sequence: &Sequence, token: u32) -> Vec<Candidate> {
    let at =
        |p: &usize| Candidate { at: p - sequence.current, token, confidence: 0.9, ..Candidate::default() };
    sequence.wanted().iter().map(at).collect()
}

#[test]
fn frozen_tokens_stay_and_whole_frozen_blocks_take_no_pass() {
    let canvas = [None, Some(8), Some(8), Some(8), Some(8), Some(8), Some(8), None];
    let mut sequence = Sequence::generate(&[5, 5, 5], &canvas, BLOCKS, generate());
    assert_eq!((sequence.current, sequence.pending()), (0, 4));
    let candidates = sure(&sequence, 9);
    sequence.apply(&candidates);
    assert_eq!(sequence.current, 8, "the block of quoted tokens is skipped");
    assert_eq!(sequence.pending(), 12, "its keys and values are still to be computed");
    let candidates = sure(&sequence, 9);
    sequence.apply(&candidates);
    assert!(sequence.is_done);
    assert_eq!(sequence.canvas(), [9, 8, 8, 8, 8, 8, 8, 9]);
    assert_eq!((sequence.steps, sequence.blocks), (2, 2));
}

#[test]
fn an_end_of_text_ends_the_sequence_after_its_block() {
    let mut sequence = Sequence::generate(&[5], &[None; 11], BLOCKS, generate());
    let candidates = sure(&sequence, 1);
    sequence.apply(&candidates);
    assert!(sequence.is_done);
    assert_eq!(sequence.settled(), 11);
}

#[test]
fn a_block_takes_as_many_passes_as_it_must() {
    let mut sequence = Sequence::generate(&[], &[None; 4], BLOCKS, Generate { min_passes: 3, ..generate() });
    let mut settled = Vec::new();
    while !sequence.is_done {
        let candidates = sure(&sequence, 9);
        settled.push(sequence.apply(&candidates).unmasked);
    }
    assert_eq!(settled, [2, 1, 1]);
}

#[test]
fn a_scored_position_is_in_the_block_that_is_computed_last() {
    // The position ends a block; the end of text after it would begin another.
    let sequence = Sequence::score(&[5; 9], 7, BLOCKS);
    assert_eq!((sequence.current, sequence.tokens.len()), (4, 8));
    let sequence = Sequence::score(&[5; 6], 4, BLOCKS);
    assert_eq!((sequence.current, sequence.tokens), (4, vec![5, 5, 5, 5, 5, 5, 2, 2]));
}

#[test]
fn a_long_prompt_is_prefilled_in_chunks() {
    let mut sequence = Sequence::generate(&[5; 30], &[None; 2], BLOCKS, generate());
    assert_eq!(sequence.pass_end(17), 16);
    sequence.prefilled(16);
    assert_eq!(sequence.pass_end(17), 32);
    assert_eq!(sequence.wanted(), [30, 31]);
}

#[test]
fn blocks_of_full_attention_count_from_the_prompt_and_see_every_row() {
    let mut sequence = Sequence::generate(&[5; 6], &[None; 6], FULL, generate());
    assert_eq!((sequence.tokens.len(), sequence.current, sequence.block_end()), (12, 6, 10));
    assert_eq!((sequence.cached, sequence.pass_end(1), sequence.unit()), (0, 12, 12));
    let candidates = sure(&sequence, 9);
    sequence.apply(&candidates);
    assert_eq!((sequence.current, sequence.block_end()), (10, 12), "the last block is shorter");
    let candidates = sure(&sequence, 9);
    sequence.apply(&candidates);
    assert!(sequence.is_done);
    assert_eq!(sequence.canvas(), [9; 6]);
}

#[test]
fn an_approximate_cache_keeps_what_is_around_the_block_until_the_next_begins() {
    // (cache, shift of logits, rows of the second pass)
    for (cache, logits_shift, rows) in
        [(CacheMode::Exact, 0, 0..12), (CacheMode::Prefix, 0, 3..12), (CacheMode::Dual, 1, 2..7)]
    {
        let form = Form { cache, logits_shift, ..FULL };
        let mut sequence = Sequence::generate(&[5; 3], &[None; 9], form, generate());
        let pass = |s: &Sequence| s.cached..s.pass_end(1);
        assert_eq!(pass(&sequence), 0..12, "{cache:?}: the pass that begins a block is exact");
        sequence.apply(&sure(&sequence, 9)[..1]);
        assert_eq!(pass(&sequence), rows, "{cache:?}");
        assert!(rows.start <= sequence.sources().start && sequence.sources().end <= rows.end);
        let candidates = sure(&sequence, 9);
        sequence.apply(&candidates);
        assert_eq!((sequence.current, pass(&sequence)), (7, 0..12), "{cache:?}: the next block");
    }
}

#[test]
fn shifted_logits_come_from_the_row_before_and_the_first_from_its_own() {
    let form = Form { logits_shift: 1, ..FULL };
    let sequence = Sequence::generate(&[], &[None; 3], form, generate());
    assert_eq!([0, 1, 2].map(|p| sequence.source(p)), [0, 0, 1]);
    assert_eq!(sequence.sources(), 0..2);
    let sequence = Sequence::score(&[5; 9], 7, form);
    assert_eq!((sequence.sources(), sequence.pass_end(1)), (6..7, 9));
}

#[test]
fn a_text_may_end_as_soon_as_nothing_before_its_end_is_masked() {
    let generate = Generate { stops_in_block: true, ..generate() };
    let mut sequence = Sequence::generate(&[5], &[None; 11], BLOCKS, generate);
    let candidate = |at, token| Candidate { at, token, confidence: 0.9, ..Candidate::default() };
    sequence.apply(&[candidate(2, 1), Candidate { confidence: 0.1, ..candidate(1, 9) }]);
    assert!(!sequence.is_done, "what stands before the end is masked");
    sequence.apply(&[candidate(1, 9)]);
    assert!(sequence.is_done);
    assert_eq!(sequence.canvas()[..3], [9, 1, 0], "nobody reads what follows");
    assert_eq!((sequence.steps, sequence.blocks, sequence.fixed_steps()), (2, 1, 2));
}

#[test]
fn passes_are_predicted_after_the_first_of_a_block() {
    let rule = Rule::Threshold { threshold: 0.5, steps: 3 };
    let mut sequence = Sequence::generate(&[], &[None; 8], BLOCKS, Generate { rule, ..generate() });
    assert_eq!((sequence.predicted_steps(), sequence.predicted_left()), (0, 2), "one a block");
    let unsure: Vec<Candidate> =
        (0..4).map(|at| Candidate { at, token: 9, confidence: 0.1, ..Candidate::default() }).collect();
    sequence.apply(&unsure);
    // By the rule of thumb 1.5 and a third of the two that are left.
    assert_eq!((sequence.predicted_steps(), sequence.fixed_steps()), (2, 4));
    assert_eq!(sequence.predicted_left(), 3);
    sequence.apply(&unsure[2..]);
    sequence.apply(&unsure[3..]);
    assert_eq!((sequence.current, sequence.history[0].taken), (4, 3));
    // A schedule that looks at no confidence is known.
    let rule = Rule::LowConfidence { steps: 2 };
    let mut sequence = Sequence::generate(&[], &[None; 4], BLOCKS, Generate { rule, ..generate() });
    sequence.apply(&unsure);
    assert_eq!(sequence.predicted_steps(), 2);
}

#[test]
fn a_deadline_lowers_the_threshold_as_far_as_it_must_and_may() {
    let rule = Rule::Threshold { threshold: 0.9, steps: 16 };
    let form = Form { block: 16, ..BLOCKS };
    let candidates: Vec<Candidate> = (0..16)
        .map(|at| Candidate { at, token: 9, confidence: 0.95 - 0.05 * at as f32, ..Candidate::default() })
        .collect();
    let settled = |passes_left, least_threshold, masks: usize| {
        let generate = Generate { rule, least_threshold, ..generate() };
        let mut sequence = Sequence::generate(&[], &vec![None; masks], form, generate);
        sequence.passes_left = passes_left;
        sequence.apply(&candidates).unmasked
    };
    assert_eq!(settled(None, Some(0.2), 16), 1, "nobody hurries");
    assert_eq!(settled(Some(0), None, 16), 1, "it may not be lowered");
    assert_eq!(settled(Some(7), Some(0.2), 16), 1, "there is time enough");
    let in_time = settled(Some(4), Some(0.2), 16);
    assert!((5..14).contains(&in_time), "{in_time} settle");
    assert!(settled(Some(4), Some(0.2), 32) > in_time, "there is more to come");
    assert_eq!(settled(Some(0), Some(0.475), 16), 10, "down to the bound and no further");
    assert_eq!(settled(Some(0), Some(0.95), 16), 1, "a bound above the threshold changes nothing");
}

#[test]
fn instructions_move_tokens_and_given_ones_stay() {
    let (delete, insert) = (8, 7);
    let rule =
        Levenshtein { threshold: 0.5, editing_threshold: 0.5, steps: 4, max_post_steps: 4, delete, insert };
    let generate = Generate { rule: Rule::Levenshtein(rule), ..generate() };
    let canvas = [None, None, None, Some(6), None, None, None];
    let mut sequence = Sequence::generate(&[5], &canvas, BLOCKS, generate);
    let text = crate::engine::sampler::Choice { token: 4, confidence: 0.9 };
    let candidate =
        |at: usize, token| Candidate { at, token, confidence: 0.9, entropy: 0.0, text, second: text };
    sequence.apply(&[candidate(1, 3), candidate(2, delete), candidate(3, 4)]);
    assert_eq!(sequence.tokens[..5], [5, 3, 4, 0, 6]);
    assert_eq!(sequence.wanted(), [1, 2, 3], "given tokens are not asked about");
    sequence.apply(&[candidate(1, 3), candidate(2, 4), candidate(3, 3)]);
    sequence.apply(&[candidate(1, 3), candidate(2, 4), candidate(3, 3)]);
    assert_eq!((sequence.current, &sequence.tokens[..5]), (4, &[5, 3, 4, 3, 6][..]));
    assert_eq!(sequence.steps, 3, "the last pass changed nothing");
}
