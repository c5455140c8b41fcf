//! Does a tool behave at its edges? Real processes, real pipes.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use workspace_tests::{run, skip_here, text};

fn copy() -> Command {
    let deps = std::env::current_exe().expect("a test has a path");
    let built = deps
        .ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/test")
        .join("examples/copy");
    Command::new(built)
}

fn file(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}

fn wait_for(what: impl Fn() -> bool) {
    let start = Instant::now();
    while !what() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "waited ten seconds"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A process has this from the one that started it.
fn hangups_are_ignored() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.is_some_and(|mask| {
        mask.trim_end()
            .ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f'])
    })
}

fn signal(child: &std::process::Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
}

#[test]
fn no_file_is_stdin_and_no_output_is_stdout() {
    let got = run(copy().args(["--prefix", "> "]), "a\n");
    assert_eq!(
        (got.status.code(), text(&got.stdout), text(&got.stderr)),
        (Some(0), "> a\n", "")
    );
}

#[test]
fn help_and_version_are_no_errors_and_wrong_usage_is() {
    assert_eq!(run(copy().arg("--help"), "").status.code(), Some(0));
    assert_eq!(run(copy().arg("--version"), "").status.code(), Some(0));
    assert_eq!(run(copy().arg("--times=many"), "").status.code(), Some(2));
    let missing = run(&mut copy(), "");
    assert_eq!(missing.status.code(), Some(2));
    assert!(text(&missing.stderr).contains("--prefix <PREFIX>"));
}

#[test]
fn an_answer_of_no_is_status_1() {
    assert_eq!(
        run(copy().args(["--prefix=", "--no-word=bad"]), "bad\n")
            .status
            .code(),
        Some(1)
    );
}

#[test]
fn an_answer_of_no_is_not_silent_with_quiet_and_a_yes_is() {
    let no = |words: &[&str]| {
        let got = run(
            copy()
                .args(["--prefix=", "--no-word=bad", "--quiet"])
                .args(words),
            "bad\n",
        );
        (got.status.code(), text(&got.stderr).to_owned())
    };
    let why = "copy: the answer is no; the same without --quiet says why\n";
    assert_eq!(no(&[]), (Some(1), why.to_owned()));
    let why = "copy: \"bad\" is in the input\n";
    assert_eq!(no(&["--because"]), (Some(1), why.to_owned()));
    let yes = run(
        copy().args(["--prefix=", "--no-word=bad", "--quiet"]),
        "good\n",
    );
    assert_eq!((yes.status.code(), text(&yes.stderr)), (Some(0), ""));
}

#[test]
fn an_error_names_the_file_and_then_the_way_out() {
    let got = run(copy().args(["--prefix=", "absent.txt"]), "");
    assert_eq!(got.status.code(), Some(2));
    assert_eq!(
        text(&got.stderr),
        "copy: absent.txt: No such file or directory (os error 2)\nhint: give a file that exists\n"
    );
}

