//! Running the tools as a user does: alone with something to read, or in a shell.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::{data, root, tools};

/// A tool, built beside the running test.
pub fn tool(name: &str) -> Command {
    built(profile().join(name), "make test")
}

/// The program `gpu`, which is carried to machines with a GPU.
pub fn gpu_program() -> Command {
    built(profile().join("examples/gpu"), "make test-cube")
}

fn built(path: PathBuf, by: &str) -> Command {
    assert!(
        path.exists(),
        "{} is missing: `{by}` builds it",
        path.display()
    );
    Command::new(path)
}

/// Runs to the end with this to read.
pub fn run(command: &mut Command, stdin: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // Written beside, since a tool writes while it reads and a pipe holds little.
    let mut pipe = child.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || pipe.write_all(stdin.as_bytes()));
        child.wait_with_output().expect("it ends")
    })
}

/// Runs to the end with nothing to read; another exit status fails the test with what was said.
pub fn exits(command: &mut Command, status: i32) -> Output {
    let output = run(command, "");
    assert_eq!(
        output.status.code(),
        Some(status),
        "{command:?}\n{}",
        text(&output.stderr)
    );
    output
}

/// What a tool said is UTF-8.
pub fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

/// Runs a tool over every hostile file with these endings and compares what it says. With BLESS set,
/// what it says becomes what is wanted.
pub fn hostile(name: &str, endings: &[&str], flags: &[&str]) {
    let folder = data("hostile");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("the corpus is there")
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.retain(|file| endings.iter().any(|ending| file.ends_with(ending)));
    files.sort();
    assert!(files.len() > 10, "the corpus is there");
    let mut wrong = Vec::new();
    for file in files {
        let got = run(tool(name).current_dir(&folder).args(flags).arg(&file), "");
        let said = format!("exit {}\n{}", got.status.code().unwrap(), text(&got.stderr));
        let expected = folder.join(format!("{file}.said"));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        if said != wanted {
            wrong.push(format!("{file}: said\n{said}\nwanted\n{wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The folder of all tools.
pub fn bin() -> PathBuf {
    for name in tools() {
        tool(&name);
    }
    profile()
}

/// Where the running test's profile has its tools.
pub(crate) fn profile() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let deps = test.parent().expect("target/PROFILE/deps/test");
    deps.parent().expect("target/PROFILE/deps").to_owned()
}

/// A shell in `folder` that finds the tools by name; the first failure of a pipe is the pipe's.
pub fn shell(folder: &Path, script: &str) -> Output {
    let path = format!(
        "{}:{}",
        bin().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    Command::new("bash")
        .args(["-e", "-u", "-o", "pipefail", "-c", script])
        .current_dir(folder)
        .env("PATH", path)
        .env("ROOT", root())
        .output()
        .expect("bash runs")
}

/// The same, and it has to succeed; returns standard output.
pub fn succeed(folder: &Path, script: &str) -> String {
    let output = shell(folder, script);
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{script}\n{:?}\n{}{}",
        output.status.code(),
        lossy(&output.stdout),
        lossy(&output.stderr)
    );
    lossy(&output.stdout)
}
