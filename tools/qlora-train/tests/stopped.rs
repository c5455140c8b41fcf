//! A run keeps its folder to itself; when a signal stops it, it leaves soon, and the next one goes on to what it
//! would have come to.

mod common;
mod work;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use common::{examples, pack, succeed};
use work::{Work, refused};
use workspace_tests::{data, exits, text};

/// Two steps, with evaluations that take longer than these.
const SLOW_EVALUATIONS: [&str; 10] = [
    "--max-steps",
    "2",
    "--eval-steps",
    "1",
    "--batch-size",
    "1",
    "--threads",
    "1",
    "--warmup-ratio",
    "0",
];

fn with_many_evaluation_rows() -> Work {
    let work = Work::new();
    pack(
        examples(4000, 2),
        &data("models/llama-tied"),
        &["--max-seq-length", "64"],
        &work.path("valid.safetensors"),
    );
    work
}

fn terminate(mut running: Child) -> (Option<i32>, Duration) {
    let asked = Instant::now();
    let kill = Command::new("kill").arg(running.id().to_string()).status();
    assert!(kill.expect("kill runs").success());
    let status = running.wait().expect("it ends");
    (status.code(), asked.elapsed())
}

/// Waits until metrics.jsonl has so many rows of steps.
fn wait_for_steps(running: &mut Child, metrics: &Path, steps: usize) {
    let rows = || fs::read_to_string(metrics).unwrap_or_default();
    while rows().matches("grad_norm").count() < steps {
        let ended = running.try_wait().expect("it can be asked");
        assert!(ended.is_none(), "it ended before: {ended:?}");
        sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_second_run_in_the_same_folder_is_told_to_come_later() {
    let work = Work::new();
    let train = || work.train_with("run", &["--epochs", "400"]);
    let mut running = train().stderr(Stdio::null()).spawn().expect("it starts");
    wait_for_steps(&mut running, &work.path("run/metrics.jsonl"), 1);
    refused(&mut train(), 75, "another run is at work here");
    assert_eq!(terminate(running).0, Some(128 + 15));
    let saved = fs::read_dir(work.path("run/checkpoints")).expect("it saved");
    assert!(saved.count() > 0);
}

#[test]
fn a_signal_in_the_evaluation_of_the_start_is_answered_at_once() {
    let work = with_many_evaluation_rows();
    let mut command = work.train_with("run", &SLOW_EVALUATIONS);
    let mut running = command.stderr(Stdio::piped()).spawn().expect("it starts");
    let mut said = BufReader::new(running.stderr.take().expect("a pipe")).lines();
    let loaded = |line: String| line.contains("Trainable: ");
    assert!(said.any(|line| loaded(line.expect("UTF-8"))));
    sleep(Duration::from_millis(100));
    let (status, _) = terminate(running);
    assert_eq!(status, Some(128 + 15));
    let last = said.last().expect("it says why").expect("UTF-8");
    assert!(last.contains("stopped before the first step"), "{last}");
    assert!(work.read("run/metrics.jsonl").is_empty());
}

#[test]
fn an_evaluation_that_a_signal_stops_is_made_by_the_run_that_goes_on() {
    let work = with_many_evaluation_rows();
    let started = Instant::now();
    let no_better = 1; // on rows that have nothing to do with those trained on
    exits(&mut work.train_with("whole", &SLOW_EVALUATIONS), no_better);
    let an_evaluation = started.elapsed() / 4; // there are three, and the start
    for step in [1, 2] {
        let mut command = work.train_with("run", &SLOW_EVALUATIONS);
        let mut running = command.stderr(Stdio::null()).spawn().expect("it starts");
        wait_for_steps(&mut running, &work.path("run/metrics.jsonl"), step);
        let (status, took) = terminate(running);
        assert_eq!(status, Some(128 + 15));
        assert!(took < an_evaluation, "{took:?} of {an_evaluation:?}");
        let metrics = work.read("run/metrics.jsonl");
        assert_eq!(text(&metrics).matches("eval_loss").count(), step, "owed");
        assert!(
            work.path(&format!("run/checkpoints/checkpoint-{step}"))
                .exists()
        );
        let plan = succeed(work.train_with("run", &SLOW_EVALUATIONS).arg("--dry-run"));
        let resumes = format!("resumes after step {step}");
        assert!(text(&plan.stdout).contains(&resumes), "{plan:?}");
    }
    exits(&mut work.train_with("run", &SLOW_EVALUATIONS), no_better);
    work.assert_same_result("whole", "run");
    let states = ["whole", "run"].map(|run| {
        work.read(&format!(
            "{run}/checkpoints/checkpoint-2/trainer_state.json"
        ))
    });
    assert!(states[0] == states[1], "the checkpoint has the evaluation");
}

#[test]
fn an_adapter_of_an_earlier_end_is_not_taken_for_the_result() {
    let work = Work::new();
    succeed(&mut work.train("run"));
    let weights = "adapter_model.safetensors";
    let result = work.read(&format!("run/adapter/{weights}"));
    // As an early stop left it, after which the run went on and was stopped before it could publish.
    let earlier = work.path(&format!("run/checkpoints/checkpoint-2/{weights}"));
    fs::copy(earlier, work.path(&format!("run/adapter/{weights}"))).unwrap();
    assert!(result != work.read(&format!("run/adapter/{weights}")));
    succeed(&mut work.train("run"));
    assert!(result == work.read(&format!("run/adapter/{weights}")));
    let again = succeed(&mut work.train("run"));
    assert!(
        text(&again.stderr).contains("this run is finished"),
        "{again:?}"
    );
}

#[test]
fn a_strangers_file_beside_the_adapter_is_told_before_the_first_step() {
    let work = Work::new();
    succeed(&mut work.train("run"));
    let readme = work.path("run/adapter/README.md");
    fs::write(&readme, "mine").unwrap();
    let again = succeed(&mut work.train("run"));
    assert!(
        text(&again.stderr).contains("this run is finished"),
        "{again:?}"
    );
    let holds = "run/adapter: holds README.md, which this tool does not write";
    refused(
        &mut work.train_with("run", &["--overwrite", "--seed", "1"]),
        2,
        holds,
    );
    let last = work.steps("run");
    for step in 3..=last {
        let _ = fs::remove_dir_all(work.path(&format!("run/checkpoints/checkpoint-{step}")));
    }
    refused(work.train("run").arg("--dry-run"), 2, holds);
    refused(&mut work.train("run"), 2, holds);
    assert!(!work.path("run/checkpoints/checkpoint-4").exists());
    assert_eq!(fs::read(&readme).unwrap(), b"mine");
}
