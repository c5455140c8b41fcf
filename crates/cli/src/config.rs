//! What does a config file say, as words of a command line? clap then does all the checking.

use std::path::Path;

use anyhow::{Context, anyhow, bail};
use clap::{Arg, ArgAction, Command};
use serde_json::{Map, Value};

use crate::Hint;

/// The keys of a config file; each is a long flag's name, in kebab-case or snake_case.
#[derive(Debug)]
pub(crate) struct Config(Map<String, Value>);

/// The same as words for the command line.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Words {
    pub flags: Vec<String>,
    pub positionals: Vec<String>,
}

/// Answered before any run: never part of a config.
const NOT_IN_A_CONFIG: [&str; 5] = ["help", "version", "config", "print_config", "generate"];

/// Reads `.toml` as TOML and everything else as JSON.
pub(crate) fn read(file: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let value: Value = if file
        .extension()
        .is_some_and(|extension| extension == "toml")
    {
        let not_toml = |error: toml::de::Error| {
            let error = error.to_string(); // which ends its last line
            anyhow!("{}: not TOML: {}", file.display(), error.trim_end())
        };
        toml::from_str(&text).map_err(not_toml)?
    } else {
        serde_json::from_str(&text).with_context(|| format!("{}: not JSON", file.display()))?
    };
    match value {
        Value::Object(keys) => Ok(Config(keys)),
        _ => bail!("{}: a config is one object of flags", file.display()),
    }
}

impl Config {
    /// Words for every key that the command line leaves open: it gives neither the argument nor one that
    /// rules it out. A default needs no words, which would only rule out or require others.
    pub(crate) fn words(
        &self,
        command: &Command,
        file: &Path,
        is_given: impl Fn(&str) -> bool,
    ) -> anyhow::Result<Words> {
        let mut words = Words::default();
        for (key, value) in &self.0 {
            let arg = find(command, key)
                .with_context(|| format!("{}: unknown key {key:?}", file.display()))
                .hint(format!("the keys are {}", keys(command).join(", ")))?;
            let is_decided = arguments(command)
                .filter(|other| is_given(other.get_id().as_str()))
                .any(|other| other == arg || exclude_each_other(command, arg, other));
            if is_decided || is_default(arg, value) {
                continue;
            }
            add(arg, value, &mut words)
                .with_context(|| format!("{}: key {key:?}", file.display()))?;
        }
        Ok(words)
    }
}

fn add(arg: &Arg, value: &Value, words: &mut Words) -> anyhow::Result<()> {
    let name = arg.get_long().map(|long| format!("--{long}"));
    let is_switch = matches!(
        arg.get_action(),
        ArgAction::SetTrue | ArgAction::SetFalse | ArgAction::Count
    );
    match (name, value) {
        (_, Value::Null) => {}
        (Some(name), Value::Bool(on)) if is_switch => {
            if *on != matches!(arg.get_action(), ArgAction::SetFalse) {
                words.flags.push(name);
            }
        }
        (Some(name), Value::Number(times)) if matches!(arg.get_action(), ArgAction::Count) => {
            let times = times.as_u64().context("a count is a whole number")?;
            words.flags.extend((0..times).map(|_| name.clone()));
        }
        (Some(name), _) if is_switch => bail!("{name} is a switch: true or false"),
        (Some(name), value) => words.flags.extend(
            texts(value)?
                .into_iter()
                .map(|text| format!("{name}={text}")),
        ),
        (None, value) => words.positionals.extend(texts(value)?),
    }
    Ok(())
}

fn exclude_each_other(command: &Command, a: &Arg, b: &Arg) -> bool {
    let names = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).contains(&b);
    let share_a_group = command.get_groups().any(|group| {
        let holds = |arg: &Arg| group.get_args().any(|id| id == arg.get_id());
        !group.clone().is_multiple() && holds(a) && holds(b)
    });
    names(a, b) || names(b, a) || share_a_group
}

fn is_default(arg: &Arg, value: &Value) -> bool {
    let defaults = arg.get_default_values().iter();
    let defaults: Vec<_> = defaults.map(|text| text.to_string_lossy()).collect();
    let between = arg.get_value_delimiter().map(String::from);
    let between = between.unwrap_or_default();
    let default = defaults.join(&between);
    // The default 0 of a number with a fraction is printed as 0.0.
    let number = |text: &str| text.parse::<f64>().ok();
    let says = |values: Vec<String>| {
        let said = values.join(&between);
        said == default || number(&said).is_some_and(|said| number(&default) == Some(said))
    };
    !defaults.is_empty() && texts(value).is_ok_and(says)
}

