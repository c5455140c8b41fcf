//! `--dry-run`: the steps, arithmetic, memory and disk that a run would take.

use std::io::Write;

use checkpoint::ModelConfig;
use model::{Projection, Recompute};

use crate::{
    args::Args,
    data::{Plan, Rows},
    memory::{AdapterSize, Estimate},
};

/// Says what a run would take of which so many steps are done.
pub fn print(
    args: &Args,
    config: &ModelConfig,
    adapter: AdapterSize,
    plan: &Plan,
    train: &Rows,
    recompute: Recompute,
    steps_done: u64,
) -> anyhow::Result<()> {
    let layers = config.num_hidden_layers as u64;
    let recomputed = match recompute {
        Recompute::Nothing => 0,
        Recompute::Everything => layers,
        Recompute::Layers(n) => n as u64,
    };
    let tokens = train.largest_batch(plan.batch_size);
    let estimate = Estimate::new(args, config, adapter, tokens);
    let read: u64 = (0..train.len()).map(|row| train.tokens(row) as u64).sum();
    let weights: u64 = Projection::ALL
        .iter()
        .map(|p| p.shape(config).iter().product::<usize>() as u64)
        .sum::<u64>()
        * layers;
    let run = match steps_done {
        0 => "begins".to_owned(),
        step if step == plan.total_steps => "is finished".to_owned(),
        step => format!("resumes after step {step}"),
    };
    let epochs = (plan.total_steps - steps_done) as f64 / plan.steps_per_epoch() as f64;
    let flop = 4.0 * weights as f64 + 2.0 * weights as f64 * recomputed as f64 / layers as f64;
    let report = serde_json::json!({
        "rows": train.len(),
        "tokens_per_epoch": read,
        "optimizer_steps": plan.total_steps,
        "steps_per_epoch": plan.steps_per_epoch(),
        "largest_micro_batch_tokens": tokens,
        "layers_recomputed": recomputed,
        "memory_bytes": {
            "base": estimate.base,
            "adapter_and_optimizer": estimate.adapter,
            "activations": (layers - recomputed).max(1) * estimate.layer + layers * estimate.layer_input,
            "working": estimate.working,
            "total": estimate.total(layers, layers - recomputed),
        },
        "disk_bytes": estimate.adapter / 4 * 3 * (args.run.save_total_limit as u64 + 1) + estimate.adapter / 4,
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
