//! A fixed test set, or what an earlier split made.

use super::*;

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
