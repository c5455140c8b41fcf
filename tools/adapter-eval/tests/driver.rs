//! Questions on a CUDA driver that runs on the host (tests/emulation/driver): reading prompts, the cache, decoding
//! alone and side by side, adapters on and off, by the text of every kernel as NVRTC gets it.
#![cfg(feature = "cuda")]

mod common;

use common::{folder, read, stderr, tiny_base};
use workspace_tests::{Driver, copy, data, run, tool};

#[test]
fn answers_of_an_emulated_gpu_are_those_of_the_cpu() {
    let Some(driver) = Driver::built() else {
        return;
    };
    let dir = folder();
    tiny_base(&dir, "llama-tied");
    copy(&data("models/llama-tied/adapter"), &dir.path().join("one"));
    let words = "--base base --adapter one --cases test.jsonl --train train.jsonl --select valid.jsonl \
                 --systems zero-shot,few-shot,adapter --shots 2,4 --max-new-tokens 12 --compute-dtype f32";
    let asked = |device: &str, batch_size: &str, out: &str| {
        let mut tool = tool("adapter-eval");
        driver
            .lend(&mut tool, &[("EMULATED_DRIVER", "12060")])
            .current_dir(dir.path())
            .args(words.split_whitespace())
            .args([
                "--device",
                device,
                "--batch-size",
                batch_size,
                "--out-dir",
                out,
            ]);
        let output = run(&mut tool, "");
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        read(&dir, &format!("{out}/predictions.jsonl"))
    };
    let expected = asked("cpu", "16", "cpu");
    assert_eq!(expected.lines().count(), 3 * 16);
    assert_eq!(asked("cuda:0", "16", "gpu"), expected);
    assert_eq!(asked("cuda:0", "1", "alone"), expected);
}
