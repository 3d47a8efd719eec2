//! The tests that need `mpirun`.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

/// How far losses of other numbers of ranks may be off: sums of f32 in another order, some steps on.
const TOLERANCE: f64 = 2e-3;

/// Tokens, and numbers of each, of the embeddings.
const VOCABULARY: u32 = 300;
const HIDDEN: u32 = 16;

/// Returns whether there is an `mpirun`, and says so when there is none.
fn has_mpirun() -> bool {
    let is_there = Command::new("mpirun").arg("--version").output().is_ok_and(|out| out.status.success());
    if !is_there {
        eprintln!("not run: there is no mpirun; scripts/setup.sh mpi installs it");
    }
    is_there
}

/// Makes a folder of one company, from what the project ships.
fn company(folder: &Path) {
    let (from, to) = (Path::new("knowledge/bank"), folder.join("bank"));
    fs::create_dir_all(to.join("articles")).unwrap();
    for entry in fs::read_dir(from.join("articles")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join("articles").join(path.file_name().unwrap())).unwrap();
    }
    let calls = fs::read_to_string(from.join("calls.jsonl")).unwrap();
    let first = calls.lines().next().unwrap();
    fs::write(to.join("calls.train.jsonl"), &calls).unwrap();
    fs::write(to.join("calls.dev.jsonl"), first).unwrap();
}

/// The arguments of a small run: three passes a step, so that two ranks have different numbers of them.
fn arguments(service: &Path, out: &Path, steps: u64) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "train --service-repeat 1 --head 8 --layers 2 --experts 4 --expert-width 8",
        "--block 8 --context 64 --batch-tokens 4100 --precision f32 --threads 1",
        "--warm-up 2 --decay 1 --checkpoint-every 3 --log-every 1 --seed 5",
    ]
    .iter()
    .flat_map(|line| line.split(' '))
    .map(str::to_owned)
    .collect();
    for (name, value) in [
        ("--service", service.display().to_string()),
        ("--out", out.display().to_string()),
        ("--steps", steps.to_string()),
        ("--vocabulary", VOCABULARY.to_string()),
        ("--hidden", HIDDEN.to_string()),
    ] {
        arguments.extend([name.to_owned(), value]);
    }
    arguments
}

fn mpirun() -> Command {
    let mut command = Command::new("mpirun");
    command.args(["--allow-run-as-root", "--oversubscribe"]);
    command
}

/// Returns the command that trains with some ranks: one is started without `mpirun`.
fn command(ranks: usize, arguments: &[String], more: &[&str]) -> Command {
    let binary = env!("CARGO_BIN_EXE_chatdlm");
    let mut command = if ranks == 1 { Command::new(binary) } else { mpirun() };
    if ranks > 1 {
        command.args(["-n", &ranks.to_string(), binary]);
    }
    command.args(arguments).args(more);
    command
}

