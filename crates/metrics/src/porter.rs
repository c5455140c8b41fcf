//! Porter's stemmer (1980) with NLTK's extensions, which rouge-score uses; lower-case ASCII words only.

/// The stem of a lower-case ASCII word.
pub(crate) fn stem(word: &str) -> String {
    if let Some(irregular) = irregular(word) {
        return irregular.to_string();
    }
    if word.len() <= 2 {
        return word.to_string();
    }
    let word = plural(word);
    let word = past_or_gerund(&word);
    let word = final_y(&word);
    let word = double_suffix(&word);
    let word = first_rule(&word, STEP_3, |stem| measure(stem) > 0);
    let word = single_suffix(&word);
    let word = final_e(&word);
    final_ll(&word)
}

fn irregular(word: &str) -> Option<&'static str> {
    Some(match word {
        "sky" | "skies" => "sky",
        "dying" => "die",
        "lying" => "lie",
        "tying" => "tie",
        "news" => "news",
        "innings" | "inning" => "inning",
        "outings" | "outing" => "outing",
        "cannings" | "canning" => "canning",
        "howe" => "howe",
        "proceed" => "proceed",
        "exceed" => "exceed",
        "succeed" => "succeed",
        _ => return None,
    })
}

/// Step 1a.
fn plural(word: &str) -> String {
    if word.len() == 4 && word.ends_with("ies") {
        return word[..3].to_string(); // NLTK: dies → die, not di
    }
    first_rule(
        word,
        &[("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")],
        |_| true,
    )
}

/// Step 1b.
fn past_or_gerund(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return format!("{stem}{}", if word.len() == 4 { "ie" } else { "i" }); // NLTK
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 {
            format!("{stem}ee")
        } else {
            word.to_string()
        };
    }
    let Some(stem) = ["ed", "ing"].iter().find_map(|suffix| {
        word.strip_suffix(suffix)
            .filter(|stem| contains_vowel(stem))
    }) else {
        return word.to_string();
    };
    if stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz") {
        return format!("{stem}e");
    }
    if ends_double_consonant(stem) {
        return if stem.ends_with(['l', 's', 'z']) {
            stem.to_string()
        } else {
            stem[..stem.len() - 1].to_string()
        };
    }
    if measure(stem) == 1 && ends_consonant_vowel_consonant(stem) {
        return format!("{stem}e");
    }
    stem.to_string()
}

/// Step 1c.
fn final_y(word: &str) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && is_consonant(stem.as_bytes(), stem.len() - 1) => {
            format!("{stem}i")
        }
        _ => word.to_string(),
    }
}

/// Step 2.
fn double_suffix(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return double_suffix(&format!("{stem}al")); // NLTK
    }
    if let Some(stem) = word.strip_suffix("logi") {
        // NLTK measures with the l, so that short stems like "geo" count.
        return if measure(&word[..word.len() - 3]) > 0 {
            format!("{stem}log")
        } else {
            word.to_string()
        };
    }
    first_rule(word, STEP_2, |stem| measure(stem) > 0)
}

const STEP_2: &[(&str, &str)] = &[
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

const STEP_3: &[(&str, &str)] = &[
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Step 4.
fn single_suffix(word: &str) -> String {
    const SUFFIXES: [&str; 19] = [
        "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion",
        "ou", "ism", "ate", "iti", "ous", "ive", "ize",
    ];
    let Some((suffix, stem)) = SUFFIXES
        .iter()
        .find_map(|suffix| word.strip_suffix(suffix).map(|stem| (*suffix, stem)))
    else {
        return word.to_string();
    };
    let removable = measure(stem) > 1 && (suffix != "ion" || stem.ends_with(['s', 't']));
    if removable {
        stem.to_string()
    } else {
        word.to_string()
    }
}

/// Step 5a.
fn final_e(word: &str) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 => stem.to_string(),
        Some(stem) if measure(stem) == 1 && !ends_consonant_vowel_consonant(stem) => {
            stem.to_string()
        }
        _ => word.to_string(),
    }
}

/// Step 5b.
fn final_ll(word: &str) -> String {
    if word.ends_with("ll") && measure(&word[..word.len() - 1]) > 1 {
        return word[..word.len() - 1].to_string();
    }
    word.to_string()
}

/// The first rule whose suffix fits decides, whether its condition holds or not.
fn first_rule(word: &str, rules: &[(&str, &str)], condition: impl Fn(&str) -> bool) -> String {
    for (suffix, replacement) in rules {
        if let Some(stem) = word.strip_suffix(suffix) {
            return if condition(stem) {
                format!("{stem}{replacement}")
            } else {
                word.to_string()
            };
        }
    }
    word.to_string()
}

fn is_consonant(word: &[u8], i: usize) -> bool {
    match word[i] {
        b'a' | b'e' | b'i' | b'o' | b'u' => false,
        b'y' => i == 0 || !is_consonant(word, i - 1),
        _ => true,
    }
}

/// m in [C](VC)^m[V]: how often a vowel is followed by a consonant.
fn measure(stem: &str) -> usize {
    let bytes = stem.as_bytes();
    (1..bytes.len())
        .filter(|&i| !is_consonant(bytes, i - 1) && is_consonant(bytes, i))
        .count()
}

fn contains_vowel(stem: &str) -> bool {
    (0..stem.len()).any(|i| !is_consonant(stem.as_bytes(), i))
}

fn ends_double_consonant(word: &str) -> bool {
    let bytes = word.as_bytes();
    let n = bytes.len();
    n >= 2 && bytes[n - 1] == bytes[n - 2] && is_consonant(bytes, n - 1)
}

fn ends_consonant_vowel_consonant(word: &str) -> bool {
    let bytes = word.as_bytes();
    let n = bytes.len();
    let consonant = |i| is_consonant(bytes, i);
    (n >= 3
        && consonant(n - 3)
        && !consonant(n - 2)
        && consonant(n - 1)
        && !matches!(bytes[n - 1], b'w' | b'x' | b'y'))
        || (n == 2 && !consonant(0) && consonant(1)) // NLTK
}

#[cfg(test)]
mod tests {
    use super::stem;

    #[test]
    fn stems_are_those_of_nltk() {
        for (word, expected) in [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("dies", "die"),
            ("agreed", "agre"),
            ("hopping", "hop"),
            ("hoping", "hope"),
            ("falling", "fall"),
            ("generously", "gener"),
            ("relational", "relat"),
            ("vietnamization", "vietnam"),
            ("geology", "geolog"),
            ("nationalities", "nation"),
            ("electricity", "electr"),
            ("adjustment", "adjust"),
            ("adoption", "adopt"),
            ("controll", "control"),
            ("dying", "die"),
            ("happily", "happili"),
            ("studying", "studi"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
    }
}
