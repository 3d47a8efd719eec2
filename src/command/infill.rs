//! `chatdlm infill`: a text with holes is filled, and nothing else of it changes.

use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use crate::command::generate::text_of;
use crate::command::screen;
use crate::command::screen::Finished;
use crate::command::screen::ModelArgs;
use crate::command::screen::ShowArgs;
use crate::command::screen::Stretch;
use crate::command::screen::Style;
use crate::completion::canvas::Part;
use crate::completion::canvas::Written;
use crate::completion::chat::Prompt;
use crate::completion::writing;
use crate::completion::writing::Update;
use crate::completion::writing::Writing;

const EXAMPLES: &str = "\
Examples:
  chatdlm infill \"Dear [[4]], your order [[12]] tomorrow.\" --show-steps
  chatdlm infill \"I am sorry that [[10]]. We will [[10]].\" --block-length 32
  chatdlm infill \"Your order [[8]].\" --must-include \"next Monday\" --forbid refund
  chatdlm infill - --json --candidates 4 --temperature 0.8 < letter.txt

[[N]] is a hole of up to N tokens; \\[[8]] stands for the characters [[8]]. A block-causal model
sees what follows a hole only in the same block: a larger --block-length shows it more.";

/// The most candidates.
const MOST_CANDIDATES: u64 = 8;

/// Fills the holes of a text; [[8]] is a hole of up to 8 tokens.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The text with holes; - reads it from the standard input.
    text: String,
    /// Print one JSON object.
    #[arg(long, conflicts_with = "show_steps")]
    json: bool,
    /// A text that must stand in some hole, of whose tokens it takes its own; may be repeated.
    #[arg(long, value_name = "TEXT")]
    must_include: Vec<String>,
    /// A text that may not stand in what is written, in whatever case; may be repeated.
    #[arg(long, value_name = "TEXT")]
    forbid: Vec<String>,
    /// How many candidates are written; the likeliest is printed, with --json all are. They differ with
    /// a temperature.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "show_steps",
          value_parser = clap::value_parser!(u64).range(1..=MOST_CANDIDATES))]
    candidates: u64,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    show: ShowArgs,
}

/// Runs the command.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(args: Args) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(infill(args))
}

async fn infill(args: Args) -> anyhow::Result<()> {
    let parts = holes(&text_of(&args.text)?)?;
    let completer = args.model.completer()?;
    let mut options = args.model.options();
    options.forbid = completer.forbid(&args.forbid, &args.must_include)?;
    let tokens = parts.iter().map(|part| if let Part::Open(tokens) = part { *tokens } else { 0 }).sum();
    screen::check_tokens(&completer, tokens)?;
    let placed = completer.place(&Prompt::default(), parts.clone(), &args.must_include, &options).await?;
    let canvas = completer.canvas(&Prompt::default(), &placed.parts, &options)?;
    if args.show.show_steps {
        let writing = completer.write(canvas, &options)?;
        screen::show(writing, &args.show, |written| together(&parts, written)).await?;
        return Ok(());
    }
    let candidates = (0..args.candidates).map(|index| completer.write(canvas.clone(), &options.drawn(index)));
    let candidates: Vec<Writing> = candidates.collect::<Result<_, _>>()?;
    let began = Instant::now();
    let updates = writing::finish(candidates).await?;
    let took = began.elapsed();
    let filled = |update: &Update| -> String {
        together(&parts, &update.written).into_iter().map(|s| s.text).collect()
    };
    let Some(best) = updates.first() else { return Ok(()) };
    if args.json {
        let span =
            |written: &Written| json!({"text": written.text, "finish_reason": written.finish_reason()});
        let mut report = Finished { update: best.clone(), took }.json(&completer);
        report["text"] = filled(best).into();
        report["spans"] = best.written.iter().map(span).collect::<Vec<Value>>().into();
        report["candidates"] = updates
            .iter()
            .map(|u| json!({"text": filled(u), "mean_log_probability": u.mean_log_probability()}))
            .collect();
        println!("{report}");
    } else {
        println!("{}", filled(best));
    }
    Ok(())
}

/// Returns what stands and, between, what is written.
fn together(parts: &[Part], written: &[Written]) -> Vec<Stretch> {
    let mut written = written.iter();
    let mut stretches = Vec::new();
    for part in parts {
        match part {
            Part::Fixed(text) => stretches.push(Stretch::new(Style::Plain, text.as_str())),
            Part::Open(_) | Part::Cut(_) => {
                stretches.extend(screen::stretches(
                    written.next().map_or(&[], std::slice::from_ref),
                    Style::Filled,
                ));
            }
        }
    }
    stretches
}

/// Reads a text with holes.
fn holes(text: &str) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut fixed = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("[[") {
        let (before, marked) = rest.split_at(at);
        let inside = marked[2..]
            .split_once("]]")
            .filter(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
        let Some((number, after)) = inside else {
            // No hole: the first bracket stands, the second may begin one.
            fixed.push_str(&rest[..=at]);
            rest = &rest[at + 1..];
            continue;
        };
        rest = after;
        if let Some(before) = before.strip_suffix('\\') {
            fixed.push_str(before);
            fixed.push_str(&marked[..number.len() + 4]);
            continue;
        }
        let tokens = number.parse().ok().filter(|tokens| *tokens > 0);
        let tokens =
            tokens.ok_or_else(|| anyhow::anyhow!("[[{number}]] must be a hole of 1 token or more"))?;
        fixed.push_str(before);
        if !fixed.is_empty() {
            parts.push(Part::Fixed(std::mem::take(&mut fixed)));
        }
        parts.push(Part::Open(tokens));
    }
    fixed.push_str(rest);
    if !fixed.is_empty() {
        parts.push(Part::Fixed(fixed));
    }
    let has_holes = parts.iter().any(|part| matches!(part, Part::Open(_)));
    anyhow::ensure!(has_holes, "the text has no hole: write [[8]] where up to 8 tokens are wanted");
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_numbers_in_double_brackets() {
        let check = |text: &str, expected: &[Part]| assert_eq!(holes(text).expect(text), expected, "{text}");
        let fixed = |text: &str| Part::Fixed(text.to_owned());
        check("Dear [[4]], hello", &[fixed("Dear "), Part::Open(4), fixed(", hello")]);
        check("[[1]][[12]]", &[Part::Open(1), Part::Open(12)]);
        check(r"a \[[8]] [[ [[x]] [[[3]]]", &[fixed("a [[8]] [[ [[x]] ["), Part::Open(3), fixed("]")]);
        for text in ["no hole", "[[0]]", r"\[[4]]", "[[99999999999999999999]]", "[[]]"] {
            assert!(holes(text).is_err(), "{text}");
        }
    }
}
