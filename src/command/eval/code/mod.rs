//! `chatdlm eval humaneval` and `eval infilling`: programs that the model writes, run against tests.
//!
//! [`problem`] reads the benchmarks and damages their solutions, [`writer`] has the model solve them,
//! [`sandbox`] runs what comes of it. `--canonical` and `--broken` prove the way there: the solutions of
//! the benchmark must all pass, damaged ones must all fail, or the command fails.

mod problem;
mod sandbox;
mod writer;

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::TryStreamExt;
use futures_util::stream;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use serde_json::Value;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::command::eval::code::problem::Form;
use crate::command::eval::code::problem::Problem;
use crate::command::eval::code::sandbox::Isolation;
use crate::command::eval::code::sandbox::Sandbox;
use crate::command::eval::code::sandbox::Verdict;
use crate::command::eval::code::writer::Work;
use crate::command::eval::code::writer::Writer;
use crate::command::screen;
use crate::command::screen::ModelArgs;
use crate::completion::Completer;

/// Problems that are solved at once.
const AT_ONCE: usize = 8;
/// The quantile of the normal distribution for 95 %.
const Z: f64 = 1.96;

/// Measures pass@1 of HumanEval, without examples.
#[derive(Debug, clap::Args)]
pub struct HumanEvalArgs {
    #[command(flatten)]
    common: Common,
    /// How often each problem is solved; more than once wants a temperature.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with_all = ["canonical", "broken"],
          value_parser = clap::value_parser!(u64).range(1..=16))]
    samples: u64,
    /// The most tokens of a solution.
    #[arg(long, default_value_t = 512, conflicts_with_all = ["canonical", "broken"],
          value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
}

/// Measures pass@1 of HumanEval's infilling form: one hole in a function, both sides seen.
#[derive(Debug, clap::Args)]
pub struct InfillingArgs {
    #[command(flatten)]
    common: Common,
    /// Sizes of holes in tokens; each is filled, the likeliest filling counts.
    #[arg(long, value_delimiter = ',', default_values_t = [4, 8, 12, 16, 24, 32, 48],
          conflicts_with_all = ["canonical", "broken"],
          value_parser = clap::value_parser!(u32).range(1..))]
    holes: Vec<u32>,
}

/// What both take.
#[derive(Debug, clap::Args)]
struct Common {
    /// The problems: JSON lines, plain or compressed.
    file: PathBuf,
    /// Run the benchmark's own solutions instead of a model's; they must all pass.
    #[arg(long, conflicts_with_all = ["broken", "model"])]
    canonical: bool,
    /// Run damaged solutions instead of a model's; they must all fail.
    #[arg(long, conflicts_with = "model")]
    broken: bool,
    /// Only so many of the problems, from the first.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// The interpreter that runs the programs.
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// How long a program may run, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_s: u64,
    /// Print one JSON object, with every solution.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// Whose solutions are run.
#[derive(Debug)]
enum Solver {
    Canonical,
    Broken,
    Model(Box<Writer>),
}

/// What became of a problem.
#[derive(Debug)]
struct Outcome {
    task_id: String,
    /// What was written, and what became of it.
    solutions: Vec<(String, Verdict)>,
}

/// Runs `eval humaneval`.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run_humaneval(args: HumanEvalArgs) -> anyhow::Result<()> {
    anyhow::ensure!(
        args.samples == 1 || args.common.model.options().sampling.is_some(),
        "--samples {} would all be the same: give a --temperature too",
        args.samples
    );
    run(&args.common, Form::Completion, |completer| {
        let max_tokens = screen::checked_tokens(completer, args.max_tokens)?;
        Ok(Work::Complete { samples: args.samples, max_tokens })
    })
}

/// Runs `eval infilling`.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run_infilling(args: InfillingArgs) -> anyhow::Result<()> {
    run(&args.common, Form::Infilling, |completer| {
        let holes = args.holes.iter().map(|hole| screen::checked_tokens(completer, *hole));
        Ok(Work::Fill { holes: holes.collect::<Result<_, _>>()? })
    })
}

