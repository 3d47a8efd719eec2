//! `eval humaneval` and `eval infilling` as somebody runs them, on problems of our own.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

/// Returns a fixture, compressed as the published files are.
fn compressed(name: &str) -> (TempDir, PathBuf) {
    let text = std::fs::read(Path::new("tests/fixtures").join(name)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("problems.jsonl.gz");
    let file = std::fs::File::create(&path).unwrap();
    let mut encoder = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    encoder.write_all(&text).unwrap();
    encoder.finish().unwrap();
    (folder, path)
}

/// Runs an evaluation; returns whether it succeeded, its report, and what it complained of.
fn eval(what: &str, file: &Path, arguments: &[&str]) -> (bool, Value, String) {
    let command = Command::new(env!("CARGO_BIN_EXE_chatdlm"))
        .args(["eval", what])
        .arg(file)
        .args(["--json", "--timeout-s", "5"])
        .args(arguments)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&command.stdout).unwrap_or_default();
    (command.status.success(), report, String::from_utf8(command.stderr).unwrap())
}

#[test]
fn reference_solutions_all_pass_and_damaged_ones_all_fail() {
    for (what, fixture) in [("humaneval", "code_problems.jsonl"), ("infilling", "code_lines.jsonl")] {
        let (_folder, file) = compressed(fixture);
        let (is_fine, report, complaint) = eval(what, &file, &["--canonical"]);
        assert!(is_fine && report["pass_at_1"] == 1.0 && report["passed"] == 3, "{report} {complaint}");
        let (is_fine, report, complaint) = eval(what, &file, &["--broken"]);
        assert!(is_fine && report["pass_at_1"] == 0.0 && report["problems"] == 3, "{report} {complaint}");
        // The first damage never ends.
        assert_eq!(report["timed_out"], 1, "{report}");
    }
}

#[test]
fn a_reference_solution_that_fails_is_an_error() {
    let text = std::fs::read_to_string("tests/fixtures/code_problems.jsonl").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("problems.jsonl");
    std::fs::write(&file, text.replace("days // 7", "days // 5")).unwrap();
    let (is_fine, report, complaint) = eval("humaneval", &file, &["--canonical"]);
    assert!(!is_fine && complaint.contains("1 of 3 canonical solutions should have passed"), "{complaint}");
    assert_eq!(report["errors"]["AssertionError"], 1, "{report}");
    assert_eq!(report["results"][0]["solutions"][0]["passed"], false);
}

#[test]
fn the_model_solves_problems_as_it_can() {
    let (_folder, file) = compressed("code_problems.jsonl");
    let (is_fine, report, complaint) = eval("humaneval", &file, &["--limit", "2", "--max-tokens", "16"]);
    assert!(is_fine, "{complaint}");
    assert_eq!((&report["problems"], &report["solutions"]), (&2.into(), &2.into()), "{report}");
    let completion = report["results"][1]["solutions"][0]["completion"].as_str().unwrap();
    assert!(!completion.is_empty() && !completion.contains("\ndef "), "{completion:?}");
    let samples = ["--limit", "1", "--max-tokens", "8", "--samples", "2"];
    let (is_fine, _, complaint) = eval("humaneval", &file, &samples);
    assert!(!is_fine && complaint.contains("--temperature"), "{complaint}");
    let (is_fine, report, complaint) =
        eval("humaneval", &file, &[&samples[..], &["--temperature", "1"]].concat());
    assert!(is_fine && report["solutions"] == 2, "{report} {complaint}");

    let (_folder, file) = compressed("code_lines.jsonl");
    let (is_fine, report, complaint) = eval("infilling", &file, &["--holes", "2,4"]);
    assert!(is_fine, "{complaint}");
    let completion =
        |i: usize| report["results"][i]["solutions"][0]["completion"].as_str().unwrap().to_owned();
    assert!(completion(0).ends_with('\n') && completion(0).matches('\n').count() == 1, "{:?}", completion(0));
    assert!(completion(2).len() < 40, "{:?}", completion(2));
}
