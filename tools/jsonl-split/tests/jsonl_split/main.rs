//! Does jsonl-split meet the numbers, keep groups together, and leave held-out examples in peace?

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use workspace_tests::{run, text};

fn tool() -> Command {
    workspace_tests::tool("jsonl-split")
}

fn chat(user: &str, code: &str) -> String {
    let answer = serde_json::json!({"code": code}).to_string();
    let line = serde_json::json!({"messages": [{"role": "user", "content": user}, {"role": "assistant", "content": answer}], "metadata": {"patient": user.len()}});
    format!("{line}\n")
}

fn notes(count: usize) -> String {
    (0..count)
        .map(|n| chat(&format!("note number {n}"), ["A", "B", "C"][n % 3]))
        .collect()
}

fn set(folder: &Path, name: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Splits and gives train, valid and test.
fn split(input: &str, flags: &[&str]) -> [BTreeSet<String>; 3] {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let got = run(tool().args(flags).arg("--out-dir").arg(&out), input);
    assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
    ["train", "valid", "test"].map(|name| set(&out, name))
}

#[test]
fn the_sets_partition_the_input() {
    let input = notes(1000);
    for flags in [
        &["--ratios=80,10,10"][..],
        &["--exact", "--ratios=80,10,10"],
        &["--stratify=code", "--ratios=80,10,10"],
        &["--near-duplicates=0.95", "--ratios=80,10,10"],
    ] {
        let sets = split(&input, flags);
        assert_eq!(
            sets.iter().map(BTreeSet::len).sum::<usize>(),
            1000,
            "{flags:?}"
        );
        assert_eq!(sets.concat_len(), 1000);
    }
}

trait ConcatLen {
    fn concat_len(&self) -> usize;
}

impl ConcatLen for [BTreeSet<String>; 3] {
    fn concat_len(&self) -> usize {
        self.iter().flatten().collect::<BTreeSet<_>>().len()
    }
}

#[test]
fn appending_lines_moves_no_example_between_splits() {
    let before = split(&notes(500), &["--ratios=70,15,15"]);
    let after = split(&notes(2000), &["--ratios=70,15,15"]);
    for (before, after) in before.iter().zip(&after) {
        assert!(before.is_subset(after));
    }
}

#[test]
fn another_seed_is_another_split_and_the_same_seed_the_same() {
    let (a, b, c) = (
        split(&notes(300), &["--seed=1"]),
        split(&notes(300), &["--seed=1"]),
        split(&notes(300), &["--seed=2"]),
    );
    assert!(a == b && a != c);
}

#[test]
fn the_same_prompt_never_straddles() {
    let input: String = (0..600)
        .map(|n| {
            chat(
                &format!("note number {}", n % 100)
                    .replace("note", ["note", "NOTE", " note"][n / 200]),
                "A",
            )
        })
        .collect();
    let [train, valid, _] = split(&input, &["--ratios=50,50"]);
    let prompts = |set: &BTreeSet<String>| -> BTreeSet<String> {
        set.iter()
            .map(|line| {
                line.to_lowercase()
                    .replace("\" note", "\"note")
                    .split("metadata")
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    assert!(
        prompts(&train).is_disjoint(&prompts(&valid)) && !train.is_empty() && !valid.is_empty()
    );
}

/// Conversation `n`, as far as its `turns`-th answer.
fn conversation(n: usize, turns: usize) -> String {
    let messages = (0..turns).flat_map(|turn| {
        [
            serde_json::json!({"role": "user", "content": format!("question {turn} of talk {n}")}),
            serde_json::json!({"role": "assistant", "content": format!("answer {turn} of talk {n}")}),
        ]
    });
    let messages: Vec<serde_json::Value> = messages.collect();
    format!("{}\n", serde_json::json!({"messages": messages}))
}

#[test]
fn a_conversation_is_not_torn_from_its_longer_versions() {
    let input: String = (0..120)
        .map(|line| conversation(line % 40, 1 + line / 40))
        .collect();
    for flags in [
        &["--ratios=50,50"][..],
        &["--ratios=50,50", "--exact"],
        &["--ratios=50,50", "--near-duplicates=0.99"],
    ] {
        let [train, valid, _] = split(&input, flags);
        let talks = |set: &BTreeSet<String>| -> BTreeSet<String> {
            let first = |line: &String| line.split("of talk ").nth(1).unwrap()[..2].to_owned();
            set.iter().map(first).collect()
        };
        assert!(!train.is_empty() && !valid.is_empty());
        assert!(talks(&train).is_disjoint(&talks(&valid)), "{flags:?}");
    }
}

#[test]
fn a_question_of_the_fixed_set_is_found_in_every_turn() {
    let folder = tempfile::tempdir().unwrap();
    let gold = folder.path().join("gold.jsonl");
    fs::write(
        &gold,
        chat("Question 0 of talk 3", "A") + &chat("question 1 of talk 5", "A"),
    )
    .unwrap();
    let input: String = (0..20).map(|n| conversation(n, 3)).collect();
    for flags in [&[][..], &["--exact"], &["--near-duplicates=1.0"]] {
        let mut flags = flags.to_vec();
        flags.extend(["--ratios=50,50", "--against", gold.to_str().unwrap()]);
        let kept: String = split(&input, &flags).into_iter().flatten().collect();
        assert_eq!(kept.matches("question 0").count(), 18, "{flags:?}");
        assert!(!kept.contains("talk 3\"") && !kept.contains("talk 5\""));
    }
}

#[test]
fn counts_are_met_in_every_stratum() {
    let [train, valid, test] = split(
        &notes(300),
        &["--stratify=code", "--counts=train=12,valid=2,test=3"],
    );
    for code in ["A", "B", "C"] {
        let count = |set: &BTreeSet<String>| {
            set.iter()
                .filter(|line| line.contains(&format!(r#"\"code\":\"{code}\""#)))
                .count()
        };
        assert_eq!((count(&train), count(&valid), count(&test)), (12, 2, 3));
    }
    let more = split(
        &notes(300),
        &["--stratify=code", "--counts=train=rest,valid=2,test=3"],
    );
    assert_eq!(
        more[2], test,
        "asking for more training data moves nothing that is held out"
    );
    let got = run(
        tool().args([
            "--stratify=code",
            "--counts=train=200",
            "--out-dir",
            "/dev/null/x",
        ]),
        &notes(300),
    );
    assert!(
        got.status.code() == Some(2) && text(&got.stderr).contains("train lacks 100 of \"A\""),
        "{}",
        text(&got.stderr)
    );
}

#[test]
fn a_group_stays_together() {
    let input: String = (0..200)
        .map(|n| {
            chat(&"x".repeat(n % 20 + 1), "A")
                .replace("\"messages\"", &format!("\"id\":{n},\"messages\""))
        })
        .collect();
    let [train, valid, _] = split(&input, &["--ratios=50,50", "--group-by=metadata.patient"]);
    let patients = |set: &BTreeSet<String>| {
        set.iter()
            .map(|line| line.split("patient").nth(1).unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert!(patients(&train).is_disjoint(&patients(&valid)));
}

#[test]
fn a_split_by_lines_would_leak_as_much_by_counts_as_by_the_same_shares() {
    let input: String = (0..400)
        .map(|n| chat(&"x".repeat(n % 20 + 1), "A"))
        .collect();
    let leaked = |flags: &[&str]| -> u32 {
        let mut tool = tool();
        tool.args(["--dry-run", "--group-by=metadata.patient"]);
        let got = run(tool.args(flags), &input);
        assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
        let told = text(&got.stderr).split("would have leaked ").nth(1);
        told.map_or(0, |told| told.split(' ').next().unwrap().parse().unwrap())
    };
    let half = leaked(&["--ratios=50,0,50", "--exact"]);
    assert!((150..250).contains(&half), "{half}");
    assert_eq!(leaked(&["--counts=train=rest,test=200"]), half);
    assert_eq!(leaked(&["--counts=test=rest"]), 0);
}

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_line() {
    let folder = tempfile::tempdir().unwrap();
    let gold = folder.path().join("gold.jsonl");
    fs::write(&gold, format!("\u{feff}{}", notes(1))).unwrap();
    let against = format!("--against={}", gold.display());
    for flags in [&[][..], &["--exact"], &[&against]] {
        let with = split(&format!("\u{feff}{}", notes(50)), flags);
        assert_eq!(with, split(&notes(50), flags), "{flags:?}");
        let lines: usize = with.iter().map(BTreeSet::len).sum();
        assert_eq!(
            lines,
            50 - usize::from(flags.len() == 1 && flags[0] == against)
        );
    }
}

#[test]
fn near_duplicates_never_straddle() {
    let input: String = (0..300)
        .map(|n| {
            chat(
                &format!(
                    "the {} patient reports pain in the {} knee since day {}{}",
                    n / 3,
                    n / 3 * 7919,
                    n / 3 * 31,
                    ["", ".", " !"][n % 3]
                ),
                "A",
            )
        })
        .collect();
    let [train, valid, _] = split(&input, &["--ratios=50,50", "--near-duplicates=0.9"]);
    let stems = |set: &BTreeSet<String>| {
        set.iter()
            .map(|line| line.split(" since").next().unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert!(stems(&train).is_disjoint(&stems(&valid)) && !valid.is_empty());
}

#[test]
fn a_fixed_test_set_does_not_leak() {
    let folder = tempfile::tempdir().unwrap();
    let gold = folder.path().join("gold.jsonl");
    fs::write(
        &gold,
        notes(50)
            .to_uppercase()
            .replace("MESSAGES", "messages")
            .replace("ROLE", "role")
            .replace("CONTENT", "content")
            .replace("\"USER\"", "\"user\"")
            .replace("\"ASSISTANT\"", "\"assistant\""),
    )
    .unwrap();
    let [train, valid, _] = split(&notes(200), &["--against", gold.to_str().unwrap()]);
    assert_eq!(train.len() + valid.len(), 150);
    assert!(
        train
            .iter()
            .chain(&valid)
            .all(|line| !line.contains("note number 49\""))
    );
}

#[test]
fn every_line_is_in_the_ledger_and_the_manifest_counts_them() {
    let folder = tempfile::tempdir().unwrap();
    let (out, ledger) = (folder.path().join("out"), folder.path().join("ledger.csv"));
    let flags = ["--stratify=code", "--counts=train=10,test=5"];
    run(
        tool()
            .args(flags)
            .arg("--out-dir")
            .arg(&out)
            .arg("--ledger")
            .arg(&ledger),
        &notes(90),
    );
    let ledger = fs::read_to_string(ledger).unwrap();
    let fates = |fate: &str| ledger.lines().filter(|line| line.contains(fate)).count();
    assert_eq!(
        (fates(",kept,"), fates(",dropped,not_asked_for,")),
        (45, 45)
    );
    let manifest: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(out.join("split.json")).unwrap()).unwrap();
    assert_eq!(
        manifest["lines"],
        serde_json::json!({"train": 30, "test": 15})
    );
    assert_eq!(
        manifest["strata"]["B"],
        serde_json::json!({"train": 10, "test": 5})
    );
}

#[test]
fn a_folder_with_other_files_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("thesis.tex"), "x").unwrap();
    let got = run(tool().arg("--out-dir").arg(folder.path()), &notes(20));
    assert!(
        got.status.code() == Some(2) && text(&got.stderr).contains("thesis.tex"),
        "{}",
        text(&got.stderr)
    );
}

#[test]
fn sets_that_no_split_wrote_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("sets");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("train.jsonl"), notes(20)).unwrap();
    let got = run(tool().arg("--out-dir").arg(&out), &notes(20));
    let said = text(&got.stderr);
    assert_eq!(got.status.code(), Some(2), "{said}");
    assert!(
        said.contains("holds train.jsonl and no split.json"),
        "{said}"
    );
    assert!(said.contains("hint: choose a folder of its own"), "{said}");
    let left = fs::read_to_string(out.join("train.jsonl")).unwrap();
    assert_eq!(left, notes(20));
    fs::remove_file(out.join("train.jsonl")).unwrap();
    for _ in 0..2 {
        let got = run(tool().arg("--out-dir").arg(&out), &notes(20)); // an empty folder, then a split
        assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
    }
}

#[test]
fn a_patient_of_the_fixed_set_is_kept_out_with_all_notes() {
    let note = |patient: usize, text: String| {
        let messages = serde_json::json!([
            {"role": "user", "content": text}, {"role": "assistant", "content": "A"}
        ]);
        let patient = format!("p{patient}");
        let line = serde_json::json!({"messages": messages, "metadata": {"patient": patient}});
        format!("{line}\n")
    };
    let folder = tempfile::tempdir().unwrap();
    let gold = folder.path().join("gold.jsonl");
    fs::write(&gold, note(3, "a note of its own".into())).unwrap();
    let input: String = (0..100)
        .map(|n| note(n % 10, format!("note number {n}")))
        .collect();
    let flags = [
        "--group-by=metadata.patient",
        "--against",
        gold.to_str().unwrap(),
    ];
    let sets = split(&input, &flags);
    let kept: Vec<&String> = sets.iter().flatten().collect();
    assert_eq!(kept.len(), 90);
    assert!(kept.iter().all(|line| !line.contains("\"p3\"")));
}

#[test]
fn all_that_are_nearly_alike_stay_together_and_not_the_nearest_alone() {
    let mut state = 7u64;
    let mut draw = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    // Families that drift away from their first text: neighbours are alike, the ends are not.
    let mut texts = Vec::new();
    for family in 0..40 {
        let mut words: Vec<String> = (0..24)
            .map(|w| format!("word{}", family * 100 + w))
            .collect();
        for _ in 0..6 {
            texts.push(words.join(" "));
            let at = draw(words.len());
            words[at] = format!("other{}", draw(1_000_000));
        }
    }
    for at in (1..texts.len()).rev() {
        texts.swap(at, draw(at + 1));
    }
    let input: String = texts.iter().map(|text| chat(text, "A")).collect();
    let threshold = 0.7;
    let flag = format!("--near-duplicates={threshold}");
    let sets = split(&input, &[&flag, "--ratios=60,20,20"]);
    let home = |text: &str| {
        sets.iter()
            .position(|set| set.contains(chat(text, "A").trim_end()))
    };
    let signatures: Vec<_> = texts
        .iter()
        .map(|text| dataset::minhash::Signature::of(text))
        .collect();
    let mut alike = 0;
    for a in 0..texts.len() {
        for b in 0..a {
            if signatures[a].similarity(&signatures[b]) >= threshold {
                alike += 1;
                assert_eq!(
                    home(&texts[a]),
                    home(&texts[b]),
                    "{}\n{}",
                    texts[a],
                    texts[b]
                );
            }
        }
    }
    assert!(alike > 100 && sets.iter().all(|set| set.len() > 10));
}

#[test]
fn a_blank_line_has_its_fate_in_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = folder.path().join("ledger.csv");
    let input = format!("\n{}\n", notes(3));
    run(
        tool()
            .arg("--out-dir")
            .arg(folder.path().join("out"))
            .arg("--ledger")
            .arg(&ledger),
        &input,
    );
    let ledger = fs::read_to_string(ledger).unwrap();
    assert_eq!(ledger.lines().count() - 1, input.lines().count());
    assert!(
        ledger.contains("<stdin>,1,dropped,blank_line,,\n"),
        "{ledger}"
    );
}

/// Runs `script` in bash, in `folder`, with the tool as `$split`.
fn bash(folder: &Path, script: &str) -> std::process::Output {
    let mut bash = Command::new("bash");
    bash.args(["-u", "-c", script]).current_dir(folder);
    run(bash.env("split", tool().get_program()), "")
}

#[test]
fn a_fixed_set_that_comes_through_a_pipe_keeps_out_as_much_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let note = |n: usize, more: &str| {
        let words: Vec<String> = (0..20).map(|word| format!("w{}", 100 * n + word)).collect();
        chat(&(words.join(" ") + more), &format!("C{}", n % 20))
    };
    let all: String = (0..100).map(|n| note(n, "")).collect();
    let fixed: String = (0..7).map(|n| note(n, " more")).collect();
    fs::write(folder.path().join("all"), all).unwrap();
    fs::write(folder.path().join("fixed"), fixed).unwrap();
    for flags in ["--near-duplicates", "--group-by code", ""] {
        let said = |fixed: &str| {
            let script = format!("\"$split\" all --against {fixed} --dry-run {flags}");
            text(&bash(folder.path(), &script).stderr).to_owned()
        };
        let wanted = said("fixed");
        assert!(wanted.contains("fixed_set") || flags.is_empty(), "{wanted}");
        assert_eq!(said("<(cat fixed)"), wanted, "{flags}");
        assert_eq!(said("/dev/stdin < <(cat fixed)"), wanted, "{flags}");
        assert_eq!(said("- < <(cat fixed)"), wanted, "{flags}");
        assert_eq!(said("- < fixed"), wanted, "{flags}");
    }
}

#[test]
fn examples_come_through_a_pipe_with_a_name_in_every_mode() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all"), notes(100)).unwrap();
    for flags in [
        "",
        "--exact",
        "--stratify code",
        "--group-by code",
        "--near-duplicates",
    ] {
        let script = |from: &str| format!("rm -rf out; \"$split\" {from} {flags} --out-dir out");
        let split = |script: &str| {
            let got = bash(folder.path(), script);
            assert_eq!(got.status.code(), Some(0), "{flags}\n{}", text(&got.stderr));
            ["train", "valid"].map(|name| set(&folder.path().join("out"), name))
        };
        let wanted = split(&script("all"));
        assert_eq!(split(&script("<(cat all)")), wanted);
        // Of a name that stays: opened twice, it would wait for ever.
        let fifo = format!("mkfifo fifo; (cat all > fifo) & {}", script("fifo"));
        assert_eq!(split(&fifo), wanted);
        fs::remove_file(folder.path().join("fifo")).unwrap();
    }
}

#[test]
fn a_dry_run_writes_no_ledger() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all"), notes(100)).unwrap();
    fs::write(folder.path().join("old.csv"), "mine").unwrap();
    let got = bash(
        folder.path(),
        "\"$split\" all --dry-run --ledger new.csv && \"$split\" all --dry-run --ledger old.csv",
    );
    assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
    assert!(!folder.path().join("new.csv").exists());
    assert_eq!(
        fs::read_to_string(folder.path().join("old.csv")).unwrap(),
        "mine"
    );
}

#[test]
fn what_a_split_left_is_not_split_again_with_the_same_seed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all"), notes(1000)).unwrap();
    let split = |line: &str| bash(folder.path(), &format!("\"$split\" {line}"));
    let first = split("all --ratios train=90,test=10 --out-dir s1");
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    for again in [
        "s1/train.jsonl --ratios 90,10 --out-dir s2",
        "all --against s1/test.jsonl --ratios 90,10 --out-dir s2",
    ] {
        let got = split(again);
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert!(said.contains("split with --seed 0 before?"), "{said}");
        assert!(said.contains("hint: give another --seed"), "{said}");
        let other = split(&format!("{again} --seed 1"));
        assert_eq!(other.status.code(), Some(0));
        assert!(!text(&other.stderr).contains("before?"));
    }
    let few = split("s1/train.jsonl --ratios 70,30 --out-dir s3");
    assert_eq!(few.status.code(), Some(0));
    assert!(
        text(&few.stderr).contains("before?"),
        "{}",
        text(&few.stderr)
    );
}

#[test]
fn an_empty_set_is_told_with_a_way_out_that_has_not_been_taken() {
    for (flags, way_out) in [
        (&["--ratios=80,10,10"][..], "--exact meets them"),
        (
            &["--ratios=80,10,10", "--exact"],
            "--counts asks for numbers",
        ),
        (
            &["--counts=train=rest,test=3"],
            "the others take all there is",
        ),
    ] {
        let got = run(tool().args(flags).arg("--dry-run"), &notes(3));
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(0), "{said}");
        assert!(
            said.contains("is empty: ") && said.contains(way_out),
            "{said}"
        );
    }
}

