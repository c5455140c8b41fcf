//! Who may import whom? ARCHITECTURE.md says it in words; here it is held.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use workspace_tests::root;

/// A crate of this workspace, and the only ones that may depend on it. Tools depend on `cli` too.
const IMPORTERS: [(&str, &[&str]); 8] = [
    ("cli", &[]),
    (
        "dataset",
        &[
            "tokens",
            "jsonl-import",
            "jsonl-validate",
            "jsonl-split",
            "tokenize-pack",
            "adapter-eval",
        ],
    ),
    (
        "tokens",
        &[
            "jsonl-validate",
            "tokenize-pack",
            "prompt-cost",
            "qlora-train",
            "adapter-eval",
        ],
    ),
    (
        "nf4",
        &[
            "checkpoint",
            "ops",
            "model",
            "model-import",
            "adapter-export",
        ],
    ),
    (
        "checkpoint",
        &[
            "model",
            "model-import",
            "qlora-train",
            "adapter-eval",
            "adapter-export",
        ],
    ),
    ("ops", &["model"]),
    ("model", &["qlora-train", "adapter-eval"]),
    ("metrics", &["adapter-eval"]),
];

/// Built in seconds, for they never see burn.
const WITHOUT_BURN: [&str; 13] = [
    "cli",
    "dataset",
    "tokens",
    "nf4",
    "checkpoint",
    "metrics",
    "jsonl-import",
    "jsonl-validate",
    "jsonl-split",
    "tokenize-pack",
    "model-import",
    "adapter-export",
    "prompt-cost",
];