fn run(
    args: &Common,
    form: Form,
    work: impl FnOnce(&Completer) -> anyhow::Result<Work>,
) -> anyhow::Result<()> {
    let problems = problem::read(&args.file, form, args.limit)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let time = Duration::from_secs(args.timeout_s);
        let sandbox = Sandbox::find(&args.python, time).await?;
        let (name, solver) = match (args.canonical, args.broken) {
            (true, _) => ("canonical solutions".to_owned(), Solver::Canonical),
            (_, true) => ("damaged solutions".to_owned(), Solver::Broken),
            _ => {
                let completer = args.model.completer()?;
                let (name, options) = (completer.name().to_owned(), args.model.options());
                let work = work(&completer)?;
                (name, Solver::Model(Box::new(Writer { completer, options, work })))
            }
        };
        let outcomes = outcomes(&problems, &solver, &sandbox).await?;
        let figures = Figures::of(&outcomes);
        if args.json {
            println!("{}", figures.json(&name, sandbox.isolation, &outcomes));
        } else {
            figures.print(&name, sandbox.isolation, &outcomes);
        }
        let wrong = match solver {
            Solver::Canonical => figures.solutions - figures.passed,
            Solver::Broken => figures.passed,
            Solver::Model(_) => 0,
        };
        let should = if args.canonical { "passed" } else { "failed" };
        anyhow::ensure!(wrong == 0, "{wrong} of {} {name} should have {should}", figures.solutions);
        Ok(())
    })
}

/// Has every problem solved and runs the solutions, several at a time.
async fn outcomes(problems: &[Problem], solver: &Solver, sandbox: &Sandbox) -> anyhow::Result<Vec<Outcome>> {
    let bar = ProgressBar::new(problems.len() as u64)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} problems, {eta} left")?);
    let places = Semaphore::new(std::thread::available_parallelism().map_or(1, NonZero::get));
    let outcome = async |(index, problem): (usize, &Problem)| -> anyhow::Result<Outcome> {
        let task_id = problem.task_id.clone();
        let completions = match solver {
            Solver::Canonical => vec![problem.canonical_solution.clone()],
            Solver::Broken => vec![problem.damaged(index).to_owned()],
            Solver::Model(writer) => {
                writer.solve(problem).await.with_context(|| format!("cannot solve {task_id}"))?
            }
        };
        let mut solutions = Vec::new();
        for completion in completions {
            let _place = places.acquire().await?;
            let verdict = sandbox.run(&problem.program(&completion)).await;
            solutions.push((completion, verdict.with_context(|| format!("cannot run {task_id}"))?));
        }
        bar.inc(1);
        Ok(Outcome { task_id, solutions })
    };
    let outcomes = stream::iter(problems.iter().enumerate()).map(outcome).buffered(AT_ONCE);
    let outcomes = outcomes.try_collect().await?;
    bar.finish_and_clear();
    Ok(outcomes)
}

/// What came of all problems.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    problems: usize,
    solutions: usize,
    passed: usize,
    timed_out: usize,
    /// The mean over problems of the share of their solutions that passed.
    pass_at_1: f64,
    /// Between these it is with a confidence of 95 %, for other problems of the kind.
    low: f64,
    high: f64,
    /// What failed, by the kind of its error.
    errors: BTreeMap<String, usize>,
}

impl Figures {
    fn of(outcomes: &[Outcome]) -> Figures {
        let mut figures = Figures { problems: outcomes.len(), ..Figures::default() };
        for outcome in outcomes {
            let passed = outcome.solutions.iter().filter(|(_, v)| *v == Verdict::Passed).count();
            figures.solutions += outcome.solutions.len();
            figures.passed += passed;
            figures.pass_at_1 += passed as f64 / outcome.solutions.len().max(1) as f64;
            for (_, verdict) in &outcome.solutions {
                match verdict {
                    Verdict::Passed => {}
                    Verdict::TimedOut => figures.timed_out += 1,
                    Verdict::Failed(why) => {
                        let kind = why.split([':', '(']).next().unwrap_or_default().trim().to_owned();
                        *figures.errors.entry(kind).or_default() += 1;
                    }
                }
            }
        }
        let count = outcomes.len().max(1) as f64;
        figures.pass_at_1 /= count;
        (figures.low, figures.high) = interval(figures.pass_at_1, count);
        figures
    }

