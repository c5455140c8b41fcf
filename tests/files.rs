//! Does any tool lose what a user has by writing over it? Two flags for one file, real processes.

use std::fs;
use std::path::Path;
use std::process::Output;

use workspace_tests::{Scene, copy, data, run, shell, text, tiny_base, tool};

const CHAT: &str = r#"{"messages":[{"role":"user","content":"what is the code of a cold"},{"role":"assistant","content":"J00"}]}"#;

/// Runs a tool on a command line in `folder`.
fn say(folder: &Path, line: &str, stdin: &str) -> Output {
    let mut words = line.split(' ');
    let mut tool = tool(words.next().expect("a tool"));
    run(tool.current_dir(folder).args(words), stdin)
}

/// All files below a folder, by their contents.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(contents(&path)),
            false => all.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
    all.sort();
    all
}

#[test]
fn an_output_over_another_or_over_an_input_is_refused_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let chats: String = (0..200)
        .map(|n| format!("{}\n", CHAT.replace("cold", &format!("cold {n}"))))
        .collect();
    fs::write(here.join("v.jsonl"), &chats).unwrap();
    fs::write(here.join("w.jsonl"), &chats).unwrap();
    fs::write(here.join("a.csv"), "q,a\nx,y\n").unwrap();
    fs::write(here.join("v.csv"), "id,verdict\n").unwrap();
    fs::write(here.join("p.toml"), "[prompted]\n[tuned]\n").unwrap();
    let snapshot = here.join("hub/models--a/snapshots/c0");
    for base in ["base", "tok"]
        .map(|name| here.join(name))
        .iter()
        .chain([&snapshot])
    {
        tiny_base("llama-tied", base);
    }
    copy(
        &data("models/llama-tied/adapter"),
        &here.join("run/adapter"),
    );
    fs::write(here.join("run/metrics.jsonl"), "").unwrap();
    std::os::unix::fs::symlink("v.jsonl", here.join("link")).unwrap();
    let made = say(
        here,
        "jsonl-split w.jsonl --ratios 80,10,10 --out-dir sp",
        "",
    );
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let made = say(
        here,
        "adapter-eval --cases w.jsonl --train w.jsonl --systems majority --out-dir ev",
        "",
    );
    assert_eq!(made.status.code(), Some(0), "{}", text(&made.stderr));
    let before = contents(here);
    let base = data("tokens/base").display().to_string();
    for line in [
        "jsonl-validate v.jsonl -o same --rejects same",
        "jsonl-validate v.jsonl -o same --rejects ./same",
        "jsonl-validate v.jsonl -o o --report same --ledger same",
        "jsonl-validate v.jsonl --rejects v.jsonl",
        "jsonl-validate link --rejects v.jsonl",
        "jsonl-validate v.jsonl --rejects -",
        "jsonl-validate v.jsonl --rejects /dev/stdout",
        "jsonl-validate v.jsonl -o s.csv --sample 2 --review s",
        "jsonl-validate v.jsonl -o o --report s.html --sample 2 --review s",
        "jsonl-validate v.jsonl -o o --verdicts v.csv --sample 2 --review v",
        "jsonl-import a.csv --user {{q}} --assistant {{a}} -o o --ledger a.csv",
        "jsonl-import a.csv --user {{q}} --assistant {{a}} -o o --ledger o",
        "tokenize-pack v.jsonl --base BASE -o v.st --ledger v.st",
        "tokenize-pack v.jsonl --base BASE -o v.st --ledger v.jsonl",
        "tokenize-pack v.jsonl w.jsonl --base BASE -o w.jsonl",
        "tokenize-pack v.jsonl --base BASE -o v.jsonl",
        "tokenize-pack v.jsonl --base BASE -o v.jsonl --format jsonl",
        "tokenize-pack v.jsonl --base BASE -o v.jsonl --show-mask 1",
        "tokenize-pack v.jsonl --base BASE -o v.st --output-shards 2 --ledger v-00002-of-00002.st",
        "tokenize-pack - - --base BASE -o v.st",
        "jsonl-split w.jsonl --against sp/test.jsonl --out-dir sp",
        "jsonl-split sp/train.jsonl --out-dir sp",
        "jsonl-split w.jsonl --out-dir sp --ledger sp/ledger.csv",
        "jsonl-split w.jsonl --out-dir new --ledger w.jsonl",
        "jsonl-split - --against - --out-dir new",
        "jsonl-validate v.jsonl --tokenizer base -o base/tokenizer.json",
        "tokenize-pack v.jsonl --base base -o base/config.json",
        "tokenize-pack v.jsonl --base base -o v.st --ledger base/tokenizer_config.json",
        "tokenize-pack v.jsonl --base base -o base/model.safetensors",
        "prompt-cost v.jsonl --base base --requests-per-day 9 -o base/model.safetensors",
        "prompt-cost v.jsonl --base base --requests-per-day 9 -o v.jsonl",
        "prompt-cost v.jsonl --base base --requests-per-day 9 -o base/tokenizer.json",
        "prompt-cost --prompt-tokens 9 --requests-per-day 9 --prices p.toml -o p.toml",
        "prompt-cost --prompt-tokens 9 --requests-per-day 9 --train p.toml -o ./p.toml",
        "prompt-cost v.jsonl --base base --tuned-prompt w.jsonl --requests-per-day 9 -o w.jsonl",
        "prompt-cost - - --base base --requests-per-day 9",
        "model-import base --out-dir base",
        "model-import base --out-dir ./base/../base/",
        "model-import hub/models--a --out-dir hub/models--a/snapshots/c0",
        "model-import base --tokenizer tok --out-dir tok",
        "adapter-export --base base --adapter run/adapter --out-dir base",
        "adapter-export --base base --adapter run/adapter -o base/config.json",
        "adapter-eval --cases - --train - --systems majority",
        "adapter-eval --cases ev/report.json --train w.jsonl --systems majority --out-dir ev",
        "adapter-eval --cases w.jsonl --train w.jsonl --systems majority --against ev --out-dir ev",
        "qlora-train --base base --train run/metrics.jsonl --out-dir run",
        "qlora-train --base base --train v.st --init-adapter run/adapter --overwrite --out-dir run",
        "qlora-train --base run/adapter/b --train v.st --out-dir run",
    ] {
        let got = say(here, &line.replace("BASE", &base), "");
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{line}\n{said}");
        let reasons = [
            "are the same file",
            "are one stream",
            "which is read",
            "which is replaced whole",
        ];
        let is_the_reason = reasons.iter().any(|reason| said.contains(reason));
        assert!(is_the_reason, "{line}\n{said}");
        assert_eq!(contents(here), before, "{line}");
    }
}

