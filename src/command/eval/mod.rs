//! `chatdlm eval`: one file for each thing that is measured.

mod fixtures;
mod knowledge;
mod model;
mod redaction;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum Eval {
    /// Runs every case of reference fixture folders and exits 0 only if all reproduce.
    Fixtures(fixtures::Args),
    /// Measures recall and precision of redaction on labelled calls.
    Redaction(redaction::Args),
    /// Measures card hit rates on labelled calls and queries.
    Knowledge(knowledge::Args),
    /// Measures bits per byte, emotion macro-F1 and drafts on labelled calls.
    Model(model::Args),
}

/// Runs the measurement.
///
/// # Errors
/// One line that names what is wrong and what to do.
pub fn run(eval: Eval) -> anyhow::Result<()> {
    match eval {
        Eval::Fixtures(args) => fixtures::run(args),
        Eval::Redaction(args) => redaction::run(args),
        Eval::Knowledge(args) => knowledge::run(args),
        Eval::Model(args) => model::run(args),
    }
}
