//! `report.html` beside a checkpoint: how the training went, on one page that needs nothing else.
//!
//! The curves are read back from `train.jsonl`; the options of the run and what the newest checkpoint
//! wrote are kept in `report.json`. So the page can be made again at any time (`chatdlm train
//! --report-only`). All text is escaped, for the data is nobody's friend.

use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::command::train::chart;
use crate::command::train::chart::Line;
use crate::command::train::samples;
use crate::command::train::samples::Asked;
use crate::command::train::samples::Sample;

/// The log of a run.
const LOG: &str = "train.jsonl";
/// The page.
const PAGE: &str = "report.html";
/// What the page shows and the log does not.
const REST: &str = "report.json";
const CSS: &str = include_str!("report.css");
/// What `config.json` says that the page shows.
const SHAPE: [&str; 10] = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "num_shared_experts",
    "vocab_size",
    "block_size",
];

/// A run's report, rewritten at each checkpoint.
#[derive(Debug)]
pub struct Report {
    out: PathBuf,
    rest: Rest,
    asked: Vec<Asked>,
}

/// What `report.json` holds.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Rest {
    /// The options that the run was started with.
    options: Map<String, Value>,
    /// What the newest checkpoint wrote.
    samples: Vec<Sample>,
    /// Why there are no samples.
    no_samples: Option<String>,
}

/// A line of the log, as far as it is shown. Others may write more, or less.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Row {
    step: u64,
    tokens: f64,
    seconds: f64,
    loss: Option<f64>,
    dev_loss: Option<f64>,
    /// Of the highest learning rate.
    rate: Option<f64>,
    tokens_per_s: Option<f64>,
    expert_share: Vec<Vec<f64>>,
}

impl Report {
    /// Begins the report of a run.
    pub fn new(out: &Path, options: &impl Serialize, asked: Vec<Asked>) -> anyhow::Result<Report> {
        let Value::Object(options) = serde_json::to_value(options)? else {
            anyhow::bail!("the options of a run are an object")
        };
        Ok(Report { out: out.to_owned(), rest: Rest { options, ..Rest::default() }, asked })
    }

    /// Opens the report of the run in `out` as it was left, to answer these prompts, if there are some,
    /// with its newest checkpoint.
    ///
    /// # Errors
    /// When `report.json` is there and damaged.
    pub fn open(out: &Path, asked: Vec<Asked>) -> anyhow::Result<Report> {
        let path = out.join(REST);
        let rest = match path.exists() {
            true => serde_json::from_slice(&std::fs::read(&path)?)
                .with_context(|| format!("cannot understand {}", path.display()))?,
            false => Rest::default(),
        };
        Ok(Report { out: out.to_owned(), rest, asked })
    }

    /// Has the newest checkpoint answer, if there are prompts, and writes the page; returns its path.
    ///
    /// That it does not answer is no error: the page says why.
    ///
    /// # Errors
    /// When the log cannot be read or the page not be written.
    ///
    /// # Blocking
    /// As long as loading the checkpoint and answering takes.
    pub fn write(&mut self) -> anyhow::Result<PathBuf> {
        if !self.asked.is_empty() {
            (self.rest.samples, self.rest.no_samples) = match samples::write(&self.out, &self.asked) {
                Ok(samples) => (samples, None),
                Err(error) => (Vec::new(), Some(format!("{error:#}"))),
            };
        }
        if self.rest != Rest::default() {
            write_whole(&self.out.join(REST), &serde_json::to_string_pretty(&self.rest)?)?;
        }
        let rows = rows(&self.out.join(LOG))?;
        let shape = std::fs::read(self.out.join("config.json")).ok();
        let shape = shape.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        let name = self.out.canonicalize().ok();
        let name = name.as_deref().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let page = self.out.join(PAGE);
        write_whole(&page, &html(&name, &rows, &self.rest, &shape))?;
        Ok(page)
    }
}

/// Reads the log. What was trained again after a crash replaces what it was before; a line that was
/// cut off is left out.
fn rows(path: &Path) -> anyhow::Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut rows: Vec<Row> = Vec::new();
    for mut row in text.lines().filter_map(|line| serde_json::from_str::<Row>(line).ok()) {
        if row.step == 0 || row.tokens <= 0.0 {
            continue;
        }
        // Nothing was held out.
        row.dev_loss = row.dev_loss.filter(|loss| *loss > 0.0);
        while rows.last().is_some_and(|before| before.step >= row.step) {
            rows.pop();
        }
        rows.push(row);
    }
    anyhow::ensure!(!rows.is_empty(), "{} has no steps yet", path.display());
    Ok(rows)
}

/// Writes a file beside its place and renames it, so that readers see the old or the new one.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Returns text as it stands in HTML, within elements and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

