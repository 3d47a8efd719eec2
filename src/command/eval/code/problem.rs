//! The problems of a benchmark: a function to be written or a hole in one to be filled, and its test.

use std::path::Path;

use serde::Deserialize;

use crate::corpus::rows;

/// A row of HumanEval (arXiv 2107.03374) or of its infilling form (arXiv 2207.14255).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// Its name.
    pub task_id: String,
    /// The program up to what is to be written.
    pub prompt: String,
    /// The program after it; none in HumanEval.
    #[serde(default)]
    pub suffix: Option<String>,
    /// What stands there.
    pub canonical_solution: String,
    /// Defines `check`, which fails for a function that is wrong.
    pub test: String,
    /// The function's name.
    pub entry_point: String,
}

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The rest of a function.
    Completion,
    /// What stands between prompt and suffix.
    Infilling,
}

/// The damage that never ends comes once in so many problems, for it takes all the time there is.
const ENDLESS_EVERY: usize = 100;

/// Reads the problems of a file of JSON lines, which may be compressed.
///
/// # Errors
/// When a row is no problem, or of the other form.
pub fn read(file: &Path, form: Form, limit: Option<usize>) -> anyhow::Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for row in rows::read::<Problem>(file)?.take(limit.unwrap_or(usize::MAX)) {
        let problem = row?;
        let name = &problem.task_id;
        match form {
            Form::Completion => {
                anyhow::ensure!(problem.suffix.is_none(), "{name} has a suffix: use eval infilling");
            }
            Form::Infilling => {
                anyhow::ensure!(problem.suffix.is_some(), "{name} has no suffix: use eval humaneval");
            }
        }
        problems.push(problem);
    }
    anyhow::ensure!(!problems.is_empty(), "{} has no problems", file.display());
    Ok(problems)
}

impl Problem {
    /// Returns the program that ends well only if what was written passes the test.
    pub fn program(&self, completion: &str) -> String {
        let suffix = self.suffix.as_deref().unwrap_or_default();
        let Problem { prompt, test, entry_point, .. } = self;
        format!("{prompt}{completion}{suffix}\n{test}\ncheck({entry_point})\n")
    }

    /// Returns whether the hole is one line: the published files say so in their names.
    pub fn is_one_line(&self) -> bool {
        self.task_id.starts_with("SingleLineInfilling/")
    }

    /// Returns a completion that is wrong, in a way that depends on the problem's number: each is a way
    /// in which a program may look as if it had passed, or as if it had not been run.
    ///
    /// A body is damaged where it runs. Around a hole much is in the way, and a line may never run, so
    /// there the damage stands in the first column, where it ends the function.
    pub fn damaged(&self, index: usize) -> &'static str {
        let is_endless = index.is_multiple_of(ENDLESS_EVERY);
        if self.suffix.is_some() {
            return match index % 4 {
                _ if is_endless => "\nwhile True:\n    pass\n",
                0 => "\nraise RuntimeError('damaged')\n",
                1 => "(\n",
                2 => "\nraise SystemExit(0)\n",
                _ => "\n__import__('os')._exit(0)\n",
            };
        }
        match index % 5 {
            _ if is_endless => "    while True:\n        pass\n",
            0 => "    return object()\n",
            1 => "    raise RuntimeError('damaged')\n",
            2 => "    return (\n",
            3 => "    raise SystemExit(0)\n",
            _ => "    __import__('os')._exit(0)\n",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(rows: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("problems.jsonl");
        std::fs::write(&path, rows).unwrap();
        (folder, path)
    }

    const ROW: &str = r#"{"task_id":"a/0","prompt":"def f():\n","canonical_solution":"    return 1\n","test":"def check(f):\n    assert f() == 1\n","entry_point":"f"}"#;

    #[test]
    fn a_program_is_prompt_completion_suffix_and_test() {
        let (_folder, path) = write(ROW);
        let mut problem = read(&path, Form::Completion, None).unwrap().remove(0);
        let test = "\ndef check(f):\n    assert f() == 1\n\ncheck(f)\n";
        assert_eq!(problem.program("    return 2\n"), format!("def f():\n    return 2\n{test}"));
        problem.suffix = Some("# end".to_owned());
        assert_eq!(problem.program("    return 2\n"), format!("def f():\n    return 2\n# end{test}"));
    }

    #[test]
    fn the_other_form_is_refused_by_name() {
        let (_folder, path) = write(ROW);
        let error = read(&path, Form::Infilling, None).unwrap_err().to_string();
        assert_eq!(error, "a/0 has no suffix: use eval humaneval");
        let (_folder, path) = write("\n");
        assert!(read(&path, Form::Completion, None).is_err());
    }

    #[test]
    fn no_more_problems_are_read_than_asked_for() {
        let (_folder, path) = write(&format!("{ROW}\n{ROW}\nnot read"));
        assert_eq!(read(&path, Form::Completion, Some(2)).unwrap().len(), 2);
        assert!(read(&path, Form::Completion, Some(3)).is_err());
    }
}
