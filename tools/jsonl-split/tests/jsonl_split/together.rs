//! What belongs together is in one set.

use super::*;

#[test]
fn the_same_prompt_never_straddles() {
    let input: String = (0..600)
        .map(|n| {
            chat(
                &format!("note number {}", n % 100)
                    .replace("note", ["note", "NOTE", " note"][n / 200]),
                "A",
            )
        })
        .collect();
    let [train, valid, _] = split(&input, &["--ratios=50,50"]);
    let prompts = |set: &BTreeSet<String>| -> BTreeSet<String> {
        set.iter()
            .map(|line| {
                line.to_lowercase()
                    .replace("\" note", "\"note")
                    .split("metadata")
                    .next()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    assert!(
        prompts(&train).is_disjoint(&prompts(&valid)) && !train.is_empty() && !valid.is_empty()
    );
}

#[test]
fn a_conversation_is_not_torn_from_its_longer_versions() {
    let input: String = (0..120)
        .map(|line| conversation(line % 40, 1 + line / 40))
        .collect();
    for flags in [
        &["--ratios=50,50"][..],
        &["--ratios=50,50", "--exact"],
        &["--ratios=50,50", "--near-duplicates=0.99"],
    ] {
        let [train, valid, _] = split(&input, flags);
        let talks = |set: &BTreeSet<String>| -> BTreeSet<String> {
            let first = |line: &String| line.split("of talk ").nth(1).unwrap()[..2].to_owned();
            set.iter().map(first).collect()
        };
        assert!(!train.is_empty() && !valid.is_empty());
        assert!(talks(&train).is_disjoint(&talks(&valid)), "{flags:?}");
    }
}

#[test]
fn a_group_stays_together() {
    let input: String = (0..200)
        .map(|n| {
            chat(&"x".repeat(n % 20 + 1), "A")
                .replace("\"messages\"", &format!("\"id\":{n},\"messages\""))
        })
        .collect();
    let [train, valid, _] = split(&input, &["--ratios=50,50", "--group-by=metadata.patient"]);
    let patients = |set: &BTreeSet<String>| {
        set.iter()
            .map(|line| line.split("patient").nth(1).unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert!(patients(&train).is_disjoint(&patients(&valid)));
}

#[test]
fn a_split_by_lines_would_leak_as_much_by_counts_as_by_the_same_shares() {
    let input: String = (0..400)
        .map(|n| chat(&"x".repeat(n % 20 + 1), "A"))
        .collect();
    let leaked = |flags: &[&str]| -> u32 {
        let mut tool = tool();
        tool.args(["--dry-run", "--group-by=metadata.patient"]);
        let got = run(tool.args(flags), &input);
        assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
        let told = text(&got.stderr).split("would have leaked ").nth(1);
        told.map_or(0, |told| told.split(' ').next().unwrap().parse().unwrap())
    };
    let half = leaked(&["--ratios=50,0,50", "--exact"]);
    assert!((150..250).contains(&half), "{half}");
    assert_eq!(leaked(&["--counts=train=rest,test=200"]), half);
    assert_eq!(leaked(&["--counts=test=rest"]), 0);
}

#[test]
fn near_duplicates_never_straddle() {
    let input: String = (0..300)
        .map(|n| {
            chat(
                &format!(
                    "the {} patient reports pain in the {} knee since day {}{}",
                    n / 3,
                    n / 3 * 7919,
                    n / 3 * 31,
                    ["", ".", " !"][n % 3]
                ),
                "A",
            )
        })
        .collect();
    let [train, valid, _] = split(&input, &["--ratios=50,50", "--near-duplicates=0.9"]);
    let stems = |set: &BTreeSet<String>| {
        set.iter()
            .map(|line| line.split(" since").next().unwrap().to_owned())
            .collect::<BTreeSet<_>>()
    };
    assert!(stems(&train).is_disjoint(&stems(&valid)) && !valid.is_empty());
}

#[test]
fn all_that_are_nearly_alike_stay_together_and_not_the_nearest_alone() {
    let mut state = 7u64;
    let mut draw = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    // Families that drift away from their first text: neighbours are alike, the ends are not.
    let mut texts = Vec::new();
    for family in 0..40 {
        let mut words: Vec<String> = (0..24)
            .map(|w| format!("word{}", family * 100 + w))
            .collect();
        for _ in 0..6 {
            texts.push(words.join(" "));
            let at = draw(words.len());
            words[at] = format!("other{}", draw(1_000_000));
        }
    }
    for at in (1..texts.len()).rev() {
        texts.swap(at, draw(at + 1));
    }
    let input: String = texts.iter().map(|text| chat(text, "A")).collect();
    let threshold = 0.7;
    let flag = format!("--near-duplicates={threshold}");
    let sets = split(&input, &[&flag, "--ratios=60,20,20"]);
    let home = |text: &str| {
        sets.iter()
            .position(|set| set.contains(chat(text, "A").trim_end()))
    };
    let signatures: Vec<_> = texts
        .iter()
        .map(|text| dataset::minhash::Signature::of(text))
        .collect();
    let mut alike = 0;
    for a in 0..texts.len() {
        for b in 0..a {
            if signatures[a].similarity(&signatures[b]) >= threshold {
                alike += 1;
                assert_eq!(
                    home(&texts[a]),
                    home(&texts[b]),
                    "{}\n{}",
                    texts[a],
                    texts[b]
                );
            }
        }
    }
    assert!(alike > 100 && sets.iter().all(|set| set.len() > 10));
}