#[test]
fn ratios_are_met_over_many_small_classes_and_who_is_left_out_is_told() {
    let input: String = (0..400)
        .map(|n| chat(&format!("note number {n}"), &format!("C{}", n % 100)))
        .collect();
    let flags = ["--stratify=code", "--ratios=80,10,10"];
    let sets = split(&input, &flags).map(|set| set.len());
    assert_eq!(sets, [320, 40, 40]);
    let got = run(tool().args(flags).arg("--dry-run"), &input);
    let said = text(&got.stderr);
    assert!(
        said.contains("test has no example of 60 of the 100 values of code"),
        "{said}"
    );
    assert!(!said.contains("where its share is"), "{said}");
    let twins: String = (0..400)
        .map(|n| chat(&format!("note number {}", n / 40), "C"))
        .collect();
    let got = run(
        tool().args(["--exact", "--ratios=85,0,15", "--dry-run"]),
        &twins,
    );
    let said = text(&got.stderr);
    let told = "test holds 40 examples, where its share is 60: groups stay together";
    assert!(said.contains(told), "{said}");
}

#[test]
fn a_set_that_is_named_twice_is_an_error() {
    for flag in [
        "--counts=train=5,train=6",
        "--ratios=train=0.8,train=0.2",
        "--ratios=90,train=10",
    ] {
        let got = run(tool().args([flag, "--dry-run"]), &notes(20));
        let said = text(&got.stderr);
        assert_eq!(got.status.code(), Some(2), "{said}");
        assert!(said.contains("train is named twice"), "{said}");
    }
}

#[test]
fn a_field_is_found_in_a_completion_that_is_a_list_of_messages() {
    let line = |n: usize| {
        let answer = serde_json::json!({"code": n % 2}).to_string();
        let prompt = serde_json::json!([{"role": "user", "content": format!("note {n}")}]);
        let completion = serde_json::json!([{"role": "assistant", "content": answer}]);
        format!(
            "{}\n",
            serde_json::json!({"prompt": prompt, "completion": completion})
        )
    };
    let input: String = (0..20).map(line).collect();
    let [train, _, test] = split(&input, &["--stratify=code", "--counts=train=rest,test=2"]);
    assert_eq!((train.len(), test.len()), (16, 4));
}
