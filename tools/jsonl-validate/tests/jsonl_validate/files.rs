//! Bytes that are no lines of JSON.

use super::{chat, tool};
use std::fs;
use workspace_tests::{run, text};

#[test]
fn a_byte_order_mark_that_is_let_through_is_left_out() {
    let line = chat("a sound question", "x") + "\n";
    let folder = tempfile::tempdir().unwrap();
    let sheet = folder.path().join("sheet");
    let mut command = tool();
    command.args([
        "--severity=byte_order_mark=warning",
        "--sample=1",
        "--review",
    ]);
    let got = run(command.arg(sheet), &format!("\u{feff}{line}"));
    assert_eq!(text(&got.stdout), line, "{}", text(&got.stderr));
}

#[test]
fn a_file_in_utf16_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in");
    for (mark, encoding) in [("\u{feff}", "UTF-16"), ("", "UTF-16LE")] {
        let text_of_file = format!("{mark}{}\n", chat("a question", "x"));
        let bytes: Vec<u8> = text_of_file
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        fs::write(&file, bytes).unwrap();
        let got = run(tool().arg(&file), "");
        let want = format!("in:1: is UTF-16; convert it with iconv -f {encoding} -t UTF-8");
        assert!(text(&got.stderr).contains(&want), "{}", text(&got.stderr));
    }
}

#[test]
fn a_file_that_is_compressed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("in");
    fs::write(&file, b"\x1F\x8B\x08\0\0\n\xFF").unwrap();
    let got = run(tool().arg(&file), "");
    let said = text(&got.stderr);
    assert!(
        said.contains("in:1: is compressed; gunzip -c FILE"),
        "{said}"
    );
}
