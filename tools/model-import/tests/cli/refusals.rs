//! Does a bad source give a message with file and place, exit 2, and leave old outputs whole?

use crate::gguf::*;
use std::fs;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;
use workspace_tests::{exits, text as utf8, tool};

/// Imports over an older base, which must survive; returns what was said.
fn refusal(source: &Path, flags: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("base");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("config.json"), "the older one").unwrap();
    let mut import = tool("model-import");
    import.arg(source).arg("--out-dir").arg(&out).args(flags);
    let output = exits(&mut import, 2);
    assert_eq!(utf8(&output.stdout), "");
    assert_eq!(fs::read(out.join("config.json")).unwrap(), b"the older one");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left beside"
    );
    utf8(&output.stderr).to_owned()
}

fn file(bytes: &[u8]) -> (TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn small() -> Vec<u8> {
    gguf(
        &models().join("llama-tied"),
        "llama",
        byte_level_tokenizer(),
    )
}

#[test]
fn a_gguf_file_cut_off_anywhere() {
    let whole = small();
    for length in (1..whole.len()).step_by(whole.len() / 40) {
        let (_dir, path) = file(&whole[..length]);
        let message = refusal(&path, &[]);
        let named = message.starts_with("model-import: ") && message.contains("model.gguf: ");
        assert!(named, "{length}: {message}");
    }
}

#[test]
fn an_empty_absent_or_foreign_file() {
    let (_dir, path) = file(b"");
    assert!(refusal(&path, &[]).contains("model.gguf: is empty"));
    assert!(refusal(&path.with_file_name("absent.gguf"), &[]).contains("absent.gguf"));
    let message = refusal(&models().join("llama-tied/model.safetensors"), &[]);
    assert!(message.contains("does not begin with GGUF"), "{message}");
    assert!(
        message.contains("hint: for safetensors, name the folder"),
        "{message}"
    );
    let empty = tempfile::tempdir().unwrap();
    let message = refusal(empty.path(), &[]);
    assert!(message.contains("config.json"), "{message}");
    assert!(
        message.contains("hint: a source is a .gguf file"),
        "{message}"
    );
}

#[test]
fn what_is_wrong_in_a_model_is_said_without_saying_what_a_model_is() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), r#"{"model_type": "mamba"}"#).unwrap();
    let message = refusal(dir.path(), &[]);
    assert!(
        message.contains("mamba") && !message.contains("hint"),
        "{message}"
    );
    let entry = tempfile::tempdir().unwrap();
    fs::create_dir(entry.path().join("snapshots")).unwrap();
    let message = refusal(entry.path(), &[]);
    assert!(
        message.contains("is empty: nothing") && !message.contains("hint"),
        "{message}"
    );
}

#[test]
fn a_stretch_that_no_configuration_can_say() {
    let mut keys = byte_level_tokenizer();
    keys.push(text("llama.rope.scaling.type", "yarn"));
    let (_dir, path) = file(&gguf(&models().join("llama-tied"), "llama", keys));
    let message = refusal(&path, &[]);
    assert!(
        message.contains("rope.scaling.type \"yarn\" is not supported"),
        "{message}"
    );
}

#[test]
fn a_file_without_read_permission() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path) = file(&small());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        return workspace_tests::skip_here("this user reads whatever it likes");
    }
    assert!(refusal(&path, &[]).contains("Permission denied"));
}

#[test]
fn an_unknown_architecture_or_splitter() {
    let keys = || byte_level_tokenizer();
    let (_dir, path) = file(&gguf(&models().join("llama-tied"), "mamba", keys()));
    let message = refusal(&path, &[]);
    assert!(
        message.contains("the architecture \"mamba\" is not supported"),
        "{message}"
    );
    let mut other = keys();
    other[1] = text("tokenizer.ggml.pre", "klingon");
    let (_dir, path) = file(&gguf(&models().join("llama-tied"), "llama", other));
    let message = refusal(&path, &[]);
    assert!(
        message.contains("\"klingon\" splits text is not known"),
        "{message}"
    );
    assert!(message.contains("hint: --tokenizer DIR"), "{message}");
}

#[test]
fn one_piece_of_several() {
    let mut keys = byte_level_tokenizer();
    keys.push(number("split.count", 3));
    let (_dir, path) = file(&gguf(&models().join("llama-tied"), "llama", keys));
    let message = refusal(&path, &[]);
    assert!(message.contains("is one of 3 pieces"), "{message}");
    assert!(
        message.contains("hint: llama-gguf-split --merge"),
        "{message}"
    );
}

#[test]
fn a_shape_that_the_keys_deny() {
    let mut bytes = small();
    let key = b"llama.feed_forward_length";
    let at = bytes.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 4;
    bytes[at..at + 4].copy_from_slice(&96u32.to_le_bytes());
    let (_dir, path) = file(&bytes);
    let message = refusal(&path, &[]);
    assert!(
        message.contains("blk.0.ffn_gate.weight: has shape [128, 64]"),
        "{message}"
    );
}

#[test]
fn a_weight_that_is_no_number() {
    let mut bytes = small();
    let length = bytes.len();
    bytes[length - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    let (_dir, path) = file(&bytes);
    assert!(refusal(&path, &[]).contains("model.norm.weight: element 63 is NaN"));
}

#[test]
fn a_truncated_or_foreign_safetensors_file() {
    let dir = tempfile::tempdir().unwrap();
    let source = models().join("llama-tied");
    fs::copy(source.join("config.json"), dir.path().join("config.json")).unwrap();
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    fs::write(
        dir.path().join("model.safetensors"),
        &bytes[..bytes.len() / 2],
    )
    .unwrap();
    assert!(refusal(dir.path(), &[]).contains("model.safetensors: "));
    fs::copy(
        models().join("qwen3/model.safetensors"),
        dir.path().join("model.safetensors"),
    )
    .unwrap();
    fs::copy(
        models().join("qwen2/config.json"),
        dir.path().join("config.json"),
    )
    .unwrap();
    assert!(refusal(dir.path(), &[]).contains("self_attn.q_proj.bias"));
}

#[test]
fn a_tokenizer_of_another_model() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = r#"{"model": {"vocab": {"a": 512}}, "added_tokens": []}"#;
    fs::write(dir.path().join("tokenizer.json"), tokenizer).unwrap();
    let flags = ["--tokenizer", dir.path().to_str().unwrap()];
    let message = refusal(&models().join("llama-tied"), &flags);
    assert!(
        message.contains("token 512, the model's vocabulary 512 rows"),
        "{message}"
    );
}

/// A limit on file sizes fails a write just as a full disk does.
#[test]
fn a_disk_that_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("base");
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$1\" --out-dir \"$2\"";
    let mut import = Command::new("bash");
    import.args(["-c", script, env!("CARGO_BIN_EXE_model-import")]);
    import.arg(models().join("llama-tied")).arg(&out);
    let output = exits(&mut import, 2);
    let message = utf8(&output.stderr);
    assert!(message.contains("model.safetensors"), "{message}");
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "nothing is left"
    );
}

#[test]
fn an_out_dir_with_other_files_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let mut import = tool("model-import");
    import.arg(models().join("llama-tied")).arg("--out-dir");
    exits(import.arg(dir.path()), 2);
    assert!(dir.path().join("thesis.tex").exists());
}
