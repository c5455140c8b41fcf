//! Which characters does a text hold that nobody meant to write?

use crate::finding::Findings;
use crate::rules::Rule;

/// A writing system, as far as mixing them up is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Script {
    #[default]
    Latin,
    Greek,
    Cyrillic,
    Hebrew,
    Arabic,
    Devanagari,
    Thai,
    Hangul,
    Kana,
    Han,
    Other,
}

impl Script {
    /// Every script there is.
    pub const ALL: [Script; 11] = [
        Script::Latin,
        Script::Greek,
        Script::Cyrillic,
        Script::Hebrew,
        Script::Arabic,
        Script::Devanagari,
        Script::Thai,
        Script::Hangul,
        Script::Kana,
        Script::Han,
        Script::Other,
    ];

    /// The commonest, the first of equals.
    pub(crate) fn of_most(letters: &Letters) -> Script {
        let scripts = Script::ALL.into_iter().rev(); // the last of equals is taken
        scripts
            .max_by_key(|script| letters[*script as usize])
            .unwrap_or_default()
    }

    /// The script of a letter; digits and punctuation belong to none.
    pub fn of(letter: char) -> Option<Script> {
        let code = letter as u32;
        match code {
            0x41..=0x5A | 0x61..=0x7A => Some(Script::Latin),
            0..=0xA9 => None,
            0xB5 | 0x2126 => None, // the micro and ohm signs stand in Latin words
            _ if !letter.is_alphabetic() => None,
            0xAA..=0x2AF
            | 0x1D00..=0x1DBF
            | 0x1E00..=0x1EFF
            | 0xAB30..=0xAB6F
            | 0xFF21..=0xFF5A => Some(Script::Latin),
            0x370..=0x3FF | 0x1F00..=0x1FFF => Some(Script::Greek),
            0x400..=0x52F => Some(Script::Cyrillic),
            0x590..=0x5FF => Some(Script::Hebrew),
            0x600..=0x77F | 0x8A0..=0x8FF | 0xFB50..=0xFDFF | 0xFE70..=0xFEFE => {
                Some(Script::Arabic)
            }
            0x900..=0x97F => Some(Script::Devanagari),
            0xE00..=0xE7F => Some(Script::Thai),
            0x1100..=0x11FF | 0xAC00..=0xD7AF => Some(Script::Hangul),
            0x3041..=0x30FF | 0x31F0..=0x31FF => Some(Script::Kana),
            0x2E80..=0x2FDF
            | 0x3005..=0x3007
            | 0x3400..=0x9FFF
            | 0xF900..=0xFAFF
            | 0x20000..=0x3FFFF => Some(Script::Han),
            _ => Some(Script::Other),
        }
    }
}

/// How many letters of each script.
pub(crate) type Letters = [u32; Script::ALL.len()];

/// Judges the characters of one text and counts its letters by script.
pub(crate) fn check(
    text: &str,
    place: &dyn Fn() -> String,
    findings: &mut Findings,
    letters: &mut Letters,
) {
    if text.is_ascii() && !has_odd_byte(text) {
        letters[Script::Latin as usize] += 1; // a count only matters against other scripts
        return;
    }
    let mut seen = [false; 4];
    let mut word = [None, None];
    for letter in text.chars() {
        let (kind, rule) = match letter {
            '\0' => (0, Rule::NulCharacter),
            '\t' | '\n' | '\r' => continue_word(&mut word),
            '\u{1}'..='\u{1F}' | '\u{7F}'..='\u{9F}' => (1, Rule::ControlCharacter),
            '\u{FFFD}' => (2, Rule::ReplacementCharacter),
            '\u{200B}'
            | '\u{202A}'..='\u{202E}'
            | '\u{2060}'..='\u{2069}'
            | '\u{FEFF}'
            | '\u{AD}' => (3, Rule::InvisibleCharacter),
            _ => {
                count(letter, &mut word, letters, place, findings);
                continue;
            }
        };
        if kind < 4 && !seen[kind] {
            seen[kind] = true;
            findings.add(rule, || {
                format!("{} holds U+{:04X}", place(), letter as u32)
            });
        }
    }
}

/// White space ends a word and is no finding.
fn continue_word(word: &mut [Option<Script>; 2]) -> (usize, Rule) {
    *word = [None, None];
    (4, Rule::ControlCharacter)
}

fn count(
    letter: char,
    word: &mut [Option<Script>; 2],
    letters: &mut Letters,
    place: &dyn Fn() -> String,
    findings: &mut Findings,
) {
    let Some(script) = Script::of(letter) else {
        if !letter.is_alphanumeric() {
            *word = [None, None];
        }
        return;
    };
    letters[script as usize] += 1;
    match word {
        [None, _] => word[0] = Some(script),
        [Some(first), None] if *first != script && are_look_alikes(*first, script) => {
            findings.add(Rule::MixedScripts, || {
                format!("{} mixes {first:?} and {script:?} letters in one word, at {letter:?} (U+{:04X})", place(), letter as u32)
            });
            word[1] = Some(script);
        }
        _ => {}
    }
}

/// Scripts whose letters look alike and never meet in an honest word. Han with Kana is Japanese.
fn are_look_alikes(a: Script, b: Script) -> bool {
    let is_one = |script| matches!(script, Script::Latin | Script::Greek | Script::Cyrillic);
    is_one(a) && is_one(b)
}

/// Without an early exit the loop is vectorised.
fn has_odd_byte(text: &str) -> bool {
    let is_odd = |byte: u8| {
        ((byte < 0x20) & (byte != b'\n') & (byte != b'\t') & (byte != b'\r')) | (byte == 0x7F)
    };
    text.bytes().fold(false, |any, byte| any | is_odd(byte))
}
