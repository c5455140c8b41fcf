//! What is each system called, and is what is asked by name possible? Told before anything is generated.

use std::path::Path;

use anyhow::anyhow;
use cli::Hint;

use crate::against::{self, Earlier};
use crate::args::{Args, SystemName};
use crate::system::Run;
use crate::verdict::is_named;

/// A system's name for flags and files.
pub fn key(args: &Args, name: SystemName) -> String {
    match name {
        SystemName::Majority => "majority".into(),
        SystemName::Nearest => "nearest".into(),
        SystemName::ZeroShot => format!("base-{}-zero-shot", args.model.precision()),
        SystemName::FewShot => format!("base-{}-few-shot", args.model.precision()),
        SystemName::Adapter => args.name.clone(),
    }
}

/// One name must mean one system. A --must-beat that names none, or none but the one that is judged, would be a gate
/// that is always open, or always shut.
pub fn check_names(args: &Args, earlier: &[Run]) -> anyhow::Result<()> {
    let own = Vec::from_iter(args.systems().into_iter().map(|name| key(args, name)));
    for (i, key) in own.iter().enumerate() {
        if own[..i].contains(key) {
            return Err(anyhow!("two systems would be named {key}")).hint(against::OWN_NAME);
        }
    }
    let earlier = earlier.iter().map(|run| run.system.key.clone());
    let keys = distinct(earlier.chain(own).collect());
    let judged = judged(args);
    let by_mean = args.must_beat.iter().map(|name| ("--must-beat", name));
    let clearly = args.must_beat_clearly.iter();
    let clearly = clearly.map(|name| ("--must-beat-clearly", name));
    for (flag, name) in by_mean.chain(clearly) {
        let mut named = keys.iter().filter(|key| is_named(key, name)).peekable();
        if named.peek().is_none() {
            return Err(anyhow!("{flag} {name}: no such system"))
                .hint(format!("the systems here are {}", keys.join(", ")));
        }
        if named.all(|key| Some(key) == judged.as_ref()) {
            let others = Vec::from_iter(
                keys.iter()
                    .filter(|key| Some(*key) != judged.as_ref())
                    .cloned(),
            );
            return Err(match others.is_empty() {
                true => anyhow!("{flag} {name}: it is the judged system, and there is no other")
                    .hint("--adapter names one to judge, --against an evaluation to compare with"),
                false => anyhow!("{flag} {name}: it is the judged system itself")
                    .hint(format!("the others here are {}", others.join(", "))),
            });
        }
    }
    Ok(())
}

/// The system that will be judged, where that does not hang on the scores.
fn judged(args: &Args) -> Option<String> {
    let systems = args.systems();
    let mut candidates = Vec::from_iter(systems.iter().filter(|name| name.needs_model()));
    if systems.contains(&SystemName::Adapter) {
        candidates.retain(|name| **name == SystemName::Adapter);
    }
    if candidates.is_empty() {
        candidates.extend(&systems);
    }
    match candidates[..] {
        [one] => Some(key(args, *one)),
        _ => None,
    }
}

/// An earlier evaluation's own system of the same name must be of the same base and adapter: that the answers differ
/// would be told when all are generated.
pub fn check_judged(args: &Args, dir: &Path, earlier: &Earlier) -> anyhow::Result<()> {
    let judged = |name: &SystemName| name.needs_model() && key(args, *name) == earlier.judged;
    let Some(name) = args.systems().into_iter().find(judged) else {
        return Ok(());
    };
    let adapter = args.adapter.as_deref();
    let adapter = adapter.filter(|_| name == SystemName::Adapter);
    let there = &earlier.settings;
    for (theirs, ours) in [
        (there.adapter.as_deref(), adapter),
        (there.base.as_deref(), args.base.as_deref()),
    ] {
        if theirs.map(against::whole) != ours.map(against::whole) {
            let said = |dir: Option<&Path>| match dir {
                Some(dir) => dir.display().to_string(),
                None => "none".into(),
            };
            return Err(anyhow!(
                "{}: the system {} is of {} there and of {} here",
                dir.display(),
                earlier.judged,
                said(theirs),
                said(ours)
            ))
            .hint(against::OWN_NAME);
        }
    }
    Ok(())
}

/// Each once, in their order.
pub fn distinct<T: PartialEq>(all: Vec<T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for one in all {
        if !distinct.contains(&one) {
            distinct.push(one);
        }
    }
    distinct
}
