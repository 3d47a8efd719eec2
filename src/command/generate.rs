//! `chatdlm generate`: a text goes on.

use std::io::IsTerminal;
use std::io::Read;

use anyhow::Context;

use crate::command::screen;
use crate::command::screen::ModelArgs;
use crate::command::screen::ShowArgs;
use crate::command::screen::Stretch;
use crate::command::screen::Style;
use crate::completion::canvas::Part;
use crate::completion::chat::Prompt;

const EXAMPLES: &str = "\
Examples:
  chatdlm generate \"Thank you for calling,\" --show-steps
  chatdlm generate \"The customer said\" --temperature 0.8 --seed 7 --max-tokens 128
  chatdlm generate - --json < prompt.txt";

/// Goes on with a text.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The text that goes on; - reads it from the standard input.
    prompt: String,
    /// The most tokens to write.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Print one JSON object.
    #[arg(long, conflicts_with = "show_steps")]
    json: bool,
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
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(generate(args))
}

async fn generate(args: Args) -> anyhow::Result<()> {
    let prompt = text_of(&args.prompt)?;
    let completer = args.model.completer()?;
    let options = args.model.options();
    let tokens = screen::checked_tokens(&completer, args.max_tokens)?;
    let parts = [Part::Fixed(prompt.clone()), Part::Open(tokens)];
    let canvas = completer.canvas(&Prompt::default(), &parts, &options)?;
    let writing = completer.write(canvas, &options)?;
    if args.show.show_steps {
        let together = |written: &[_]| {
            let mut stretches = vec![Stretch::new(Style::Plain, prompt.as_str())];
            stretches.extend(screen::stretches(written, Style::Filled));
            stretches
        };
        screen::show(writing, &args.show, together).await?;
        return Ok(());
    }
    let finished = screen::wait(writing).await?;
    let written = finished.update.written.first().context("the engine wrote nothing")?;
    if args.json {
        let mut report = finished.json(&completer);
        report["text"] = written.text.as_str().into();
        report["finish_reason"] = written.finish_reason().into();
        println!("{report}");
    } else {
        println!("{}", written.text);
    }
    Ok(())
}

/// Returns the argument, or what stands on the standard input if it is `-`.
pub(super) fn text_of(argument: &str) -> anyhow::Result<String> {
    if argument != "-" {
        return Ok(argument.to_owned());
    }
    if std::io::stdin().is_terminal() {
        eprintln!("reading the text from the terminal; end with Ctrl-D");
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the standard input")?;
    Ok(text)
}