#[test]
fn a_file_that_the_shell_redirected_is_a_file_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let opened = |name: &str| {
        fs::File::options()
            .read(true)
            .append(true)
            .open(here.join(name))
    };
    for (flags, status) in [
        (["-o", "o", "--rejects", "v.jsonl"], 2),
        (["-o", "-", "--rejects", "log"], 2),
        (["-o", "v.jsonl", "--rejects", "/dev/stderr"], 0),
    ] {
        fs::write(here.join("v.jsonl"), format!("{CHAT}\n")).unwrap();
        fs::write(here.join("log"), "").unwrap();
        let mut tool = tool("jsonl-validate");
        tool.current_dir(here).args(flags);
        tool.stdin(opened("v.jsonl").unwrap());
        tool.stdout(opened("log").unwrap());
        tool.stderr(opened("log").unwrap());
        let got = tool.status().unwrap();
        let said = fs::read_to_string(here.join("log")).unwrap();
        assert_eq!(got.code(), Some(status), "{flags:?}\n{said}");
        let kept = fs::read_to_string(here.join("v.jsonl")).unwrap();
        assert_eq!(kept, format!("{CHAT}\n"));
    }
}

#[test]
fn what_is_read_does_not_grow_while_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let file = here.join("v.jsonl");
    let before = format!("{CHAT}\n");
    let reads = |line: &str, name: &str| {
        fs::write(&file, &before).unwrap();
        let _ = fs::hard_link(&file, here.join("other-name"));
        let mut words = line.split(' ');
        let mut tool = tool(words.next().unwrap());
        tool.current_dir(here).args(words);
        tool.stdin(fs::File::open(&file).unwrap());
        let out = fs::File::options().append(true).open(here.join(name));
        tool.stdout(out.unwrap());
        let got = tool.output().unwrap();
        (got.status.code(), text(&got.stderr).to_owned())
    };
    for (line, name) in [
        ("jsonl-import v.jsonl", "v.jsonl"),
        ("jsonl-import --format jsonl", "v.jsonl"),
        ("jsonl-validate v.jsonl", "other-name"),
        ("jsonl-validate v.jsonl -o /dev/fd/1", "v.jsonl"),
        ("jsonl-validate - -o o --rejects -", "v.jsonl"),
    ] {
        let (status, said) = reads(line, name);
        assert_eq!(status, Some(2), "{line}\n{said}");
        assert!(said.contains("would go into"), "{line}\n{said}");
        assert_eq!(fs::read_to_string(&file).unwrap(), before, "{line}");
    }
    let (status, said) = reads("jsonl-validate - -o v.jsonl", "v.jsonl");
    assert_eq!(status, Some(0), "{said}");
}