fn html(name: &str, rows: &[Row], rest: &Rest, shape: &Map<String, Value>) -> String {
    let name = escape(name);
    let sections =
        [tiles(rows), curves(rows, rest), experts(rows), answers(rest), facts(rest, shape)].concat();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>Training of {name}</title><style>\n{CSS}</style></head>\n\
         <body><h1>Training of {name}</h1>\n{sections}</body></html>\n"
    )
}

/// Returns where the run stands.
fn tiles(rows: &[Row]) -> String {
    let Some(last) = rows.last() else { return String::new() };
    let newest = |of: fn(&Row) -> Option<f64>| rows.iter().rev().find_map(of);
    let number = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), chart::exact);
    let dev = rows.iter().filter_map(|row| row.dev_loss);
    let best = dev.fold(None, |best: Option<f64>, loss| Some(best.map_or(loss, |best| best.min(loss))));
    let tiles = [
        ("steps", last.step.to_string()),
        ("tokens", chart::short(last.tokens)),
        ("time", duration(last.seconds)),
        ("loss", number(newest(|row| row.loss))),
        ("dev loss", number(newest(|row| row.dev_loss))),
        ("lowest dev loss", number(best)),
        ("tokens/s", number(newest(|row| row.tokens_per_s))),
    ];
    let mut html = String::from("<dl class=\"tiles\">");
    for (name, value) in tiles {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    }
    html + "</dl>\n"
}

fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds:.0} s"),
        (0, minutes) => format!("{minutes} min"),
        (hours, minutes) => format!("{hours} h {minutes:02} min"),
    }
}

fn curves(rows: &[Row], rest: &Rest) -> String {
    let line = |name, of: &dyn Fn(&Row) -> Option<f64>| Line {
        name,
        points: rows.iter().filter_map(|row| Some((row.tokens, of(row)?))).collect(),
    };
    let highest = rest.options.get("learning_rate").and_then(Value::as_f64);
    let rate = if highest.is_some() { "Learning rate" } else { "Learning rate, of the highest" };
    let charts = [
        chart::lines(
            "Loss against tokens",
            &[line("loss", &|row| row.loss), line("dev loss", &|row| row.dev_loss)],
        ),
        chart::lines(rate, &[line("", &|row| Some(row.rate? * highest.unwrap_or(1.0)))]),
        chart::lines("Tokens a second", &[line("", &|row| row.tokens_per_s)]),
    ];
    format!("<h2>Curves</h2><div class=\"grid\">{}</div>\n", charts.concat())
}

fn experts(rows: &[Row]) -> String {
    let layers = rows.iter().map(|row| row.expert_share.len()).max().unwrap_or(0);
    if layers == 0 {
        return String::new();
    }
    let mut html = String::from(
        "<h2>Load of the experts</h2><p class=\"dim\">For each layer a row for each expert and a column for \
         each checkpoint: how many times an even share of the tokens it took since the log's line before.</p>\
         <p class=\"scale\">",
    );
    for (level, (name, _)) in chart::LEVELS.iter().enumerate() {
        let _ = write!(html, "<span><i class=\"heat{level}\"></i>{name}</span>");
    }
    html.push_str("</p><div class=\"grid\">");
    for layer in 0..layers {
        let shares: Vec<(f64, &[f64])> = rows
            .iter()
            .filter_map(|row| Some((row.tokens, row.expert_share.get(layer)?.as_slice())))
            .collect();
        html.push_str(&chart::heat(&format!("Layer {}", layer + 1), &shares));
    }
    html + "</div>\n"
}

fn answers(rest: &Rest) -> String {
    let mut html = String::from("<h2>What the newest checkpoint writes</h2>");
    if let Some(why) = &rest.no_samples {
        let _ = write!(html, "<p class=\"dim\">It wrote nothing: {}</p>", escape(why));
    } else if rest.samples.is_empty() {
        html.push_str("<p class=\"dim\">No held-out prompts were given (--service has some).</p>");
    }
    for sample in &rest.samples {
        html.push_str("<article>");
        let mut paragraph = |class: &str, who: &str, text: &str| {
            let _ = write!(html, "<p{class}><b>{}</b><span>{}</span></p>", escape(who), escape(text));
        };
        let (asked, before) = sample
            .prompt
            .split_last()
            .map_or(("reply", &[][..]), |(last, before)| (last.who.as_str(), before));
        for said in before {
            paragraph("", &said.who, &said.text);
        }
        paragraph(" class=\"written\"", &format!("{asked}, {} passes", sample.passes), &sample.written);
        paragraph(" class=\"dim\"", "a person's", &sample.real);
        html.push_str("</article>");
    }
    html + "\n"
}

