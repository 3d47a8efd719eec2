//! `chatdlm eval model` as somebody runs it: a small company and a set of labels, with the bundled model.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use serde_json::json;

/// Runs the command; returns whether it succeeded and what it said on both outputs.
fn run(arguments: &[&str]) -> (bool, String, String) {
    let output =
        Command::new(env!("CARGO_BIN_EXE_chatdlm")).args(["eval", "model"]).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn call(id: &str, thing: &str, emotion: &str, disposition: &str) -> Value {
    json!({
        "id": id, "domain": "telecom", "company": "Tel", "style": "clean",
        "turns": [
            {"speaker": "agent", "text": "Good morning, you are speaking to Priya, how can I help you today?"},
            {"speaker": "customer", "text": format!("What does the {thing} cost, please?"), "emotion": "neutral",
             "articles": [format!("tel-{thing}")]},
            {"speaker": "agent", "text": format!("The {thing} costs twenty-five euros a month."),
             "facts": ["twenty-five euros a month"]},
            {"speaker": "customer", "text": format!("I see, that is what I thought about the {thing}."),
             "emotion": emotion},
        ],
        "knowledge": [format!("tel-{thing}")],
        "summary": format!("The customer asked what the {thing} costs, and was told."),
        "disposition": disposition, "topics": [thing],
    })
}

fn lines(path: &Path, rows: &[Value]) {
    fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

/// Makes a company in `folder/tel`, and `folder/moods.jsonl` with labels of its own.
fn write_data(folder: &Path) {
    let company = folder.join("tel");
    fs::create_dir_all(company.join("articles")).unwrap();
    for (thing, text) in
        [("roaming", "Roaming costs 25 euros a month."), ("router", "The router costs 25 euros a month.")]
    {
        let article = format!("---\nid: tel-{thing}\ntitle: The {thing}\n---\n{text} Call us any time.\n");
        fs::write(company.join(format!("articles/tel-{thing}.md")), article).unwrap();
    }
    let trained = [
        call("t1", "roaming", "satisfied", "price_told"),
        call("t2", "router", "satisfied", "price_told"),
        call("t3", "router", "angry", "complaint_logged"),
    ];
    let measured =
        [call("d1", "roaming", "satisfied", "price_told"), call("d2", "router", "angry", "gone_away")];
    lines(&company.join("calls.train.jsonl"), &trained);
    lines(&company.join("calls.dev.jsonl"), &measured);
    lines(
        &company.join("queries.dev.jsonl"),
        &[json!({"text": "price of the router", "relevant": ["tel-router"]})],
    );
    fs::write(
        folder.join("emotion_labels.json"),
        r#"{"files": {"moods.jsonl": {"joy": "satisfied", "rage": "angry"}}}"#,
    )
    .unwrap();
    let mood = |(id, split, text, label): (&str, &str, &str, &str)| json!({"source": "moods", "id": id, "split": split, "text": text, "labels": [label]});
    let moods = [
        ("1", "train", "this is wonderful", "joy"),
        ("2", "train", "so wonderful, thanks", "joy"),
        ("3", "train", "this is dreadful", "rage"),
        ("4", "train", "a dreadful, dreadful day", "rage"),
        ("5", "dev", "how wonderful", "joy"),
        ("6", "dev", "how dreadful", "rage"),
        ("7", "test", "a dreadful thing", "rage"),
        ("8", "test", "it rains", "weather"),
    ];
    lines(&folder.join("moods.jsonl"), &moods.map(mood));
}

/// Returns the row of a part whose measure is this.
fn row<'a>(report: &'a Value, part: &str, measure: &str) -> &'a Value {
    let rows = report["parts"][part]["rows"].as_array().unwrap_or_else(|| panic!("{part}: {report}"));
    rows.iter().find(|row| row["measure"] == measure).unwrap_or_else(|| panic!("no {measure}: {rows:?}"))
}