    fn json(&self, name: &str, isolation: Isolation, outcomes: &[Outcome]) -> Value {
        let why = |verdict: &Verdict| match verdict {
            Verdict::Passed => Value::Null,
            Verdict::TimedOut => "timed out".into(),
            Verdict::Failed(why) => why.as_str().into(),
        };
        let solution = |(completion, verdict): &(String, Verdict)| {
            let is_passed = *verdict == Verdict::Passed;
            json!({ "completion": completion, "passed": is_passed, "error": why(verdict) })
        };
        let result = |outcome: &Outcome| {
            let solutions: Vec<Value> = outcome.solutions.iter().map(solution).collect();
            json!({ "task_id": outcome.task_id, "solutions": solutions })
        };
        json!({
            "solver": name, "problems": self.problems, "solutions": self.solutions,
            "passed": self.passed, "timed_out": self.timed_out, "errors": self.errors,
            "pass_at_1": self.pass_at_1, "low": self.low, "high": self.high,
            "isolation": isolation, "results": outcomes.iter().map(result).collect::<Vec<_>>(),
        })
    }

    fn print(&self, name: &str, isolation: Isolation, outcomes: &[Outcome]) {
        println!(
            "{name}: pass@1 {:.1} % (95 %: {:.1} to {:.1}), {} of {} solutions of {} problems passed",
            self.pass_at_1 * 100.0,
            self.low * 100.0,
            self.high * 100.0,
            self.passed,
            self.solutions,
            self.problems
        );
        if self.timed_out > 0 {
            println!("{:>6} timed out", self.timed_out);
        }
        for (kind, count) in &self.errors {
            println!("{count:>6} {kind}");
        }
        let solved = outcomes.iter().filter(|o| o.solutions.iter().any(|(_, v)| *v == Verdict::Passed));
        let solved: Vec<&str> = solved.map(|outcome| outcome.task_id.as_str()).collect();
        // What is rare is named.
        if !solved.is_empty() && solved.len() <= outcomes.len() / 4 {
            println!("solved: {}", solved.join(", "));
        }
        let walls =
            [(isolation.files, "files"), (isolation.network, "network"), (isolation.processes, "processes")];
        let held: Vec<&str> = walls.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name).collect();
        let held = if held.is_empty() { "nothing".to_owned() } else { held.join(", ") };
        println!("the guard kept programs from other files, network and processes; namespaces from: {held}");
    }
}

/// Returns the bounds of a share of `count` with a confidence of 95 % (Wilson, JASA 22 (1927), 209–212).
fn interval(share: f64, count: f64) -> (f64, f64) {
    let scale = 1.0 + Z * Z / count;
    let middle = share + Z * Z / (2.0 * count);
    let width = Z * (share * (1.0 - share) / count + Z * Z / (4.0 * count * count)).sqrt();
    (((middle - width) / scale).max(0.0), ((middle + width) / scale).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_means_over_problems_with_their_bounds() {
        let outcome = |verdicts: &[Verdict]| Outcome {
            task_id: "a/0".to_owned(),
            solutions: verdicts.iter().map(|verdict| (String::new(), verdict.clone())).collect(),
        };
        let failed = || Verdict::Failed("NameError: name 'x' is not defined".to_owned());
        let figures = Figures::of(&[
            outcome(&[Verdict::Passed, failed()]),
            outcome(&[Verdict::TimedOut, failed()]),
            outcome(&[Verdict::Passed, Verdict::Passed]),
        ]);
        assert_eq!((figures.problems, figures.solutions, figures.passed, figures.timed_out), (3, 6, 3, 1));
        assert_eq!(figures.errors, BTreeMap::from([("NameError".to_owned(), 2)]));
        assert!((figures.pass_at_1 - 0.5).abs() < 1e-9, "{figures:?}");
        assert!(figures.low > 0.0 && figures.low < 0.5 && figures.high > 0.5 && figures.high < 1.0);
    }

    #[test]
    fn bounds_are_wilsons() {
        // 20 of 100: from R, binom::binom.wilson(20, 100).
        let (low, high) = interval(0.2, 100.0);
        assert!((low - 0.133_368).abs() < 1e-4 && (high - 0.288_829).abs() < 1e-4, "{low} {high}");
        assert_eq!(interval(0.0, 164.0).0, 0.0);
        assert_eq!(interval(1.0, 164.0).1, 1.0);
    }
}
