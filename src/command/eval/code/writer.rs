//! The model solves a problem: it completes a function, or fills a hole of one.
//!
//! A checkpoint with a chat template is asked for the whole function and answers in its own way: the
//! code is taken out of the answer. Another goes on with the program, up to the first line that is no
//! part of the function. A hole's length is not known, so holes of several sizes are filled and the
//! likeliest filling is taken, by its mean log-probability.

use crate::command::eval::code::problem::Problem;
use crate::completion::Completer;
use crate::completion::CompletionError;
use crate::completion::Options;
use crate::completion::canvas::Part;
use crate::completion::chat::Prompt;
use crate::completion::writing;
use crate::completion::writing::Writing;
use crate::engine::template::Message;

/// What follows a function and is no part of it; the first four and `print` are those of HumanEval's authors
/// (arXiv 2107.03374, section 2.1).
const STOPS: [&str; 11] = [
    "\nclass ",
    "\ndef ",
    "\n#",
    "\nif ",
    "\nprint(",
    "\n@",
    "\nimport ",
    "\nfrom ",
    "\nassert ",
    "\n```",
    "\n\"\"\"",
];

/// What is asked of a checkpoint that converses.
const INSTRUCTION: &str = "Complete this Python function. Answer with the whole function, imports and \
                           helpers included, in one code block and nothing else.";

/// The model and what it writes.
#[derive(Debug)]
pub struct Writer {
    /// The model.
    pub completer: Completer,
    /// How it writes.
    pub options: Options,
    /// What it writes.
    pub work: Work,
}

/// What is written for a problem.
#[derive(Debug)]
pub enum Work {
    /// The rest of a function.
    Complete {
        /// How often.
        samples: u64,
        /// The most tokens of each.
        max_tokens: usize,
    },
    /// What stands in a hole, which may have each of these sizes, in tokens.
    Fill {
        /// The sizes.
        holes: Vec<usize>,
    },
}

impl Writer {
    /// Returns what stands between prompt and suffix of the problem: one text, or one for each sample.
    ///
    /// # Errors
    /// When the engine stops, or the problem is too long for it.
    pub async fn solve(&self, problem: &Problem) -> Result<Vec<String>, CompletionError> {
        match &self.work {
            Work::Complete { samples, max_tokens } => self.complete(problem, *samples, *max_tokens).await,
            Work::Fill { holes } => Ok(vec![self.fill(problem, holes).await?]),
        }
    }

    async fn complete(
        &self,
        problem: &Problem,
        samples: u64,
        max_tokens: usize,
    ) -> Result<Vec<String>, CompletionError> {
        let (prompt, mut parts, mut options) = (Prompt::default(), Vec::new(), self.options.clone());
        let is_chat = self.completer.has_template();
        let prompt = if is_chat {
            let content = format!("{INSTRUCTION}\n\n```python\n{}```", problem.prompt);
            let message = Message { role: "user".to_owned(), content, ..Message::default() };
            self.completer.conversation(&[message], &[])?
        } else {
            parts.push(Part::Fixed(problem.prompt.clone()));
            options.stop = STOPS.map(str::to_owned).into();
            prompt
        };
        parts.push(Part::Open(max_tokens));
        let canvas = self.completer.canvas(&prompt, &parts, &options)?;
        let samples = (0..samples).map(|i| self.completer.write(canvas.clone(), &options.drawn(i)));
        let samples: Vec<Writing> = samples.collect::<Result<_, _>>()?;
        let updates = writing::finish(samples).await?;
        let texts = updates.into_iter().flat_map(|update| update.written).map(|written| written.text);
        Ok(texts.map(|text| if is_chat { redefined(problem, code(&text)) } else { text }).collect())
    }

    async fn fill(&self, problem: &Problem, holes: &[usize]) -> Result<String, CompletionError> {
        // The end of a line stands there already, where the hole is known to be one line.
        let suffix = problem.suffix.as_deref().unwrap_or_default();
        let line_end = if problem.is_one_line() { "\n" } else { "" };
        let mut fillings = Vec::new();
        for hole in holes {
            let mut parts = vec![Part::Fixed(problem.prompt.clone()), Part::Open(*hole)];
            if !(line_end.is_empty() && suffix.is_empty()) {
                parts.push(Part::Fixed(format!("{line_end}{suffix}")));
            }
            let canvas = self.completer.canvas(&Prompt::default(), &parts, &self.options)?;
            fillings.push(self.completer.write(canvas, &self.options)?);
        }
        let likeliest = writing::finish(fillings).await?.into_iter().next();
        let written = likeliest.and_then(|update| update.written.into_iter().next());
        let text = written.map(|written| written.text).unwrap_or_default();
        if problem.is_one_line() {
            let line = text.split('\n').next().unwrap_or_default();
            return Ok(format!("{line}\n"));
        }
        Ok(text)
    }
}

/// Returns the code of an answer: its first fenced block, or all of it.
fn code(answer: &str) -> &str {
    let Some((_, fenced)) = answer.split_once("```") else { return answer };
    let code = fenced.split_once('\n').map_or("", |(_language, code)| code);
    code.split("```").next().unwrap_or(code)
}

/// Returns the completion that makes a program of the prompt and the code of an answer: the function
/// anew, below that of the prompt, or its body if the answer is no more than that.
fn redefined(problem: &Problem, code: &str) -> String {
    let is_whole = code.contains(&format!("def {}(", problem.entry_point));
    if is_whole { format!("    pass\n\n{code}") } else { code.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_taken_out_of_an_answer() {
        let check = |answer: &str, expected: &str| assert_eq!(code(answer), expected, "{answer:?}");
        check("def f():\n    return 1\n", "def f():\n    return 1\n");
        check("Here it is:\n```python\ndef f():\n    return 1\n```\nGood luck!", "def f():\n    return 1\n");
        check("```\nx\n```\n```\ny\n```", "x\n");
        check("```python\nnot closed", "not closed");
        check("```", "");
    }

    #[test]
    fn a_whole_function_replaces_the_one_that_was_begun() {
        let problem = Problem {
            task_id: "a/0".to_owned(),
            prompt: "def f(x):\n    \"\"\"Returns x.\"\"\"\n".to_owned(),
            suffix: None,
            canonical_solution: String::new(),
            test: String::new(),
            entry_point: "f".to_owned(),
        };
        assert_eq!(redefined(&problem, "    return x\n"), "    return x\n");
        assert_eq!(redefined(&problem, "def f(x):\n    return x\n"), "    pass\n\ndef f(x):\n    return x\n");
    }
}