/// Returns the options and the shape.
fn facts(rest: &Rest, shape: &Map<String, Value>) -> String {
    let mut html = String::new();
    let shape: Map<String, Value> =
        SHAPE.iter().filter_map(|key| Some(((*key).to_owned(), shape.get(*key)?.clone()))).collect();
    for (title, facts) in [("Options", &rest.options), ("Shape", &shape)] {
        if facts.is_empty() {
            continue;
        }
        let _ = write!(html, "<h2>{title}</h2><dl class=\"options\">");
        for (key, value) in facts {
            let value = match value {
                Value::Null => "–".to_owned(),
                Value::String(text) => text.clone(),
                // Through f32 and back a number has digits that nobody wrote.
                Value::Number(number) if number.is_f64() => chart::exact(number.as_f64().unwrap_or_default()),
                other => other.to_string(),
            };
            let _ = write!(
                html,
                "<div><dt>{}</dt><dd>{}</dd></div>",
                escape(&key.replace('_', " ")),
                escape(&value)
            );
        }
        html.push_str("</dl>\n");
    }
    html
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::command::train::samples::Said;

    const ROWS: &str = r#"{"documents": 7}
{"step":25,"tokens":1000,"seconds":61,"loss":8.25,"rate":0.5,"tokens_per_s":900}
{"step":50,"tokens":2000,"seconds":120,"loss":7.0,"rate":1,"tokens_per_s":910}
{"step":50,"tokens":2000,"seconds":122,"loss":6.5,"rate":1,"tokens_per_s":905,"dev_loss":6.25,"expert_share":[[0.5,0.5],[1.0,0.0]]}
{"step":75,"tok"#;

    fn folder(rows: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(LOG), rows).unwrap();
        folder
    }

    #[test]
    fn what_was_trained_again_counts_once() {
        let folder = folder(ROWS);
        let rows = rows(&folder.path().join(LOG)).unwrap();
        let losses: Vec<Option<f64>> = rows.iter().map(|row| row.loss).collect();
        assert_eq!(losses, [Some(8.25), Some(6.5)]);
    }

    #[test]
    fn the_page_shows_the_log_and_asks_for_nothing() {
        let folder = folder(ROWS);
        let options = json!({"learning_rate": 0.002, "hidden": 192, "data": null});
        let mut report = Report::new(folder.path(), &options, Vec::new()).unwrap();
        let page = std::fs::read_to_string(report.write().unwrap()).unwrap();
        for part in ["<dd>6.500</dd>", "<dd>6.250</dd>", "2 min", "Layer 2", "<dt>hidden</dt><dd>192</dd>"] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert_eq!(page.matches("heat6\" d=").count(), 0, "twice an even share is not over four times");
        let rest = Report::open(folder.path(), Vec::new()).unwrap().rest;
        assert_eq!(Value::Object(rest.options), options, "the options are kept for the next time");
        for outside in ["http:", "https:", "src=", "<script", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn text_of_the_data_is_never_markup() {
        let evil = "<script>alert('1')</script>\"&";
        let said = Said { who: evil.to_owned(), text: evil.to_owned() };
        let sample = Sample {
            prompt: vec![said.clone(), said],
            written: evil.to_owned(),
            real: evil.to_owned(),
            passes: 1,
        };
        let options = Map::from_iter([(evil.to_owned(), json!(evil))]);
        let rest = Rest { options, samples: vec![sample], no_samples: None };
        let page = html(evil, &[Row { step: 1, tokens: 1.0, ..Row::default() }], &rest, &Map::new());
        assert!(!page.contains("<script") && page.matches("&lt;script&gt;").count() >= 9, "{page}");
        let rest = Rest { no_samples: Some(evil.to_owned()), ..Rest::default() };
        assert!(!answers(&rest).contains("<script"));
    }

    #[test]
    fn a_checkpoint_that_cannot_answer_leaves_a_page_that_says_why() {
        let folder = folder(ROWS);
        let document = crate::corpus::tasks::Document {
            task: crate::corpus::tasks::Task::Reply,
            pieces: vec![
                crate::prompt::Piece::Control(crate::prompt::Control::Reply),
                crate::prompt::Piece::Text(" Yes.".to_owned()),
            ],
        };
        let controls: Vec<&str> = crate::prompt::Control::ALL.iter().map(|c| c.token()).collect();
        let tokenizer =
            crate::engine::tokenizer::Tokenizer::train(["yes"].into_iter(), 300, &controls).unwrap();
        let asked = samples::pick(&[document], &tokenizer, 512).unwrap();
        assert_eq!(asked.len(), 1);
        let mut report = Report::new(folder.path(), &json!({"seed": 1}), asked).unwrap();
        let page = std::fs::read_to_string(report.write().unwrap()).unwrap();
        assert!(page.contains("It wrote nothing: ") && page.contains("config.json"), "{page}");
        // Made again it still says so, and knows the options.
        let mut again = Report::open(folder.path(), Vec::new()).unwrap();
        assert_eq!(std::fs::read_to_string(again.write().unwrap()).unwrap(), page);
    }

    #[test]
    fn a_run_without_a_step_has_no_report() {
        let folder = folder("\n");
        let error = Report::open(folder.path(), Vec::new()).unwrap().write().unwrap_err().to_string();
        assert!(error.ends_with("train.jsonl has no steps yet"), "{error}");
    }
}
