//! Checks how sequences go from block to block, with either kind of attention.

use super::*;

fn generate() -> Generate {
    let rule = Rule::Threshold { threshold: 0.5, steps: 4 };
    Generate { rule, banned: vec![], banned_at: vec![], stops_at_end: true, sampling: None, min_passes: 0 }
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
    let at = |p: &usize| Candidate { at: p - sequence.current, token, confidence: 0.9, entropy: 0.0 };
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