#[test]
fn a_folder_that_is_not_there_is_told_without_a_temporarys_name() {
    let folder = tempfile::tempdir().unwrap();
    let got = run(
        copy()
            .current_dir(folder.path())
            .args(["-", "-o", "nowhere/out", "--prefix", ""]),
        "x",
    );
    assert_eq!(got.status.code(), Some(2));
    assert_eq!(
        text(&got.stderr),
        "copy: writing nowhere/out: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_config_fills_in_and_a_flag_wins() {
    let folder = tempfile::tempdir().unwrap();
    let json = file(
        folder.path(),
        "c.json",
        r#"{"prefix": "-", "times": 2, "capitals": true, "no-word": ["x", "y"]}"#,
    );
    let got = run(copy().arg("--config").arg(&json).arg("--times=1"), "a\n");
    assert_eq!((got.status.code(), text(&got.stdout)), (Some(0), "-A\n"));
    let toml = file(folder.path(), "c.toml", "prefix = '+'\ntimes = 2\n");
    assert_eq!(
        text(&run(copy().arg("--config").arg(&toml), "a\n").stdout),
        "+a\n+a\n"
    );
}

#[test]
fn an_unknown_key_of_a_config_is_an_error_that_names_file_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let json = file(folder.path(), "c.json", r#"{"prefx": "-"}"#);
    let got = run(copy().arg("--config").arg(&json), "");
    assert_eq!(got.status.code(), Some(2));
    assert!(
        text(&got.stderr).contains(r#"c.json: unknown key "prefx""#),
        "{}",
        text(&got.stderr)
    );
}

#[test]
fn a_bad_value_of_a_config_is_refused_like_a_flag() {
    let folder = tempfile::tempdir().unwrap();
    let json = file(
        folder.path(),
        "c.json",
        r#"{"prefix": "-", "times": "many"}"#,
    );
    let got = run(copy().arg("--config").arg(&json), "");
    assert_eq!(got.status.code(), Some(2));
    assert!(
        text(&got.stderr).contains("invalid value 'many' for '--times"),
        "{}",
        text(&got.stderr)
    );
    assert!(
        text(&got.stderr).contains("c.json"),
        "{}",
        text(&got.stderr)
    );
}

#[test]
fn what_print_config_prints_runs_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let input = file(folder.path(), "-in", "a\n");
    let flags = [
        "--prefix=--",
        "--times=2",
        "--no-word=b",
        "--no-word=-c",
        "--capitals",
    ];
    let printed = run(copy().args(flags).arg("--print-config").arg(&input), "");
    let config = file(folder.path(), "c.json", text(&printed.stdout));
    let again = run(copy().arg("--config").arg(&config), "");
    assert_eq!(
        (again.status.code(), text(&again.stdout)),
        (Some(0), "--A\n--A\n"),
        "{}",
        text(&again.stderr)
    );
    let reprinted = run(
        copy().arg("--config").arg(&config).arg("--print-config"),
        "",
    );
    assert_eq!(text(&reprinted.stdout), text(&printed.stdout));
}

#[test]
fn manual_and_completions_need_no_other_flag() {
    for (what, mark) in [
        ("man", ".TH"),
        ("bash", "complete"),
        ("zsh", "#compdef"),
        ("fish", "complete -c copy"),
    ] {
        let got = run(copy().args(["--generate", what]), "");
        assert_eq!(got.status.code(), Some(0));
        assert!(text(&got.stdout).contains(mark), "{what}");
    }
}

#[test]
fn the_examples_of_a_manual_page_keep_their_lines() {
    let got = run(copy().args(["--generate", "man"]), "");
    let page = text(&got.stdout);
    let examples = page.split(".SH EXAMPLES\n.nf\n").nth(1).unwrap();
    assert!(
        examples.split(".fi\n").next().unwrap().contains("copy"),
        "{page}"
    );
}

#[test]
fn a_closed_pipe_is_quietly_done() {
    let lines = "0123456789\n".repeat(200_000);
    let folder = tempfile::tempdir().unwrap();
    let input = file(folder.path(), "in", &lines);
    let mut child = copy()
        .arg("--prefix=")
        .arg(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let got = child.wait_with_output().unwrap();
    assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));
}

#[test]
fn a_full_disk_is_status_2() {
    let got = run(copy().args(["--prefix=", "-o", "/dev/full"]), "a\n");
    assert_eq!(got.status.code(), Some(2));
    assert!(
        text(&got.stderr).contains("No space left"),
        "{}",
        text(&got.stderr)
    );
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut child = copy()
        .arg("--prefix=")
        .stdin(Stdio::piped())
        .stdout(full)
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"a\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

#[test]
fn a_second_run_on_the_same_folder_is_status_75() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = copy()
        .args(["--prefix=", "--lock"])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(|| folder.path().join(".lock").exists());
    wait_for(|| {
        let second = run(copy().args(["--prefix=", "--lock"]).arg(folder.path()), "");
        second.status.code() == Some(75)
            && text(&second.stderr).contains("another run is at work here")
    });
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
}

#[test]
fn a_tool_that_polls_saves_before_it_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (name, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        if name == "HUP" && hangups_are_ignored() {
            skip_here("HUP is ignored here, as under nohup, and then by a tool, too");
            continue;
        }
        let mut child = copy()
            .args(["--prefix=", "--wait", "-o"])
            .arg(&out)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(name.as_bytes())
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("waiting")));
        signal(&child, name);
        assert_eq!(child.wait().unwrap().code(), Some(status));
        assert_eq!(fs::read_to_string(&out).unwrap(), format!("{name}\n"));
    }
}

