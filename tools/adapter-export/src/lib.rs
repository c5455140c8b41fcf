//! How does an adapter leave for programs that know nothing of this project?

mod args;
mod gguf;
mod merge;
mod trained;

pub use args::Args;

use anyhow::{Context, anyhow};
use checkpoint::adapter::{self, Adapter};
use checkpoint::{Base, Dtype, Role};
use cli::{AtomicDir, Files, Hint, Outcome};
use std::collections::BTreeMap;
use std::path::Path;

pub fn run(args: Args) -> anyhow::Result<Outcome> {
    check_flags(&args)?;
    // Of entries of the cache, their snapshots; what cannot be found is said when it is opened.
    let [base_dir, adapter_dir] = [&args.base, &args.adapter]
        .map(|dir| checkpoint::resolve(dir).unwrap_or_else(|_| dir.clone()));
    let run_config = trained::run_config(&adapter_dir);
    files(&args, &base_dir, &adapter_dir)
        .reads_paths("--adapter", &run_config)
        .check()?;
    let base = Base::open(&args.base)?;
    let adapter = adapter::read(&args.adapter)?;
    check(&args, &base, &adapter)?;
    if let Some(trained_on) = adapter.other_base(&args.base) {
        cli::note(format_args!(
            "warning: the adapter was trained on {trained_on}, and this base is {}",
            args.base.display()
        ));
    }
    let dtype = args.dtype.0;
    let mut gguf = None;
    if let Some(output) = &args.output {
        let file = gguf::adapter(&base, &adapter, dtype.unwrap_or(Dtype::F32))?;
        let out = gguf.insert(output.create()?);
        file.write(out).with_context(|| output.name())?;
    }
    let mut merged = None;
    if let Some(out_dir) = &args.out_dir {
        let run = match run_config.as_deref() {
            Some(config) => Some((config, trained::read(config)?)),
            None => None,
        };
        let loading = trained::loading(&args, run.map(|(_, loading)| loading), &base)?;
        let out = AtomicDir::create(out_dir, |name| merge::files().any(|file| file == name))?;
        merge::copy_files(base.dir(), &adapter_dir, out.path())?;
        cli::note(trained::describe(&args, &loading, run, &base));
        if let Some(signal) = merge::write(&base, &adapter, loading, dtype, out.path())? {
            return Ok(Outcome::Interrupted(signal));
        }
        Base::open(out.path()).context("checking what was written")?;
        merged = Some(out);
    }
    cli::publish(gguf, merged)?;
    Ok(Outcome::Done)
}

/// An adapter alone is written as it is, whatever it was trained on.
fn check_flags(args: &Args) -> anyhow::Result<()> {
    let flags = [
        ("--quantize", args.quantize.is_some()),
        ("--no-double-quant", args.no_double_quant),
        ("--dequantized-dtype", args.dequantized_dtype.is_some()),
    ];
    match flags.into_iter().find(|(_, given)| *given) {
        Some((flag, _)) if args.out_dir.is_none() => {
            Err(anyhow!("{flag}: changes nothing in an adapter alone"))
                .hint("it goes with --out-dir")
        }
        _ => Ok(()),
    }
}

/// All that is read and written, but for the run's.
fn files(args: &Args, base: &Path, adapter: &Path) -> Files {
    let mut of_the_base: Vec<_> = merge::files().map(|name| base.join(name)).collect();
    of_the_base.extend(merge::weights(base));
    let of_the_adapter = adapter::FILES.into_iter().chain([merge::PROMPT]);
    let of_the_adapter: Vec<_> = of_the_adapter.map(|name| adapter.join(name)).collect();
    let files = Files::default()
        .reads_paths("--base", [&args.base])
        .reads_paths("--base", &of_the_base)
        .reads_paths("--adapter", [&args.adapter])
        .reads_paths("--adapter", &of_the_adapter)
        .writes("--output", &args.output);
    match &args.out_dir {
        Some(folder) => files.replaces("--out-dir", folder),
        None => files,
    }
}

/// Every adapted layer must be a linear layer of the base, in its shape.
fn check(args: &Args, base: &Base, adapter: &Adapter) -> anyhow::Result<()> {
    let parts = checkpoint::parts(base.config());
    let linear: BTreeMap<&str, &[usize]> = parts
        .iter()
        .filter(|part| part.role == Role::Linear)
        .filter_map(|part| Some((part.name.strip_suffix(".weight")?, &part.shape[..])))
        .collect();
    for pair in adapter.pairs() {
        let adapted = [pair.b.shape[0], pair.a.shape[1]];
        match linear.get(pair.module) {
            Some(shape) if **shape == adapted => {}
            Some(shape) => {
                return Err(anyhow!(
                    "{}: {} is for a weight of {adapted:?}, that of {} is {shape:?}",
                    args.adapter.display(),
                    pair.module,
                    args.base.display()
                )
                .hint(trained_on(adapter)));
            }
            None => {
                return Err(anyhow!(
                    "{}: {} is no linear layer of {}",
                    args.adapter.display(),
                    pair.module,
                    args.base.display()
                )
                .hint(trained_on(adapter)));
            }
        }
    }
    Ok(())
}

/// The way out where an adapter does not fit.
fn trained_on(adapter: &Adapter) -> String {
    match adapter.config.base_model_name_or_path.as_deref() {
        None | Some("") => "the adapter was trained on another base".into(),
        Some(name) => format!("the adapter was trained on another base: {name}"),
    }
}