#[test]
fn every_part_has_figures_beside_its_baselines() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let (company, moods) = (folder.path().join("tel"), folder.path().join("moods.jsonl"));
    let (company, moods) = (company.to_str().unwrap(), moods.to_str().unwrap());
    let few = ["--drafts", "1", "--prompts", "1", "--spans", "2", "--json"];
    let (is_fine, output, complaint) = run(&[&[company, "--data", moods][..], &few].concat());
    assert!(is_fine, "{complaint}");
    let report: Value = serde_json::from_str(&output).unwrap();
    let parts = report["parts"].as_object().unwrap();
    let names: Vec<&String> = parts.keys().collect();
    assert_eq!(
        names,
        ["language", "emotion", "drafts", "infill", "structure", "steps", "knowledge", "summary"]
    );
    for row in parts.values().flat_map(|part| part["rows"].as_array().unwrap()) {
        let number = |name: &str| row[name].as_f64().unwrap();
        assert!(number("low") <= number("value") && number("value") <= number("high"), "{row}");
        assert!(
            number("units") > 0.0 && !row["beside"].as_array().unwrap().is_empty()
                || row["measure"].as_str().unwrap().ends_with("against fixed"),
            "{row}"
        );
    }
    // Three of the four labels of the set have a meaning, and the classifier knows the words.
    let moods = row(&report, "emotion", "emotion, moods: macro-F1");
    assert_eq!((&moods["units"], &moods["beside"][0]["value"]), (&json!(3), &json!(1.0)));
    assert_eq!(report["sets"]["service"]["training_labels"], 6);
    let bits = row(&report, "language", "language, service: bits per byte");
    assert!(bits["value"].as_f64() > Some(0.3) && bits["value"].as_f64() < Some(8.0), "{bits}");
    assert!(bits["beside"][0]["value"].as_f64() < Some(1.0), "nearly the same calls were counted: {bits}");
    assert_eq!(row(&report, "structure", "structure: valid JSON")["value"], 1.0);
    let passes = row(&report, "steps", "steps: passes of a block of 32");
    assert_eq!(passes["beside"][0]["value"], 32.0);
    assert!(passes["value"].as_f64() <= Some(32.0), "{passes}");
    let facts = row(&report, "drafts", "drafts, quoting, right card: facts");
    assert_eq!(facts["beside"][0], json!({"name": "best passage", "value": 1.0}));
    assert_eq!(row(&report, "knowledge", "cards, queries: hit@1")["value"], 1.0);
    let disposition = row(&report, "summary", "disposition among those of the training calls: accuracy");
    assert_eq!(disposition["beside"][0]["value"], 0.5);
}

#[test]
fn one_part_is_printed_as_a_table() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    // The folder of company folders does as well.
    let (is_fine, table, complaint) = run(&[folder.path().to_str().unwrap(), "--only", "knowledge"]);
    assert!(is_fine, "{complaint}");
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 5, "{table}");
    assert!(lines[0].starts_with("measure ") && lines[1].starts_with("cards, turns: hit@1 "), "{table}");
    assert!(lines[4].starts_with("cards, queries: hit@3") && lines[4].ends_with("≥ 0.85"), "{table}");
}

#[test]
fn what_cannot_be_measured_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let moods = folder.path().join("moods.jsonl");
    let (is_fine, table, _) = run(&["--data", moods.to_str().unwrap(), "--only", "knowledge,emotion"]);
    assert!(is_fine && table.contains("knowledge: what was given holds nothing to measure"), "{table}");
    for (arguments, named) in [
        (vec![], "<COMPANIES>"),
        (vec!["no/such/folder"], "no/such/folder"),
        (vec!["--data", "no/such.jsonl"], "no/such.jsonl"),
        (vec!["--data", moods.to_str().unwrap(), "--only", "weather"], "weather"),
    ] {
        let (is_fine, _, complaint) = run(&arguments);
        assert!(!is_fine && complaint.contains(named), "{arguments:?}: {complaint}");
    }
}

#[test]
fn words_are_learned_from_labelled_calls_and_a_damaged_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write_data(folder.path());
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/models/nano")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let words = model.join("emotion_words.safetensors");
    assert!(words.exists(), "the bundled model has words");
    let train = |service: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chatdlm"));
        command.args(["train", "--emotion-words", "--service"]).arg(service).arg("--out").arg(&words);
        command.output().unwrap()
    };
    let output = train(folder.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("words of 6 labelled turns"));
    let tel = folder.path().join("tel");
    let asked = [tel.to_str().unwrap(), "--model", model.to_str().unwrap(), "--only", "emotion"];
    assert!(run(&asked).0);
    fs::write(&words, "nonsense").unwrap();
    let (is_good, said, _) = run(&asked);
    assert!(!is_good && said.contains("emotion_words.safetensors"), "{said}");
}