#[test]
fn crates_are_imported_only_by_those_that_may() {
    let house = House::read();
    let mut broken = Vec::new();
    for (name, member) in &house.members {
        for dependency in &member.dependencies {
            let Some((_, importers)) = IMPORTERS.iter().find(|(of, _)| of == dependency) else {
                if house.members.contains_key(dependency) {
                    broken.push(format!("{name} imports the tool {dependency}"));
                }
                continue;
            };
            let may = importers.contains(&name.as_str()) || (dependency == "cli" && member.is_tool);
            if !may && !is_the_tests(name) {
                broken.push(format!("{name} imports {dependency}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_member_has_its_place_in_the_rules() {
    let house = House::read();
    for (name, member) in &house.members {
        let is_crate = IMPORTERS.iter().any(|(of, _)| of == name);
        assert!(
            is_crate || member.is_tool || is_the_tests(name),
            "{name}: is it a crate with importers, or a tool?"
        );
    }
}

#[test]
fn burn_is_seen_by_ops_and_model_alone() {
    for (name, member) in &House::read().members {
        let seen = member
            .dependencies
            .iter()
            .find(|dependency| is_burn(dependency));
        let may = ["ops", "model"].contains(&name.as_str());
        assert!(may || seen.is_none(), "{name} depends on {seen:?}");
    }
}

#[test]
fn the_data_tools_and_model_import_never_build_burn() {
    let house = House::read();
    for name in WITHOUT_BURN {
        let seen = house.everything_below(name);
        let burn: Vec<_> = seen.iter().filter(|name| is_burn(name)).collect();
        assert!(burn.is_empty(), "{name} builds {burn:?}");
    }
    let trained = house.everything_below("qlora-train");
    assert!(
        trained.contains("burn"),
        "the walk through Cargo.lock finds burn where it is"
    );
}

#[test]
fn only_cli_and_the_tools_know_the_command_line() {
    for (name, member) in &House::read().members {
        let edges = member
            .dependencies
            .iter()
            .find(|d| d.starts_with("clap") || *d == "anyhow" || *d == "indicatif");
        let may = name == "cli" || member.is_tool;
        assert!(may || edges.is_none(), "{name} depends on {edges:?}");
    }
}

#[test]
fn nothing_below_cli_reads_the_environment_or_the_clock() {
    for (name, member) in &House::read().members {
        if name == "cli" || member.is_tool || is_the_tests(name) {
            continue;
        }
        let src = member.folder.join("src");
        let tests = src.join("tests"); // may ask what this machine has
        for file in sources(&src).into_iter().filter(|f| !f.starts_with(&tests)) {
            let text = fs::read_to_string(&file).unwrap();
            let code = text.split("#[cfg(test)]").next().unwrap_or_default();
            for word in ["std::env", "env::var", "SystemTime", "Instant::now"] {
                assert!(!code.contains(word), "{}: {word}", file.display());
            }
        }
    }
}

#[test]
fn a_main_is_a_door() {
    for (name, member) in &House::read().members {
        if member.is_tool {
            let main = member.folder.join("src/main.rs");
            let lines = fs::read_to_string(&main).unwrap().lines().count();
            assert!(
                lines <= 8,
                "{name}: main.rs has {lines} lines; the room is lib.rs"
            );
        }
    }
}

#[test]
fn every_file_says_at_its_head_what_it_is_about() {
    for member in House::read().members.values() {
        for file in sources(&member.folder.join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            // A main is a door; the tests of a crate are told about in their tests.rs.
            let is_exempt =
                file.ends_with("main.rs") || file.parent().is_some_and(|p| p.ends_with("tests"));
            assert!(is_exempt || text.starts_with("//! "), "{}", file.display());
        }
    }
}

#[test]
fn every_tool_is_in_the_readme_and_the_architecture() {
    let page = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let (readme, architecture) = (page("README.md"), page("ARCHITECTURE.md"));
    for (name, member) in &House::read().members {
        if member.is_tool {
            assert!(readme.contains(&format!("### {name}")), "README.md: {name}");
        }
        if !is_the_tests(name) {
            assert!(architecture.contains(name), "ARCHITECTURE.md: {name}");
        }
    }
}

struct House {
    members: BTreeMap<String, Member>,
    /// Direct dependencies by package, as Cargo.lock has them.
    locked: BTreeMap<String, BTreeSet<String>>,
}

struct Member {
    /// Without those for tests alone.
    dependencies: BTreeSet<String>,
    is_tool: bool,
    folder: PathBuf,
}

impl House {
    fn read() -> House {
        // --no-deps asks nothing of the network; Cargo.lock has the rest.
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let packages = metadata["packages"].as_array().unwrap();
        House {
            members: packages.iter().map(member).collect(),
            locked: locked(),
        }
    }

    /// A member's dependencies and all of theirs.
    fn everything_below(&self, name: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut left = vec![name.to_owned()];
        while let Some(name) = left.pop() {
            let below = match self.members.get(&name) {
                Some(member) => Some(&member.dependencies),
                None => self.locked.get(&name),
            };
            for dependency in below.into_iter().flatten() {
                if seen.insert(dependency.clone()) {
                    left.push(dependency.clone());
                }
            }
        }
        seen
    }
}

fn member(package: &serde_json::Value) -> (String, Member) {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let folder = PathBuf::from(text(&package["manifest_path"]))
        .parent()
        .unwrap()
        .to_owned();
    let dependencies = package["dependencies"].as_array().unwrap();
    let member = Member {
        dependencies: dependencies
            .iter()
            .filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| text(&dependency["name"]))
            .collect(),
        is_tool: folder.starts_with(root().join("tools")),
        folder,
    };
    (text(&package["name"]), member)
}

fn locked() -> BTreeMap<String, BTreeSet<String>> {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock.split("[[package]]").skip(1) {
        let name = package.split('"').nth(1).unwrap().to_owned();
        let dependencies = package.split("dependencies = [").nth(1).unwrap_or_default();
        // `"rand 0.9.2",` when there are several versions
        let names = dependencies
            .split('"')
            .skip(1)
            .step_by(2)
            .filter_map(|d| d.split(' ').next());
        packages
            .entry(name)
            .or_default()
            .extend(names.map(str::to_owned));
    }
    packages
}

fn is_burn(name: &str) -> bool {
    name == "burn" || name.starts_with("burn-")
}

fn is_the_tests(name: &str) -> bool {
    name == env!("CARGO_PKG_NAME")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
