//! `chatdlm eval redaction`: every labelled call goes through a redactor as the call's actor would
//! send it, and what was marked by people is compared with what was replaced.
//!
//! A marked span is recalled when all its letters and digits were replaced, by whatever category.
//! A replaced span is precise when it overlaps a marked one of any category; it counts for the
//! category that the redactor gave it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::json;

use crate::command::eval::find_companies;
use crate::corpus::dialogue::Dialogue;
use crate::corpus::dialogue::DialogueTurn;
use crate::corpus::service::Split;
use crate::corpus::timing;
use crate::monitor::redact::Redactor;
use crate::monitor::redact::Spoken;

/// The categories that the project's aim is set for.
const AIMED: [&str; 7] = ["payment_card", "card_code", "card_expiry", "iban", "ssn", "email", "phone"];

/// Measures recall and precision of redaction on labelled calls.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Company folders with calls.{train,dev}.jsonl, or folders of such folders.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// Which calls: train or dev.
    #[arg(long, default_value = "dev", value_parser = ["train", "dev"])]
    split: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// List what was missed and what was replaced without need; this prints what callers said.
    #[arg(long)]
    misses: bool,
}

/// What was counted for one category and style.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    marked: usize,
    recalled: usize,
    replaced: usize,
    precise: usize,
}

/// Counts by category and style.
type Counts = BTreeMap<(String, String), Count>;

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    let split = if args.split == "train" { Split::Train } else { Split::Dev };
    let mut counts = Counts::new();
    let mut calls = 0;
    for company in find_companies(&args.folders)? {
        for call in company.calls(split).with_context(|| format!("cannot read calls of {}", company.base))? {
            calls += 1;
            for miss in measure(&call, &mut counts) {
                if args.misses {
                    println!("{miss}");
                }
            }
        }
    }
    anyhow::ensure!(
        calls > 0,
        "no calls in the given folders: name folders that hold calls.{}.jsonl",
        args.split
    );
    match args.json {
        true => println!("{}", report_json(&counts, calls)),
        false => report_table(&counts, calls),
    }
    Ok(())
}

/// Redacts one call and counts; returns a line for each miss and each needless replacement.
fn measure(call: &Dialogue, counts: &mut Counts) -> Vec<String> {
    let mut redactor = Redactor::new();
    let mut lines = Vec::new();
    let style = call.style.clone().unwrap_or_else(|| "clean".to_owned());
    let spoken_turns = call.turns.iter().filter(|turn| !turn.text.trim().is_empty());
    for (timed, turn) in timing::times(call).into_iter().zip(spoken_turns) {
        let redacted = redactor.redact_final(Spoken {
            speaker: timed.speaker,
            text: &timed.text,
            start_ms: timed.start_ms,
            end_ms: timed.end_ms,
        });
        let characters: Vec<char> = timed.text.chars().collect();
        let marked = marked_spans(turn, &timed.text);
        let replaced: Vec<&Range<usize>> = redacted.spans.iter().map(|span| &span.original).collect();
        for (category, range) in &marked {
            let count = counts.entry((category.clone(), style.clone())).or_default();
            count.marked += 1;
            let is_gone = |at: usize| replaced.iter().any(|span| span.contains(&at));
            if range.clone().all(|at| !characters[at].is_alphanumeric() || is_gone(at)) {
                count.recalled += 1;
            } else {
                let text: String = characters[range.clone()].iter().collect();
                lines.push(format!(
                    "missed   {:<14} {} {style} 【{text}】 in: {}",
                    category, call.id, redacted.text
                ));
            }
        }
        for span in &redacted.spans {
            let count = counts.entry((span.category.as_str().to_owned(), style.clone())).or_default();
            count.replaced += 1;
            let overlaps =
                |range: &Range<usize>| range.start < span.original.end && span.original.start < range.end;
            if marked.iter().any(|(_, range)| overlaps(range)) {
                count.precise += 1;
            } else {
                let text: String = characters[span.original.clone()].iter().collect();
                let category = span.category.as_str();
                lines.push(format!(
                    "needless {category:<14} {} {style} 【{text}】 in: {}",
                    call.id, timed.text
                ));
            }
        }
    }
    lines
}

