//! Runs Python programs that nobody has read, and says what became of them.
//!
//! Each has a folder of its own, an interpreter that knows nothing of its user (`python3 -I`), no
//! environment and no input; `guard.py` sets limits of CPU time, memory, file size, files and processes,
//! and refuses to write elsewhere, to use the network and to start processes. Where the system lets us
//! (`unshare`), namespaces keep it from the same: [`Sandbox::find`] tries them out, [`Isolation`] says
//! which hold. What runs longer than it may is killed with its whole group. Nothing keeps it from
//! reading what this user may read.

use std::path::Path;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use serde::Deserialize;
use serde::Serialize;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

const GUARD: &str = include_str!("guard.py");
const PROBE: &str = include_str!("probe.py");
const BOX: &str = include_str!("box.sh");

/// The most address space of a program, in bytes.
const MEMORY_BYTES: u64 = 1 << 30;
/// The largest file that it may write, in bytes.
const FILE_BYTES: u64 = 1 << 20;
/// How long the interpreter may take to say where it is and what the namespaces keep it from.
const PROBE_TIME: Duration = Duration::from_secs(30);

/// Namespaces without network, without other processes, and with mounts of its own.
const NAMESPACES: [&str; 8] = [
    "unshare",
    "--user",
    "--map-root-user",
    "--net",
    "--ipc",
    "--pid",
    "--fork",
    // The namespace ends with unshare, and all that runs in it with the namespace.
    "--kill-child",
];

/// From what the system keeps a program, beside what the guard refuses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// It can write nothing but its folder.
    pub files: bool,
    /// It has no network.
    pub network: bool,
    /// It sees no other processes, and leaves none behind.
    pub processes: bool,
}

/// What became of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It ran to its end.
    Passed,
    /// It did not, and why.
    Failed(String),
    /// It was killed when its time was over.
    TimedOut,
}

/// How programs are run.
#[derive(Debug, Clone)]
pub struct Sandbox {
    python: PathBuf,
    walls: Walls,
    /// What the system adds to the guard.
    pub isolation: Isolation,
    time: Duration,
}

/// Which namespaces a program runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Walls {
    /// All, and mounts that are read-only but for its folder.
    Mounts,
    /// All but those of mounts.
    Namespaces,
    None,
}

impl Walls {
    /// Returns the command that runs `python` in `folder` behind these walls, without an environment.
    fn command(self, python: &Path, folder: &Path) -> Command {
        let mut words: Vec<&str> = Vec::new();
        if self != Walls::None {
            words.extend(NAMESPACES);
        }
        if self == Walls::Mounts {
            words.extend(["--mount", "sh", "-c", BOX, "box"]);
        }
        let mut command = match words.split_first() {
            Some((program, rest)) => {
                let mut command = Command::new(program);
                command.args(rest);
                if self == Walls::Mounts {
                    command.arg(folder);
                }
                command.arg(python);
                command
            }
            None => Command::new(python),
        };
        command.env_clear().current_dir(folder).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Isolated from its user, and without writing byte code beside its library.
        command.args(["-I", "-B", "-c"]);
        command
    }
}

impl Sandbox {
    /// Finds the interpreter and the strongest walls that hold here.
    ///
    /// # Errors
    /// When `python` cannot be run.
    pub async fn find(python: &Path, time: Duration) -> anyhow::Result<Sandbox> {
        // What is called python3 may be a script that looks for it, with an environment.
        let asked = Command::new(python).args(["-I", "-c", "import sys; print(sys.executable)"]).output();
        let asked = timeout(PROBE_TIME, asked).await.context("python does not answer")?;
        let asked = asked.with_context(|| format!("cannot run {}; give --python PATH", python.display()))?;
        let path = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
        anyhow::ensure!(
            asked.status.success() && !path.is_empty(),
            "{} is no Python: {}",
            python.display(),
            String::from_utf8_lossy(&asked.stderr).trim()
        );
        let mut sandbox =
            Sandbox { python: path.into(), walls: Walls::None, isolation: Isolation::default(), time };
        for walls in [Walls::Mounts, Walls::Namespaces] {
            if let Some(isolation) = sandbox.probe(walls).await? {
                (sandbox.walls, sandbox.isolation) = (walls, isolation);
                break;
            }
        }
        Ok(sandbox)
    }

    /// Returns what these walls keep a program from, `None` where they cannot be put up.
    async fn probe(&self, walls: Walls) -> anyhow::Result<Option<Isolation>> {
        let (_temporary, folder) = new_folder()?;
        let mut command = walls.command(&self.python, &folder);
        command.arg(PROBE).arg(&folder).stdout(Stdio::piped());
        let Ok(Ok(output)) = timeout(PROBE_TIME, command.output()).await else { return Ok(None) };
        let said = serde_json::from_slice(&output.stdout).ok();
        Ok(said.filter(|_| output.status.success()))
    }

    /// Runs a program to its end, or to the end of its time.
    ///
    /// # Errors
    /// When it could not be run, or its limits not be set: that says nothing about the program.
    ///
    /// # Cancellation
    /// Dropping the future kills the program.
    pub async fn run(&self, program: &str) -> anyhow::Result<Verdict> {
        let (_temporary, folder) = new_folder()?;
        std::fs::write(folder.join("program.py"), program).context("cannot write a program")?;
        let token = format!("{:032x}", rand::random::<u128>());
        let cpu_s = self.time.as_secs() + 2;
        let mut command = self.walls.command(&self.python, &folder);
        command.arg(GUARD).arg(&folder).arg(&token);
        command.args([cpu_s, MEMORY_BYTES, FILE_BYTES].map(|limit| limit.to_string()));
        let mut child = command.spawn().context("cannot start a program")?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let ended = timeout(self.time, child.wait()).await;
        // Whatever is left of it, be it the program itself. That nothing is left is no error.
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let Ok(status) = ended else {
            child.wait().await.context("cannot end a program")?;
            return Ok(Verdict::TimedOut);
        };
        let status = status.context("cannot wait for a program")?;
        let said = std::fs::read(folder.join("verdict")).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let said = said.trim_end().strip_prefix(&token).unwrap_or_default().trim_start();
        match said.split_once(' ').unwrap_or((said, "")) {
            ("passed", _) => Ok(Verdict::Passed),
            ("failed", why) => Ok(Verdict::Failed(why.to_owned())),
            ("refused", why) => anyhow::bail!("the system does not set the limits of a program: {why}"),
            _ => Ok(Verdict::Failed(format!("ended early ({status})"))),
        }
    }
}

