//! `--dry-run`: the steps, arithmetic, memory and disk that a run would take.

use std::io::Write;

use model::{Projection, Recompute};

use crate::{
    args::Args,
    data::Plan,
    prepared::Prepared,
    run_dir::{self, Start},
};

/// Prints the report; an error where the run itself would be refused.
pub fn print(prepared: &Prepared) -> anyhow::Result<()> {
    let Prepared {
        args,
        plan,
        train,
        estimate,
        ..
    } = prepared;
    let state = Start::find(args, &prepared.inputs)?.state()?;
    let ended = prepared.ended(&state);
    if !ended {
        run_dir::check_result(&args.out_dir)?;
    }
    let (run, steps_done) = match state.step {
        _ if ended => ("is finished".to_owned(), plan.total_steps),
        0 => ("begins".to_owned(), 0),
        step => (format!("resumes after step {step}"), step),
    };
    let config = prepared.base.config();
    let layers = config.num_hidden_layers as u64;
    let recomputed = match prepared.recompute {
        Recompute::Nothing => 0,
        Recompute::Everything => layers,
        Recompute::Layers(n) => n as u64,
    };
    let read: u64 = (0..train.len()).map(|row| train.tokens(row) as u64).sum();
    let weights: u64 = Projection::ALL
        .iter()
        .map(|p| p.shape(config).iter().product::<usize>() as u64)
        .sum::<u64>()
        * layers;
    let epochs = (plan.total_steps - steps_done) as f64 / plan.steps_per_epoch() as f64;
    let flop = 4.0 * weights as f64 + 2.0 * weights as f64 * recomputed as f64 / layers as f64;
    let report = serde_json::json!({
        "rows": train.len(),
        "tokens_per_epoch": read,
        "optimizer_steps": plan.total_steps,
        "steps_per_epoch": plan.steps_per_epoch(),
        "largest_micro_batch_tokens": prepared.largest_batch,
        "layers_recomputed": recomputed,
        "memory_bytes": {
            "base": estimate.base,
            "adapter_and_optimizer": estimate.adapter,
            "activations": (layers - recomputed).max(1) * estimate.layer + layers * estimate.layer_input,
            "working": estimate.working,
            "total": estimate.total(layers - recomputed),
            "evaluation": estimate.evaluation,
        },
        "disk_bytes": disk_bytes(args, plan, estimate.adapter / 4),
        // 4N a token, 6N where the forward pass is done twice; of the steps that are to come
        "flop": flop * read as f64 * epochs,
        "run": run,
    });
    writeln!(
        std::io::stdout(),
        "{}",
        serde_json::to_string_pretty(&report)?
    )?;
    Ok(())
}

/// What the run's folder holds at its fullest, where the adapter's weights take so many bytes.
fn disk_bytes(args: &Args, plan: &Plan, weights: u64) -> u64 {
    let saves = args.run.save_steps.map_or(0, |n| plan.total_steps / n) + plan.pauses();
    let rows = plan.total_steps / args.run.logging_steps + 2 * plan.pauses();
    // A row is some 200 bytes of a checkpoint's trainer_state.json, and as many in the run's own logs.
    let log = 256 * rows;
    // Beside weights and two moments, what their files say of themselves.
    let checkpoint = 3 * weights + log + (64 << 10);
    // The newest ones, the best one, and the next, which is whole before an older one goes; and a new
    // result beside the one it replaces.
    let checkpoints = (args.run.save_total_limit as u64 + 2).min(saves);
    checkpoints * checkpoint + 2 * weights + 2 * log
}