/// Finds the marked texts in a turn, in characters; a text that was marked twice is two places.
fn marked_spans(turn: &DialogueTurn, text: &str) -> Vec<(String, Range<usize>)> {
    let mut spans: Vec<(String, Range<usize>)> = Vec::new();
    for marked in &turn.sensitive {
        for (byte, _) in text.match_indices(&marked.text) {
            let start = text[..byte].chars().count();
            let range = start..start + marked.text.chars().count();
            let is_new = spans.iter().all(|(_, other)| range.end <= other.start || other.end <= range.start);
            if is_new {
                spans.push((marked.category.clone(), range));
                break;
            }
        }
    }
    spans
}

fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Adds up the counts of the given categories and style; no style means all.
fn sum(counts: &Counts, is_wanted: impl Fn(&str) -> bool, style: Option<&str>) -> Count {
    let mut total = Count::default();
    for ((category, its_style), count) in counts {
        if is_wanted(category) && style.is_none_or(|style| style == its_style) {
            total.marked += count.marked;
            total.recalled += count.recalled;
            total.replaced += count.replaced;
            total.precise += count.precise;
        }
    }
    total
}

fn categories(counts: &Counts) -> Vec<&str> {
    let mut names: Vec<&str> = counts.keys().map(|(category, _)| category.as_str()).collect();
    names.dedup();
    names
}

fn report_json(counts: &Counts, calls: usize) -> serde_json::Value {
    let one = |count: Count| {
        json!({
            "marked": count.marked, "recalled": count.recalled, "recall": ratio(count.recalled, count.marked),
            "replaced": count.replaced, "precise": count.precise,
            "precision": ratio(count.precise, count.replaced),
        })
    };
    let of = |is_wanted: &dyn Fn(&str) -> bool| {
        json!({
            "all": one(sum(counts, is_wanted, None)),
            "clean": one(sum(counts, is_wanted, Some("clean"))),
            "asr": one(sum(counts, is_wanted, Some("asr"))),
        })
    };
    let by_category: serde_json::Map<String, serde_json::Value> = (categories(counts).into_iter())
        .map(|name| (name.to_owned(), of(&|category: &str| category == name)))
        .collect();
    json!({
        "calls": calls,
        "aimed": of(&|category: &str| AIMED.contains(&category)),
        "total": of(&|_: &str| true),
        "categories": by_category,
    })
}

fn report_table(counts: &Counts, calls: usize) {
    println!("{calls} calls; recall of marked spans, precision of replaced spans");
    println!("{:<15} {:>22} {:>22} {:>22} {:>22}", "", "recall", "precision", "clean r/p", "asr r/p");
    let print = |name: &str, is_wanted: &dyn Fn(&str) -> bool| {
        let all = sum(counts, is_wanted, None);
        let percent = |part: usize, whole: usize| match ratio(part, whole) {
            Some(ratio) => format!("{:.1} %", ratio * 100.0),
            None => "–".to_owned(),
        };
        let both = |style: &str| {
            let count = sum(counts, is_wanted, Some(style));
            let recall = percent(count.recalled, count.marked);
            format!("{recall} / {}", percent(count.precise, count.replaced))
        };
        let counted = |part: usize, whole: usize| format!("{} ({part}/{whole})", percent(part, whole));
        println!(
            "{name:<15} {:>22} {:>22} {:>22} {:>22}",
            counted(all.recalled, all.marked),
            counted(all.precise, all.replaced),
            both("clean"),
            both("asr"),
        );
    };
    for name in categories(counts) {
        print(name, &|category: &str| category == name);
    }
    print("— the aim's", &|category: &str| AIMED.contains(&category));
    print("— total", &|_: &str| true);
}