/// Makes a temporary folder with one in it that is the program's own; without links in its path.
fn new_folder() -> anyhow::Result<(TempDir, PathBuf)> {
    let temporary = tempfile::tempdir().context("cannot make a temporary folder")?;
    let folder = temporary.path().canonicalize()?.join("box");
    std::fs::create_dir(&folder).context("cannot make a folder for a program")?;
    Ok((temporary, folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Long enough for an interpreter to start on a busy machine.
    const LONG: Duration = Duration::from_secs(60);

    /// Runs a program behind the walls that hold here, and behind the guard alone.
    async fn check(program: &str, time: Duration, is_expected: impl Fn(&Verdict) -> bool) {
        let sandbox = Sandbox::find(Path::new("python3"), time).await.expect("python3 is there");
        let guarded = Sandbox { walls: Walls::None, ..sandbox.clone() };
        for sandbox in [sandbox, guarded] {
            let verdict = sandbox.run(program).await.expect("the program is run");
            assert!(is_expected(&verdict), "{program}\n{verdict:?} behind {:?}", sandbox.walls);
        }
    }

    fn failed(verdict: &Verdict, with: &str) -> bool {
        matches!(verdict, Verdict::Failed(why) if why.contains(with))
    }

    #[tokio::test]
    async fn a_program_passes_only_at_its_end() {
        check("import math\nassert math.gcd(12, 18) == 6", LONG, |v| *v == Verdict::Passed).await;
        check("assert 1 == 2, 'not so'", LONG, |v| failed(v, "AssertionError: not so")).await;
        check("def f(:", LONG, |v| failed(v, "SyntaxError")).await;
        check("raise SystemExit(0)", LONG, |v| failed(v, "SystemExit")).await;
        check("import os\nos._exit(0)", LONG, |v| failed(v, "ended early")).await;
        check("open('verdict', 'w').write('passed')\nimport os\nos._exit(0)", LONG, |v| {
            failed(v, "ended early")
        })
        .await;
    }

    #[tokio::test]
    async fn what_never_ends_is_killed() {
        let loops = "while True:\n    try:\n        pass\n    except BaseException:\n        pass";
        check(loops, Duration::from_secs(1), |v| *v == Verdict::TimedOut).await;
    }

    #[tokio::test]
    async fn a_program_writes_its_folder_and_nothing_else() {
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("outside");
        check("open('inside', 'w').write('x')\nassert open('inside').read() == 'x'", LONG, |v| {
            *v == Verdict::Passed
        })
        .await;
        for write in
            ["open({path:?}, 'w')", "import os; os.mkdir({path:?})", "import os; os.open({path:?}, 66)"]
        {
            let program = write.replace("{path:?}", &format!("{path:?}"));
            check(&program, LONG, |v| failed(v, "PermissionError")).await;
            assert!(!path.exists(), "{program}");
        }
    }

    #[tokio::test]
    async fn a_program_has_no_network_no_processes_and_no_environment() {
        for program in [
            "import socket\nsocket.socket()",
            "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9/')",
            "import subprocess\nsubprocess.run(['true'])",
            "import os\nos.fork()",
            "import os\nos.kill(os.getppid(), 15)",
            "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (-1, -1))",
        ] {
            check(program, LONG, |v| matches!(v, Verdict::Failed(why) if why.contains("not allowed here")))
                .await;
        }
        // Some systems tell the interpreter its locale in one.
        let alone = "import os, sys\nassert not set(os.environ) - {'LC_CTYPE'}, os.environ\nassert not sys.stdin.read()";
        check(alone, LONG, |v| *v == Verdict::Passed).await;
        check("x = bytearray(1 << 31)", LONG, |v| failed(v, "MemoryError")).await;
        check("open('large', 'wb').write(bytes(1 << 21))", LONG, |v| failed(v, "OSError")).await;
    }

    #[tokio::test]
    async fn namespaces_hold_without_the_guard() {
        let sandbox = Sandbox::find(Path::new("python3"), LONG).await.expect("python3 is there");
        if sandbox.walls == Walls::None {
            eprintln!("skipped: this system has no namespaces for us");
            return;
        }
        let (temporary, folder) = new_folder().expect("a folder");
        let mut command = sandbox.walls.command(&sandbox.python, &folder);
        command.arg(
            "import socket\ntry:\n    socket.create_connection(('192.0.2.1', 9), 1)\nexcept OSError as error:\n    \
             print(error.errno)\ntry:\n    open('../outside', 'w')\nexcept OSError as error:\n    print(error.errno)",
        );
        let output = command.stdout(Stdio::piped()).output().await.expect("python3 runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        // ENETUNREACH, EROFS.
        assert!(!sandbox.isolation.network || said.starts_with("101\n"), "{said}");
        assert!(!sandbox.isolation.files || said.ends_with("30\n"), "{said}");
        assert_eq!(temporary.path().join("outside").exists(), !sandbox.isolation.files);
    }
}