#[test]
fn a_single_file_is_edited_in_place_and_devices_take_anything() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("v.jsonl"), format!("{CHAT}\nbroken\n")).unwrap();
    for line in [
        "jsonl-validate v.jsonl --drop-invalid -o /dev/null --rejects /dev/null --ledger /dev/null",
        "jsonl-validate - --drop-invalid -o -",
        "jsonl-validate v.jsonl --drop-invalid -o v.jsonl --rejects bad",
    ] {
        let got = say(here, line, &format!("{CHAT}\n"));
        assert_eq!(got.status.code(), Some(0), "{line}\n{}", text(&got.stderr));
    }
    let read = |name: &str| fs::read_to_string(here.join(name)).unwrap();
    assert_eq!(read("v.jsonl"), format!("{CHAT}\n"));
    assert_eq!(read("bad"), "broken\n");
}

#[test]
fn a_reader_that_goes_away_hides_no_file_that_was_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    fs::write(here.join("many.jsonl"), "broken\n".repeat(200_000)).unwrap();
    let closed = |flags: &[&str]| {
        let mut child = tool("jsonl-validate")
            .current_dir(here)
            .args(flags)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        child.wait_with_output().unwrap()
    };
    let got = closed(&["many.jsonl", "-o", "clean.jsonl", "--rejects", "-"]);
    assert_eq!(got.status.code(), Some(2));
    let said = text(&got.stderr);
    assert!(
        said.contains("writing <stdout>: ") && said.contains("\nhint: "),
        "{said}"
    );
    assert!(!here.join("clean.jsonl").exists());
    let got = closed(&["many.jsonl", "-o", "/dev/null", "--rejects", "-"]);
    assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
}

#[test]
fn a_disk_that_is_full_for_one_output_leaves_all_of_a_run_as_they_were() {
    let examples: String = (0..20)
        .map(|n| {
            let messages = serde_json::json!([
                {"role": "user", "content": format!("what is number {n}?")},
                {"role": "assistant", "content": "a number"},
            ]);
            serde_json::json!({ "messages": messages }).to_string() + "\n"
        })
        .collect();
    let scene = Scene::new();
    scene.write("in.jsonl", &examples);
    let validate =
        "jsonl-validate in.jsonl -o out.jsonl --fail-on error --severity few_examples=off";
    let commands = [
        "jsonl-import in.jsonl -o out.jsonl --ledger full",
        &format!("{validate} --ledger full"),
        &format!("{validate} --report full"),
        &format!("{validate} --report full --format json --ledger ledger.csv"),
        &format!("{validate} --sample 2 --review half"),
        &format!("{validate} --ledger ledger.csv --rejects rejects.jsonl --sample 2 --review page"),
        "jsonl-split in.jsonl --counts train=rest,test=4,valid=4 --out-dir folder --ledger full",
        "tokenize-pack in.jsonl --base base --max-seq-length 64 -o out.jsonl --format jsonl --ledger full",
        "tokenize-pack in.jsonl --base base --max-seq-length 64 -o out --output-shards 2 --ledger full",
        "adapter-export --base base --adapter adapter_init --output full --out-dir folder",
    ];
    let older = [
        "out.jsonl",
        "out-00001-of-00002",
        "out-00002-of-00002",
        "folder/split.json",
        "ledger.csv",
        "rejects.jsonl",
        "half.csv",
        "page.html",
    ];
    for command in commands {
        let with = |full: &str, status: i32| {
            // A name that leads to the device, as one on a disk that is full.
            let script = format!(
                "rm -rf folder full half.* page.*; mkdir folder
                 for file in {}; do echo older > $file; done
                 ln -s {full} full; ln -s {full} half.html; ln -s {full} page.csv
                 {}{command} --quiet || exit $?",
                older.join(" "),
                match command.starts_with("adapter-export") {
                    true => "mv folder/split.json folder/config.json; ",
                    false => "",
                },
            );
            let output = shell(scene.path(), &script);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(status), "{command}\n{said}");
            said
        };
        let said = with("/dev/full", 2);
        assert!(said.contains(": No space left"), "{command}\n{said}");
        let names = older.map(|name| match command.starts_with("adapter-export") {
            true => name.replace("split.json", "config.json"),
            false => name.to_owned(),
        });
        for name in &names {
            let text = scene.read(name);
            assert_eq!(text, b"older\n", "{command}: {name}");
        }
        with("/dev/null", 0);
        let is_replaced = |name: &String| {
            let text = fs::read(scene.path().join(name));
            text.is_ok_and(|text| text != b"older\n")
        };
        assert!(names.iter().any(is_replaced), "{command} replaces nothing");
    }
}
