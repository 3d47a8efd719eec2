//! Checks how texts are laid out and read back as they settle.

use super::*;
use crate::engine::sequence::CacheMode;

const MASK: u32 = 0;
const END: u32 = 1;

fn tokenizer() -> Tokenizer {
    let texts = ["dear customer your order is on the way and it costs nothing"];
    Tokenizer::train(texts.into_iter(), 300, &["<|mask|>", "<|end|>", "<|pad|>"]).expect("trains")
}

fn ids(text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer().encode(text, &mut ids).expect("encodes");
    ids
}

const BLOCKS: Form = Form {
    attention: Attention::BlockCausal,
    block: 8,
    cache: CacheMode::Exact,
    logits_shift: 0,
    mask: MASK,
    end_of_text: END,
    pad: 2,
};
const FULL: Form = Form { attention: Attention::Full, ..BLOCKS };

fn canvas(parts: &[Part]) -> Canvas {
    Canvas::new(&Prompt::default(), parts, &tokenizer(), BLOCKS).expect("is laid out")
}

fn read(canvas: &Canvas, written: &[u32], settled: usize, stop: &[&str]) -> Vec<Written> {
    let mut open = written.iter().copied();
    let fill = |token: &Option<u32>| token.unwrap_or_else(|| open.next().unwrap_or(MASK));
    let ids: Vec<u32> = canvas.tokens.iter().map(fill).collect();
    let confidences = vec![0.5; ids.len()];
    let snapshot = Snapshot { canvas: ids, confidences, settled, ..Snapshot::default() };
    let stop: Vec<String> = stop.iter().map(|&stop| stop.to_owned()).collect();
    canvas.read(&snapshot, Reading { tokenizer: &tokenizer(), mask: MASK, ends: &[END, 2], stop: &stop })
}

#[test]
fn the_space_before_a_hole_is_written_with_the_word_and_read_once() {
    let canvas = canvas(&[Part::Fixed("dear ".into()), Part::Open(9), Part::Fixed(", your order".into())]);
    assert_eq!(canvas.prompt, ids("dear"));
    assert_eq!(canvas.given, ids("dear").len() + ids(", your order").len());
    let customer = ids(" customer");
    let mut written = customer.clone();
    written.push(END);
    let found = read(&canvas, &written, canvas.tokens.len(), &[]).remove(0);
    assert_eq!((found.text.as_str(), found.tokens), ("customer", customer.len()));
    assert!(found.is_complete && found.is_ended);
    assert!((found.mean_log_probability - 0.5_f32.ln()).abs() < 1e-6);
    let whole = (canvas.prompt.len() + canvas.tokens.len()).is_multiple_of(8);
    assert!(whole && canvas.tokens.last() == Some(&Some(2)) && !canvas.is_open_ended());
}

#[test]
fn settled_text_only_grows_and_ends_as_the_whole_does() {
    let text = "dear €uro 😀 customer STOPPING the STOP now";
    let written = ids(text);
    let canvas = canvas(&[Part::Open(written.len())]);
    assert!(canvas.is_open_ended());
    for stop in [&[][..], &["STOP now"], &["STOPPED", "customer"]] {
        let mut before = String::new();
        for settled in 0..=written.len() {
            let found = read(&canvas, &written, settled, stop).remove(0);
            assert!(found.text.starts_with(&before), "{before:?} became {:?}", found.text);
            assert!(!found.text.contains(BROKEN_CHAR) && !found.tentative.contains(BROKEN_CHAR));
            before = found.text;
            if found.is_complete {
                assert_eq!(found.is_ended, !stop.is_empty());
                break;
            }
        }
        let expected = match stop {
            [] => text,
            ["STOP now"] => "dear €uro 😀 customer STOPPING the ",
            _ => "dear €uro 😀 ",
        };
        assert_eq!(before, expected);
    }
}

#[test]
fn the_block_under_way_is_shown_with_its_masks_and_no_further() {
    let canvas = canvas(&[Part::Fixed("dear".into()), Part::Open(20)]);
    let before = canvas.prompt.len();
    let mut written = vec![MASK; 20];
    written[1] = ids(" order")[0];
    let found = read(&canvas, &written, 0, &[]).remove(0);
    let shown = tokenizer().decode(&written[1..2]);
    let masks = "░".repeat(8 - before % 8 - 2);
    assert_eq!(found.tentative, format!("░{shown}{masks}"));
    assert!(found.text.is_empty() && !found.is_complete);
}

#[test]
fn with_full_attention_blocks_begin_behind_the_prompt_and_nothing_is_filled_up() {
    let parts = [Part::Fixed("dear".into()), Part::Open(20), Part::Fixed(" order".into())];
    let canvas = Canvas::new(&Prompt::default(), &parts, &tokenizer(), FULL).expect("is laid out");
    assert_eq!(canvas.tokens.len(), 20 + ids(" order").len());
    let found = read(&canvas, &[], 0, &[]).remove(0);
    assert_eq!(found.tentative, "░".repeat(8));
}
#[test]
fn texts_that_must_stand_in_a_hole_stand_there_with_one_space() {
    let held = |text: &str| Piece::Held(text.into());
    let cut = Part::Cut(vec![Piece::Open(3), held(" on the way"), Piece::Open(2)]);
    let canvas = canvas(&[Part::Fixed("dear ".into()), cut, Part::Fixed(".".into())]);
    let order = ids(" order")[0];
    // The first hole ends at once or goes on.
    for (written, expected) in [
        (vec![END, 2, 2, order, END], "on the way order"),
        (vec![order, END, 2, END, 2], "order on the way"),
        (vec![order, ids(" ")[0], END, END, 2], "order on the way"),
    ] {
        let found = read(&canvas, &written, canvas.tokens.len(), &[]).remove(0);
        assert_eq!(found.text, expected);
        assert!(found.is_complete && found.is_ended && found.counted >= 2);
    }
    let found = read(&canvas, &[order], 1, &[]).remove(0);
    assert!(!found.is_complete && found.text == "order", "{found:?}");
    assert!(found.tentative.contains("░ on the way"), "{found:?}");
    let mut whole: Vec<u32> = canvas.tokens.iter().map(|token| token.unwrap_or(END)).collect();
    whole[0] = order;
    let snapshot = Snapshot { canvas: whole, is_done: true, ..Snapshot::default() };
    let tokenizer = tokenizer();
    let reading = Reading { tokenizer: &tokenizer, mask: MASK, ends: &[END], stop: &[] };
    let (bytes, places) = canvas.bytes(&snapshot, reading);
    assert_eq!(String::from_utf8_lossy(&bytes), "dear order on the way.");
    assert_eq!((places[4], places[5], places[10]), (None, Some(0), None));
}