/// One word for each value: a list repeats its flag, an object repeats it as `key=value`.
fn texts(value: &Value) -> anyhow::Result<Vec<String>> {
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        Value::Object(pairs) => pairs
            .iter()
            .map(|(key, value)| Ok(format!("{key}={}", text(value)?)))
            .collect(),
        value => Ok(vec![text(value)?]),
    }
}

fn text(value: &Value) -> anyhow::Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(on) => Ok(on.to_string()),
        _ => bail!("a value is a string, a number, true or false, or a list of these"),
    }
}

fn find<'a>(command: &'a Command, key: &str) -> Option<&'a Arg> {
    let key = key.replace('-', "_");
    arguments(command).find(|arg| {
        arg.get_id().as_str() == key
            || arg
                .get_long()
                .is_some_and(|long| long.replace('-', "_") == key)
    })
}

fn keys(command: &Command) -> Vec<String> {
    arguments(command)
        .map(|arg| {
            arg.get_long()
                .unwrap_or(arg.get_id().as_str())
                .replace('-', "_")
        })
        .collect()
}

fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command
        .get_arguments()
        .filter(|arg| !NOT_IN_A_CONFIG.contains(&arg.get_id().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ArgGroup;
    use serde_json::json;

    fn command() -> Command {
        Command::new("t")
            .arg(Arg::new("learning_rate").long("learning-rate"))
            .arg(Arg::new("train").long("train").action(ArgAction::Append))
            .arg(
                Arg::new("shuffle")
                    .long("shuffle")
                    .action(ArgAction::SetTrue),
            )
            .arg(Arg::new("files").num_args(0..))
            .arg(Arg::new("counts").long("counts"))
            .arg(Arg::new("share").long("share").default_value("1"))
            .arg(
                Arg::new("ratios")
                    .long("ratios")
                    .value_delimiter(',')
                    .default_value("90,10")
                    .conflicts_with("counts"),
            )
            .group(ArgGroup::new("group").args(["train", "files"]))
    }

    fn words(config: Value) -> anyhow::Result<Words> {
        words_beside(config, "")
    }

    fn words_beside(config: Value, given: &str) -> anyhow::Result<Words> {
        let Value::Object(keys) = config else {
            panic!("the tests write objects")
        };
        Config(keys).words(&command(), Path::new("c.json"), |id| id == given)
    }

    #[test]
    fn lists_repeat_and_switches_switch() {
        let got = words(
            json!({"learning-rate": 2e-4, "train": ["a", "b"], "shuffle": true, "files": ["-"]}),
        )
        .unwrap();
        assert_eq!(
            got.flags,
            [
                "--learning-rate=0.0002",
                "--train=a",
                "--train=b",
                "--shuffle"
            ]
        );
        assert_eq!(got.positionals, ["-"]);
        assert_eq!(
            words(json!({"shuffle": false, "learning_rate": null})).unwrap(),
            Words::default()
        );
    }

    #[test]
    fn a_given_flag_silences_what_it_rules_out_and_defaults_need_no_words() {
        let one = |key: &str, value: &Value, given: &str| {
            let config = Value::from_iter([(key, value.clone())]);
            let Words { flags, positionals } = words_beside(config, given).unwrap();
            [flags, positionals].concat().join(" ")
        };
        for (key, value, given, said) in [
            ("ratios", json!("80,20"), "", "--ratios=80,20"),
            ("ratios", json!("80,20"), "ratios", ""),
            ("ratios", json!("80,20"), "counts", ""),
            ("counts", json!("a"), "ratios", ""),
            ("train", json!("a"), "files", ""),
            ("files", json!("a"), "train", ""),
            ("files", json!("a"), "counts", "a"),
            ("ratios", json!("90,10"), "", ""),
            ("ratios", json!([90, 10]), "", ""),
            ("counts", json!(""), "", "--counts="),
            ("share", json!(1.0), "", ""),
            ("share", json!(0.5), "", "--share=0.5"),
        ] {
            assert_eq!(one(key, &value, given), said, "{key} beside {given:?}");
        }
    }

    #[test]
    fn an_unknown_key_names_the_file_and_the_key() {
        let error = words(json!({"learning_rat": 1})).unwrap_err();
        assert_eq!(format!("{error:#}"), "c.json: unknown key \"learning_rat\"");
        assert!(crate::hint::hints(&error)[0].contains("learning_rate, train"));
    }

    #[test]
    fn a_switch_takes_no_text() {
        let error = words(json!({"shuffle": "yes"})).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "c.json: key \"shuffle\": --shuffle is a switch: true or false"
        );
    }
}