#[test]
fn a_killed_tool_leaves_the_old_output_and_no_litter() {
    let folder = tempfile::tempdir().unwrap();
    let out = file(folder.path(), "out", "old");
    let mut child = copy()
        .args(["--prefix=", "--sleep", "-o"])
        .arg(&out)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(|| fs::read_dir(folder.path()).unwrap().count() == 2);
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(fs::read_to_string(&out).unwrap(), "old");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn of_a_flag_given_twice_the_last_one_counts_and_lists_grow() {
    let flags = ["--prefix=a", "--times=3", "--capitals", "--no-word=x"];
    let again = ["--times=1", "--prefix=b", "--capitals", "--no-word=y"];
    let got = run(copy().args(flags).args(again), "x\n");
    assert_eq!(
        (got.status.code(), text(&got.stdout)),
        (Some(1), "bX\n"),
        "{}",
        text(&got.stderr)
    );
    let printed = run(copy().args(flags).args(again).arg("--print-config"), "");
    let config: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(config["no_word"], serde_json::json!(["x", "y"]));
}

/// Runs `script` in bash, in `folder`, with the tool as `$copy`.
fn bash(folder: &Path, script: &str) -> std::process::Output {
    let mut bash = Command::new("bash");
    bash.args(["-u", "-c", script]).current_dir(folder);
    run(bash.env("copy", copy().get_program()), "a\n")
}

#[test]
fn a_redirected_descriptor_is_gone_on_with_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (path, redirection) in [
        ("/dev/stdout", ">> out"),
        ("/dev/fd/1", ">> out"),
        ("/proc/self/fd/1", ">> out"),
        ("/dev/stderr", "2>> out"),
        ("/dev/fd/7", "7>> out"),
        ("/dev/fd/7", "7<> out >&7"),
        ("link", ">> out"),
    ] {
        fs::write(&out, "first\n").unwrap();
        let _ = std::os::unix::fs::symlink("/dev/stdout", folder.path().join("link"));
        let seek = if redirection.contains("<>") {
            "read -r -u 7; "
        } else {
            ""
        };
        let script = format!("{{ {seek}\"$copy\" --prefix= -o {path} in; }} {redirection}");
        fs::write(folder.path().join("in"), "second\n").unwrap();
        let got = bash(folder.path(), &script);
        assert_eq!(
            got.status.code(),
            Some(0),
            "{script}\n{}",
            text(&got.stderr)
        );
        assert_eq!(
            fs::read_to_string(&out).unwrap(),
            "first\nsecond\n",
            "{script}"
        );
    }
    let got = run(copy().args(["--prefix=", "-o", "/dev/fd/77"]), "a\n");
    assert_eq!(got.status.code(), Some(2));
}

#[test]
fn a_closed_output_takes_nothing_and_a_null_device_takes_anything() {
    let folder = tempfile::tempdir().unwrap();
    for (words, status) in [
        (">&-", 2),
        ("-o /dev/stdout >&-", 2),
        ("-o out >&-", 0),
        ("> /dev/null", 0),
        ("1<> /dev/null", 0),
    ] {
        let got = bash(folder.path(), &format!("\"$copy\" --prefix= {words}"));
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(status), "{words}: {said}");
        assert_eq!(said.contains("Bad file descriptor"), status == 2, "{said}");
    }
}

#[test]
fn a_replaced_output_keeps_who_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    for mode in [0o600, 0o640, 0o666] {
        let out = file(folder.path(), "out", "old");
        fs::set_permissions(&out, fs::Permissions::from_mode(mode)).unwrap();
        let got = run(copy().args(["--prefix=", "-o"]).arg(&out), "a\n");
        assert_eq!(got.status.code(), Some(0));
        let is = fs::metadata(&out).unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (is, fs::read_to_string(&out).unwrap()),
            (mode, "a\n".into())
        );
    }
}

#[test]
fn a_link_to_what_is_not_there_yet_stays_a_link() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("there")).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("there/new", &link).unwrap();
    let got = run(copy().args(["--prefix=", "-o"]).arg(&link), "a\n");
    assert_eq!(got.status.code(), Some(0));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(
        fs::read_to_string(folder.path().join("there/new")).unwrap(),
        "a\n"
    );
}

#[test]
fn help_that_could_not_be_written_is_status_2_and_a_closed_pipe_is_not() {
    let folder = tempfile::tempdir().unwrap();
    for what in ["--help", "--version", "--generate=man"] {
        let got = bash(folder.path(), &format!("\"$copy\" {what} > /dev/full"));
        assert_eq!(got.status.code(), Some(2), "{what}");
        let said = text(&got.stderr);
        assert!(said.contains("No space left"), "{what}: {said}");
        let closed = format!("\"$copy\" {what} | true; exit ${{PIPESTATUS[0]}}");
        let got = bash(folder.path(), &closed);
        assert_eq!((got.status.code(), text(&got.stderr)), (Some(0), ""));
    }
}
