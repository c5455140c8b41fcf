//! RUN/checkpoints: what a run goes on from, and where its result is taken from.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};
use checkpoint::adapter::{self, WEIGHTS_FILE};
use checkpoint::{Dtype, Entry, SafetensorsWriter};
use cli::{AtomicDir, Hint};
use model::{AdamW, Adapter};
use safetensors::tensor::SafeTensors;
use tokens::Prompting;

use super::RunDir;
use crate::state::State;

const OPTIMIZER_FILE: &str = "optimizer.safetensors";
pub(super) const STATE_FILE: &str = "trainer_state.json";

impl RunDir {
    /// Saves a checkpoint, whole or not at all, and removes those past the limit. What has not stayed
    /// finite is refused: there is nothing to go on from.
    pub fn save(
        &self,
        state: &State,
        adapter: &Adapter,
        optimizer: &AdamW,
        limit: usize,
    ) -> anyhow::Result<()> {
        let adapter_now = adapter.to_peft();
        let mut tensors = adapter_now.tensors.iter();
        if let Some((name, _)) = tensors.find(|(_, t)| t.values.iter().any(|v| !v.is_finite())) {
            let error = anyhow!(
                "step {}: {name} holds values that are not finite",
                state.step
            );
            return Err(error).hint(crate::DIVERGED);
        }
        let write = || -> anyhow::Result<()> {
            let folder = AtomicDir::create(&self.checkpoint(state.step), is_checkpoint_file)?;
            checkpoint::adapter::write(&adapter_now, folder.path(), Dtype::F32)?;
            self.prompting.write(folder.path())?;
            let moments = optimizer.to_host(adapter);
            write_moments(&folder.path().join(OPTIMIZER_FILE), &moments)?;
            state.write(
                &folder.path().join(STATE_FILE),
                self.total_steps,
                self.epochs,
            )?;
            folder.publish()
        };
        write().hint("the same command goes on from the checkpoint before, if there is one")?;

        let best = state.best_trained().map(|best| best.step);
        let mut steps = checkpoint_steps(&self.root)?;
        steps.retain(|&step| Some(step) != best);
        for step in steps.iter().rev().skip(limit) {
            let old = self.checkpoint(*step);
            fs::remove_dir_all(&old).with_context(|| format!("removing {}", old.display()))?;
        }
        Ok(())
    }

    /// Makes `step`'s adapter the run's result.
    pub fn publish(&self, step: u64) -> anyhow::Result<()> {
        let from = self.checkpoint(step);
        let folder = AtomicDir::create(&self.adapter(), is_adapter_file)?;
        for name in adapter::FILES {
            fs::copy(from.join(name), folder.path().join(name))
                .with_context(|| format!("copying {} of {}", name, from.display()))?;
        }
        self.prompting.write(folder.path())?;
        folder.publish()
    }

    /// Whether `step`'s adapter is the one that stands as the result. Another one may: that of an early stop
    /// after which the run was gone on with.
    pub fn is_published(&self, step: u64) -> bool {
        let (result, checkpoint) = (self.adapter(), self.checkpoint(step));
        if !checkpoint.exists() {
            return result.exists(); // somebody made room
        }
        let weights = |folder: &Path| fs::read(folder.join(WEIGHTS_FILE));
        matches!((weights(&result), weights(&checkpoint)), (Ok(a), Ok(b)) if a == b)
    }

    fn checkpoint(&self, step: u64) -> PathBuf {
        self.root.join(format!("checkpoints/checkpoint-{step}"))
    }
}

fn checkpoint_steps(root: &Path) -> anyhow::Result<Vec<u64>> {
    let folder = root.join("checkpoints");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| folder.display().to_string()),
    };
    let mut steps = Vec::new();
    for entry in entries {
        let name = entry
            .with_context(|| folder.display().to_string())?
            .file_name();
        let step = name
            .to_str()
            .and_then(|n| n.strip_prefix("checkpoint-")?.parse::<u64>().ok());
        steps.extend(step);
    }
    steps.sort_unstable();
    Ok(steps)
}

pub(super) fn newest_checkpoint(root: &Path) -> anyhow::Result<Option<PathBuf>> {
    let newest = checkpoint_steps(root)?.pop();
    Ok(newest.map(|step| root.join(format!("checkpoints/checkpoint-{step}"))))
}

/// The moments of a checkpoint, back into the optimizer.
pub fn read_moments(
    checkpoint: &Path,
    step: u64,
    optimizer: &mut AdamW,
    adapter: &Adapter,
) -> anyhow::Result<()> {
    let path = checkpoint.join(OPTIMIZER_FILE);
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let file =
        SafeTensors::deserialize(&bytes).with_context(|| format!("reading {}", path.display()))?;
    let lookup = |key: &str| {
        let view = file.tensor(key).ok()?;
        let values = view.data().chunks_exact(4);
        Some(
            values
                .map(|b| f32::from_le_bytes(b.try_into().expect("four bytes")))
                .collect(),
        )
    };
    let step = u32::try_from(step).context("too many steps")?;
    optimizer
        .restore(adapter, step, lookup)
        .map_err(|key| anyhow::anyhow!("{}: {key} is missing or of another size", path.display()))
}

fn write_moments(path: &Path, moments: &[(String, [usize; 2], Vec<f32>)]) -> anyhow::Result<()> {
    let entries = moments.iter().map(|(key, shape, _)| Entry {
        name: key.clone(),
        dtype: Dtype::F32,
        shape: shape.to_vec(),
    });
    let file = SafetensorsWriter::create(path, entries.collect(), &BTreeMap::new())?;
    for (key, _, values) in moments {
        file.put(key, &Dtype::F32.encode(values))?;
    }
    Ok(file.finish()?)
}

fn is_checkpoint_file(name: &str) -> bool {
    is_adapter_file(name) || [OPTIMIZER_FILE, STATE_FILE].contains(&name)
}

pub(super) fn is_adapter_file(name: &str) -> bool {
    adapter::FILES.contains(&name) || name == Prompting::FILE
}