fn run(ranks: usize, arguments: &[String], more: &[&str]) {
    let output = command(ranks, arguments, more).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Returns the lines of a run's log.
fn log(out: &Path) -> Vec<Value> {
    let text = fs::read_to_string(out.join("train.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Checks that two logs have the same losses at the steps of the second.
fn assert_same_losses(expected: &[Value], found: &[Value], what: &str) {
    assert!(!found.is_empty(), "{what}");
    for line in found {
        let at = expected.iter().find(|other| other["step"] == line["step"]).unwrap();
        assert_eq!(line["tokens"], at["tokens"], "{what}: another batch");
        for key in ["loss", "dev_loss"] {
            let (Some(a), Some(b)) = (at[key].as_f64(), line[key].as_f64()) else {
                assert_eq!(at[key], line[key], "{what}: {key}");
                continue;
            };
            assert!((a - b).abs() < TOLERANCE * a, "{what}: {key} {b} at step {}, not {a}", line["step"]);
        }
    }
}

/// Returns one figure of every rank's memory, as the last line of the log says.
fn memory(log: &[Value], key: &str) -> Vec<f64> {
    let ranks = log.last().unwrap()["memory"].as_array().unwrap();
    ranks.iter().map(|rank| rank[key].as_f64().unwrap()).collect()
}

#[test]
fn several_ranks_have_the_losses_of_one_and_their_share_of_memory() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    company(&folder.path().join("service"));
    let train = |ranks: usize, zero: &str| {
        let out = folder.path().join(format!("{ranks}-{zero}"));
        run(ranks, &arguments(&folder.path().join("service"), &out, 6), &["--zero", zero]);
        log(&out)
    };
    let one = train(1, "1");
    let (moments, gradients) = (memory(&one, "moments")[0], memory(&one, "gradients")[0]);
    assert_eq!(memory(&one, "parameters")[0], gradients);
    for (ranks, zero) in [(2, "1"), (2, "2"), (3, "2")] {
        let what = format!("{ranks} ranks, stage {zero}");
        let several = train(ranks, zero);
        assert_same_losses(&one, &several, &what);
        assert_eq!(several.len(), one.len(), "{what}");
        let share = memory(&several, "moments");
        assert_eq!(share.len(), ranks);
        assert_eq!(share.iter().sum::<f64>(), moments, "{what}: each moment is kept once");
        for share in share {
            assert!((share / moments * ranks as f64 - 1.0).abs() < 0.15, "{what}: {share} of {moments}");
        }
        let kept = memory(&several, "gradients");
        if zero == "1" {
            assert!(kept.iter().all(|kept| *kept == gradients), "{what}: {kept:?} of {gradients}");
        } else {
            // Each number once, and on each rank a buffer for the largest part: the embeddings.
            let buffer = 4.0 * f64::from(VOCABULARY * HIDDEN);
            assert!(kept.iter().all(|kept| *kept < gradients), "{what}: {kept:?} of {gradients}");
            assert_eq!(kept.iter().map(|kept| kept - buffer).sum::<f64>(), gradients, "{what}");
        }
    }
}

#[test]
fn a_killed_rank_ends_the_others_and_any_number_goes_on_from_the_last_checkpoint() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let service = folder.path().join("service");
    company(&service);
    let killed = folder.path().join("killed");
    let mut process = command(2, &arguments(&service, &killed, 100_000), &["--zero", "2"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut processes = Vec::new();
    // What a step says comes before its checkpoint is written, so that of step 3 is whole at step 6.
    for line in BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap) {
        if let Some((_, rest)) = line.split_once("(process ") {
            processes.push(rest.split(',').next().unwrap().to_owned());
        }
        if line.contains("step 6:") {
            let kill = Command::new("kill").args(["-9", &processes[1]]).status().unwrap();
            assert!(kill.success());
        }
    }
    assert!(!process.wait().unwrap().success(), "a killed rank is a failed run");
    assert_eq!(processes.len(), 2);
    for process in processes {
        // What has ended but was not yet waited for has no program any more.
        let program = fs::read_link(Path::new("/proc").join(&process).join("exe"));
        assert!(program.is_err(), "process {process} is still there");
    }

    let state = fs::read_to_string(killed.join("train/state.json")).unwrap();
    let step = serde_json::from_str::<Value>(&state).unwrap()["step"].as_u64().unwrap();
    assert!(step >= 3 && step.is_multiple_of(3), "{step}");
    let whole = folder.path().join("whole");
    run(1, &arguments(&service, &whole, step + 4), &[]);
    for (ranks, zero) in [(1, "1"), (2, "1"), (3, "2")] {
        let out = folder.path().join(format!("resumed-{ranks}"));
        copy(&killed, &out);
        fs::remove_file(out.join("train.jsonl")).unwrap();
        run(ranks, &arguments(&service, &out, step + 4), &["--zero", zero]);
        let resumed = log(&out);
        assert_eq!(resumed.len(), 4, "the steps after {step} only");
        assert_same_losses(&log(&whole), &resumed, &format!("resumed with {ranks}"));
    }
}

#[test]
fn an_error_on_one_rank_ends_all() {
    if !has_mpirun() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let service = folder.path().join("service");
    company(&service);
    // The second rank is sent to another folder, and fails while the first one waits for it.
    let (out, binary) = (folder.path().join("out"), env!("CARGO_BIN_EXE_chatdlm"));
    let output = mpirun()
        .args(["-n", "1", binary])
        .args(arguments(&service, &out, 4))
        .args([":", "-n", "1", binary])
        .args(arguments(&folder.path().join("none"), &out, 4))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("rank 1: cannot read"), "{error}");
    // Or it is given other data.
    let fewer = folder.path().join("fewer");
    company(&fewer);
    fs::write(fewer.join("bank/calls.train.jsonl"), "").unwrap();
    let output = mpirun()
        .args(["-n", "1", binary])
        .args(arguments(&service, &out, 4))
        .args([":", "-n", "1", binary])
        .args(arguments(&fewer, &out, 4))
        .output()
        .unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("the ranks have read different examples"), "{error}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}
