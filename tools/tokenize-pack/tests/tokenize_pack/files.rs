//! Where the rows go: whole files, several of them, the same bytes with any number of threads.

use std::fs;

use super::*;

#[test]
fn the_output_is_the_same_whatever_the_number_of_threads() {
    let (dir, base) = folder(&chats(500));
    let packed = |threads: &str| {
        let arguments = [
            "train.jsonl",
            "--base",
            &base,
            "--max-seq-length",
            "256",
            "--threads",
            threads,
        ];
        let output = tool(dir.path(), &arguments);
        assert_eq!(code(&output), 0);
        output.stdout
    };
    let one = packed("1");
    assert!(!one.is_empty());
    assert_eq!(one, packed("2"));
    assert_eq!(one, packed("5"));
}

#[test]
fn a_number_of_threads_that_no_machine_has_is_refused() {
    let (dir, base) = folder(&chats(3));
    for threads in ["0", "1025", "99999999999"] {
        let flags = ["train.jsonl", "--base", &base, "--threads", threads];
        let output = tool(dir.path(), &flags);
        assert_eq!(code(&output), 2);
        assert!(
            stderr(&output).contains("is not in 1..=1024"),
            "{}",
            stderr(&output)
        );
    }
}

#[test]
fn a_broken_line_stops_the_run_and_leaves_the_old_output_as_it_was() {
    let (dir, base) = folder(&format!("{}{{\"messages\": [}}\n", chats(3)));
    fs::write(dir.path().join("t.safetensors"), "old").unwrap();
    let output = tool(
        dir.path(),
        &["train.jsonl", "--base", &base, "-o", "t.safetensors"],
    );
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).starts_with("tokenize-pack: train.jsonl:4: "),
        "{}",
        stderr(&output)
    );
    assert!(
        stderr(&output).contains("hint: jsonl-validate"),
        "{}",
        stderr(&output)
    );
    assert_eq!(
        fs::read_to_string(dir.path().join("t.safetensors")).unwrap(),
        "old"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2); // nothing left lying about
}

#[test]
fn the_shares_of_several_machines_are_the_whole() {
    let (dir, base) = folder(&chats(50));
    let examples = |shard: &str| {
        let arguments = [
            "train.jsonl",
            "--base",
            &base,
            "--packing",
            "none",
            "--shard",
            shard,
            "-o",
            "s.safetensors",
        ];
        let output = tool(dir.path(), &arguments);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let shard = Shard::open(&dir.path().join("s.safetensors")).unwrap();
        (0..shard.rows())
            .map(|row| shard.row(row).input_ids)
            .collect::<Vec<_>>()
    };
    let whole = examples("1/1");
    let shares = [examples("1/3"), examples("2/3"), examples("3/3")];
    let together: Vec<Vec<u32>> = (0..50)
        .map(|line| shares[line % 3][line / 3].clone())
        .collect();
    assert_eq!(together, whole);
}

#[test]
fn rows_can_go_to_several_files_of_equal_size() {
    let (dir, base) = folder(&chats(50));
    let arguments = [
        "train.jsonl",
        "--base",
        &base,
        "--max-seq-length",
        "256",
        "-o",
        "t.safetensors",
    ];
    assert_eq!(code(&tool(dir.path(), &arguments)), 0);
    let output = tool(
        dir.path(),
        &[&arguments[..], &["--output-shards", "3"]].concat(),
    );
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let rows = |name: &str| {
        let shard = Shard::open(&dir.path().join(name)).unwrap();
        (0..shard.rows())
            .map(|row| shard.row(row).input_ids)
            .collect::<Vec<_>>()
    };
    let parts = [1, 2, 3].map(|part| rows(&format!("t-0000{part}-of-00003.safetensors")));
    assert!(
        parts
            .iter()
            .all(|part| part.len().abs_diff(parts[0].len()) <= 1)
    );
    assert_eq!(parts.concat(), rows("t.safetensors"));
    let second = Shard::open(&dir.path().join("t-00002-of-00003.safetensors")).unwrap();
    assert_eq!((second.meta().part.index, second.meta().part.of), (2, 3));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let (dir, base) = folder(&chats(5000));
    let mut child = workspace_tests::tool("tokenize-pack")
        .current_dir(dir.path())
        .args([
            "train.jsonl",
            "--base",
            &base,
            "--format",
            "jsonl",
            "--quiet",
        ])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((code(&output), stderr(&output)), (0, ""));
}

#[test]
fn a_data_set_is_never_packed_over_itself() {
    let (dir, base) = folder(&chats(3));
    for more in [&[][..], &["--format", "jsonl"], &["--show-mask", "1"]] {
        let flags = ["train.jsonl", "--base", &base, "-o", "./train.jsonl"];
        let got = tool(dir.path(), &[&flags[..], more].concat());
        let said = stderr(&got);
        assert_eq!(code(&got), 2, "{said}");
        assert!(said.contains("would replace FILE train.jsonl"), "{said}");
        let left = fs::read_to_string(dir.path().join("train.jsonl")).unwrap();
        assert_eq!(left, chats(3));
    }
}
