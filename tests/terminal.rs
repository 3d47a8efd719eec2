//! The model in the terminal: `generate`, `infill` and `chat` as somebody runs them, with the bundled model.

use std::io::Write;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

/// Runs the command with an input; returns whether it succeeded and what it said on both outputs.
fn run(arguments: &[&str], input: &str) -> (bool, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_chatdlm"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input may be gone already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn json(arguments: &[&str], input: &str) -> Value {
    let (is_fine, output, complaint) = run(arguments, input);
    assert!(is_fine, "{arguments:?}: {complaint}");
    serde_json::from_str(&output).unwrap()
}

#[test]
fn generate_goes_on_with_a_text() {
    let prompt = "Thank you for calling,";
    let (_, text, _) = run(&["generate", prompt, "--max-tokens", "24"], "");
    let report = json(&["generate", "-", "--max-tokens", "24", "--json"], prompt);
    assert_eq!(report["text"], text.trim_end_matches('\n'), "an argument and the input are the same");
    assert!(report["generated_tokens"].as_u64().is_some_and(|tokens| (1..=24).contains(&tokens)), "{report}");
    assert!(report["steps"].as_u64().is_some_and(|steps| steps > 0));
    let drawn = |seed| {
        json(&["generate", prompt, "--temperature", "1.5", "--seed", seed, "--json"], "")["text"].clone()
    };
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}

#[test]
fn steps_are_shown_as_lines_where_there_is_no_terminal() {
    let prompt = "Thank you for calling,";
    let (is_fine, shown, complaint) = run(&["generate", prompt, "--max-tokens", "10", "--show-steps"], "");
    assert!(is_fine, "{complaint}");
    assert!(!shown.contains('\x1b'), "no control sequences: {shown:?}");
    let lines: Vec<&str> = shown.lines().collect();
    // Steps that nobody fetched in time are left out, so the first shown need not be step 1.
    assert!(lines[0].contains("  Thank you for calling,") && lines[0].contains('░'), "{shown}");
    let (_, text, _) = run(&["generate", prompt, "--max-tokens", "10"], "");
    assert!(shown.contains(&format!("\n\n{prompt}{}\n\n", text.trim_end_matches('\n'))), "{shown}\n{text}");
    assert!(lines.last().unwrap().contains("tokens in"), "{shown}");
}

#[test]
fn infill_writes_the_holes_only() {
    let report = json(&["infill", r"Dear [[4]], your  order \[[2]] – [[3]]!", "--json"], "");
    let text = report["text"].as_str().unwrap();
    let span = |i: usize| report["spans"][i]["text"].as_str().unwrap();
    assert_eq!(text, format!("Dear {}, your  order [[2]] – {}!", span(0), span(1)));
    let (_, plain, _) = run(&["infill", "-"], r"Dear [[4]], your  order \[[2]] – [[3]]!");
    assert_eq!(plain, format!("{text}\n"));
}

#[test]
fn infill_says_what_it_must_and_not_what_it_may_not() {
    let text = "We will [[9]] to you [[6]].";
    let options = ["--must-include", "next Monday", "--forbid", "E T", "--forbid", "call"];
    let drawn = ["--candidates", "3", "--temperature", "1", "--seed", "4", "--json"];
    let report = json(&[&["infill", text][..], &options, &drawn].concat(), "");
    let candidates = report["candidates"].as_array().unwrap();
    assert_eq!((candidates.len(), &candidates[0]["text"]), (3, &report["text"]));
    let likelihoods: Vec<f64> =
        candidates.iter().map(|c| c["mean_log_probability"].as_f64().unwrap()).collect();
    assert!(likelihoods.is_sorted_by(|a, b| a >= b), "{likelihoods:?}");
    for candidate in candidates {
        let filled = candidate["text"].as_str().unwrap();
        assert!(filled.contains("next Monday") && filled.starts_with("We will "), "{filled:?}");
        let lower = filled.to_lowercase();
        assert!(!lower.contains("e t") && !lower.contains("call"), "{filled:?}");
    }
}

#[test]
fn passes_are_predicted_by_what_was_fitted() {
    let folder = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir("models/nano").unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    let file = folder.path().join("step_predictor.json");
    let before = std::fs::read(&file).unwrap();
    let measure = ["eval", "steps", "--prompts", "8", "--tokens", "12", "--json", "--model"];
    let measure = [&measure[..], &[folder.path().to_str().unwrap()]].concat();
    let fitted = json(&[&measure[..], &["--fit"]].concat(), "");
    assert_ne!(std::fs::read(&file).unwrap(), before);
    let error = |report: &Value, of: &str| report[of]["mean_absolute_error"].as_f64().unwrap();
    let difference = error(&json(&measure, ""), "prediction") - error(&fitted, "prediction");
    assert!(difference.abs() < 1e-6, "what was written is what is read");
    assert!(error(&fitted, "prediction") < error(&fitted, "rule_of_thumb"), "{fitted}");
    for row in fitted["thresholds"].as_array().unwrap() {
        assert!(row["passes"].as_u64() <= row["passes_fixed"].as_u64(), "{row}");
    }
    std::fs::write(&file, "{}").unwrap();
    let (is_fine, _, complaint) = run(&measure, "");
    assert!(!is_fine && complaint.contains("step_predictor.json"), "{complaint}");
}

#[test]
fn chat_answers_line_by_line_and_forgets_on_request() {
    let (is_fine, output, complaint) =
        run(&["chat", "--max-tokens", "16"], "My bill is too high.\n/reset\nMy bill is too high.\n/dance\n");
    assert!(is_fine, "{complaint}");
    let lines: Vec<&str> = output.lines().collect();
    let forgotten = lines.iter().position(|line| *line == "forgotten").expect("a word on /reset");
    assert!(forgotten > 0);
    assert_eq!(
        lines[..forgotten],
        lines[forgotten + 1..2 * forgotten + 1],
        "the same question, the same answer"
    );
    assert!(output.contains("there is no /dance") && output.contains("/help"), "{output}");
}

#[test]
fn what_is_wrong_is_named() {
    for (arguments, named) in [
        (&["infill", "no hole"][..], "[[8]]"),
        (&["infill", "a [[0]]"], "[[0]]"),
        (&["infill", "a [[1]]", "--must-include", "b c d"], "\"b c d\""),
        (&["infill", "a [[9]]", "--must-include", "b c", "--forbid", "B"], "forbidden"),
        (&["infill", "a [[9000]]"], "8192"),
        (&["generate", "x", "--max-tokens", "9000"], "8192"),
        (&["generate", "x", "--threshold", "2"], "--threshold"),
        (&["generate", "x", "--temperature", "3"], "temperature"),
        (&["generate", "x", "--model", "no/such/folder"], "no/such/folder"),
    ] {
        let (is_fine, _, complaint) = run(arguments, "");
        assert!(!is_fine && complaint.contains(named), "{arguments:?}: {complaint}");
    }
}
