//! `chatdlm chat`: talk to the model in the terminal.

use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;

use anyhow::Context;

use crate::command::screen;
use crate::command::screen::ModelArgs;
use crate::command::screen::ShowArgs;
use crate::command::screen::Style;
use crate::completion::canvas::Part;
use crate::engine::template::Message;

const EXAMPLES: &str = "\
Examples:
  chatdlm chat --show-steps
  chatdlm chat --system \"You help with phone bills.\" --temperature 0.7
  echo \"My bill is too high.\" | chatdlm chat";

const HELP: &str = "\
/reset   forget what was said
/help    show this
Ctrl-D   leave";

/// Talks with the model, line by line.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// What the model is told before the conversation.
    #[arg(long)]
    system: Option<String>,
    /// The most tokens of an answer.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
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
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(chat(args))
}

async fn chat(args: Args) -> anyhow::Result<()> {
    let completer = args.model.completer()?;
    let tokens = screen::checked_tokens(&completer, args.max_tokens)?;
    let is_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if is_terminal {
        println!("\x1b[2m{}, /help for help, Ctrl-D to leave\x1b[0m", completer.name());
    }
    let message = |role: &str, content: &str| Message {
        role: role.to_owned(),
        content: content.to_owned(),
        ..Message::default()
    };
    let beginning: Vec<Message> = args.system.iter().map(|text| message("system", text)).collect();
    let mut messages = beginning.clone();
    loop {
        if is_terminal {
            print!("\n\x1b[1m›\x1b[0m ");
            std::io::stdout().flush()?;
        }
        let mut line = String::new();
        // Nothing else runs meanwhile: the terminal may be waited for.
        if std::io::stdin().lock().read_line(&mut line).context("cannot read the standard input")? == 0 {
            break;
        }
        match line.trim() {
            "" => continue,
            "/reset" => {
                messages = beginning.clone();
                println!("forgotten");
                continue;
            }
            "/help" => {
                println!("{HELP}");
                continue;
            }
            command if command.starts_with('/') => {
                println!("there is no {command}\n{HELP}");
                continue;
            }
            said => messages.push(message("user", said)),
        }
        let options = args.model.options();
        let prompt = completer.conversation(&messages, &[])?;
        let canvas = completer.canvas(&prompt, &[Part::Open(tokens)], &options)?;
        let writing = match completer.write(canvas, &options) {
            Ok(writing) => writing,
            Err(error) => {
                // Most likely the conversation has become too long.
                messages.pop();
                println!("{error}: /reset forgets what was said");
                continue;
            }
        };
        let finished = if args.show.show_steps {
            screen::show(writing, &args.show, |written| screen::stretches(written, Style::Plain)).await?
        } else {
            let finished = screen::wait(writing).await?;
            println!("{}", finished.update.written.first().map_or("", |written| written.text.trim()));
            finished
        };
        let answer = finished.update.written.first().context("the engine wrote nothing")?;
        messages.push(message("assistant", answer.text.trim()));
    }
    if is_terminal {
        println!();
    }
    Ok(())
}
