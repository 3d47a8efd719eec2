//! Checks that the house stays tidy: floors, file sizes, heads, leftovers, migrations, licences.
//!
//! Reads the sources as text; every failure names the file and what to do.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use sha2::Digest;
use sha2::Sha256;

/// Above this a source file should be split.
const WARN_LINES: usize = 500;
/// Above this it must be.
const MAX_LINES: usize = 600;

/// What the project's people write; everything else is generated or vendored.
const WRITTEN: [&str; 13] = [
    "src",
    "kernels",
    "build.rs",
    "tests",
    "web",
    "scripts",
    "docs",
    "migrations",
    "knowledge",
    "README.md",
    "Makefile",
    ".ci",
    "Cargo.toml",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns all files under `path`, sorted, by their names relative to the root.
fn files(path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![root().join(path)];
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.is_file() {
            found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn rust_files(folder: &str) -> Vec<String> {
    files(folder).into_iter().filter(|file| file.ends_with(".rs")).collect()
}

fn assert_none(problems: &[String], what_to_do: &str) {
    assert!(problems.is_empty(), "{what_to_do}:\n  {}", problems.join("\n  "));
}

/// Reads the table of floors in `src/lib.rs`: module to floor.
fn floors() -> BTreeMap<String, u32> {
    let mut floors = BTreeMap::new();
    for line in read("src/lib.rs").lines() {
        let Some(row) = line.strip_prefix("//! |") else { continue };
        let Some((floor, modules)) = row.split_once('|') else { continue };
        let Ok(floor) = floor.trim().parse() else { continue };
        for module in modules.split("[`").skip(1) {
            floors.insert(module.split('`').next().unwrap().to_owned(), floor);
        }
    }
    floors
}

/// Returns the modules of the crate that a source names, with the line, but for tests and comments.
fn named_modules(source: &str) -> Vec<(usize, String)> {
    let code = source.split("\n#[cfg(test)]").next().unwrap();
    let mut named = Vec::new();
    for (index, line) in code.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for path in line.split("crate::").skip(1) {
            let module = path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            named.push((index + 1, module.to_owned()));
        }
    }
    named
}

#[test]
fn imports_go_down_the_floors() {
    let floors = floors();
    let mut problems = Vec::new();
    for file in rust_files("src") {
        let module = file.split('/').nth(1).unwrap().trim_end_matches(".rs");
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some(floor) = floors.get(module) else {
            problems.push(format!("{file}: `{module}` is missing in the table of src/lib.rs"));
            continue;
        };
        for (line, named) in named_modules(&read(&file)) {
            let is_below = floors.get(&named).is_some_and(|below| below < floor);
            if named != module && !is_below {
                problems.push(format!("{file}:{line}: `{module}` (floor {floor}) imports `{named}`"));
            }
        }
    }
    assert_none(&problems, "import from lower floors only (the table in src/lib.rs)");
    assert!(floors.len() > 10, "the table in src/lib.rs could not be read: {floors:?}");
}

#[test]
fn the_engine_knows_nothing_of_the_service() {
    let mut problems = Vec::new();
    for file in rust_files("src/engine") {
        for (line, named) in named_modules(&read(&file)) {
            if named != "engine" {
                problems.push(format!("{file}:{line}: imports `{named}`"));
            }
        }
    }
    assert_none(&problems, "the engine imports nothing but itself");
}

/// What `scripts/kernels.sh` writes is beside what it was made of; nobody else compares them.
#[test]
fn the_compiled_kernels_are_of_their_sources() {
    let mut hash = Sha256::new();
    let sources = files("kernels").into_iter().filter(|file| {
        !file.starts_with("kernels/emulator/") && (file.ends_with(".cu") || file.ends_with(".cuh"))
    });
    for file in sources {
        hash.update(format!(".{}\n", file.strip_prefix("kernels").unwrap()));
        hash.update(read(&file));
    }
    let found = hex::encode(hash.finalize());
    let problems = if read("kernels/kernels.ptx.sources").trim() == found { vec![] } else { vec![found] };
    assert_none(&problems, "the kernels have changed: run scripts/kernels.sh");
}

#[test]
fn files_are_short_enough_to_read() {
    let mut problems = Vec::new();
    for file in rust_files("src") {
        let lines = read(&file).lines().count();
        if lines > MAX_LINES {
            problems.push(format!("{file}: {lines} lines"));
        } else if lines > WARN_LINES {
            println!("warning: {file} has {lines} lines; split it when you are there");
        }
    }
    assert_none(&problems, &format!("split files of more than {MAX_LINES} lines"));
}

#[test]
fn every_file_says_what_lives_in_it() {
    let mut problems = Vec::new();
    for file in ["src", "tests"].into_iter().flat_map(rust_files) {
        if !read(&file).starts_with("//! ") {
            problems.push(file);
        }
    }
    for file in files("migrations").into_iter().filter(|file| file.ends_with(".sql")) {
        if !read(&file).starts_with("-- ") {
            problems.push(file);
        }
    }
    assert_none(&problems, "open the file with a comment that says what lives in it");
}

#[test]
fn nothing_is_left_over() {
    // Put together here, or this file would find itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let machine_paths =
        [concat!("/wo", "rk/"), concat!("/tmp", "/wt"), concat!("/ro", "ot/"), concat!("../sha", "red")];
    let mut problems = Vec::new();
    for file in WRITTEN.into_iter().flat_map(files) {
        if file.contains("/vendor/") {
            continue;
        }
        // Pictures and fixtures are not text.
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (index, line) in text.lines().enumerate() {
            for found in marks.into_iter().chain(machine_paths).filter(|mark| line.contains(mark)) {
                problems.push(format!("{file}:{}: {found}", index + 1));
            }
        }
    }
    assert_none(&problems, "finish it or open an issue; name no machine's paths");
}

#[test]
fn migrations_are_only_ever_added() {
    let listed: BTreeMap<String, String> = read("migrations/SHA256")
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(hash, file)| (format!("migrations/{file}"), hash.to_owned()))
        .collect();
    let mut problems = Vec::new();
    for file in files("migrations").into_iter().filter(|file| file.ends_with(".sql")) {
        let hash = Sha256::digest(read(&file));
        match listed.get(&file) {
            None => problems.push(format!("{file} is new: (cd migrations && sha256sum *.sql > SHA256)")),
            Some(listed) if *listed != hex::encode(hash) => {
                problems.push(format!("{file} has changed: databases have it already, add a new one"));
            }
            Some(_) => {}
        }
    }
    for file in listed.keys().filter(|file| !root().join(file).is_file()) {
        problems.push(format!("{file} is gone: databases have it already"));
    }
    assert_none(&problems, "migrations are only ever added");
}

#[test]
fn vendored_files_have_their_licences() {
    let about = read("web/vendor/README.md");
    let mut problems = Vec::new();
    for file in files("web/vendor") {
        let name = Path::new(&file).file_name().unwrap().to_str().unwrap();
        if name != "README.md" && !about.contains(&format!("`{name}`")) {
            problems.push(file);
        }
    }
    assert_none(&problems, "name the file, its version and its licence in web/vendor/README.md");
    assert!(!about.is_empty());
}
