//! Which kinds of bytes does a line hold? One vectorised look that settles most rules.

/// Kinds of bytes, as bits.
pub(crate) type Kinds = u8;

/// Below U+0020, or U+007F: never raw in JSON, and no honest text.
pub(crate) const CONTROL: Kinds = 1;
pub(crate) const BACKSLASH: Kinds = 2;
/// As in an address.
pub(crate) const AT: Kinds = 4;
/// Nine digits within 32 bytes or fewer: social security, card and account numbers are that dense,
/// codes and years are not.
pub(crate) const DENSE_DIGITS: Kinds = 8;
pub(crate) const NOT_ASCII: Kinds = 0x80;

/// Fewer digits than this hold no number that names a person.
const FEWEST_DIGITS: u8 = 9;

/// Nine digits with a separator after each take 17 bytes, and lie in two chunks of 16.
const CHUNK: usize = 16;

/// The kinds that occur in `bytes`.
pub(crate) fn kinds(bytes: &[u8]) -> Kinds {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, which is all that the function asks for.
        return unsafe { kinds_avx2(bytes) };
    }
    kinds_anywhere(bytes)
}

/// The same code, compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn kinds_avx2(bytes: &[u8]) -> Kinds {
    kinds_anywhere(bytes)
}

/// Without early exits, so that the loops are vectorised.
#[inline(always)]
fn kinds_anywhere(bytes: &[u8]) -> Kinds {
    let (chunks, rest) = bytes.as_chunks::<CHUNK>();
    let mut last = [0; CHUNK]; // what is left over, filled up with a byte of no kind
    last[..rest.len()].copy_from_slice(rest);
    last[rest.len()..].fill(b' ');
    let mut all = [0; CHUNK];
    let (mut before, mut most) = (0, 0);
    for chunk in chunks.iter().chain([&last]) {
        let mut digits = 0;
        for (kinds, byte) in all.iter_mut().zip(*chunk) {
            *kinds |= kinds_of(byte);
            digits += u8::from(byte.is_ascii_digit());
        }
        most = most.max(before + digits);
        before = digits;
    }
    let kinds = all.iter().fold(0, |any, kinds| any | kinds);
    if most >= FEWEST_DIGITS {
        kinds | DENSE_DIGITS
    } else {
        kinds
    }
}

#[inline(always)]
fn kinds_of(byte: u8) -> Kinds {
    let when = |is: bool, kind: Kinds| if is { kind } else { 0 };
    when((byte < 0x20) | (byte == 0x7F), CONTROL)
        | when(byte == b'\\', BACKSLASH)
        | when(byte == b'@', AT)
        | (byte & NOT_ASCII)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Byte by byte, as the constants above say it.
    fn plainly(bytes: &[u8]) -> Kinds {
        bytes.iter().fold(0, |any, byte| {
            any | match byte {
                0..0x20 | 0x7F => CONTROL,
                b'\\' => BACKSLASH,
                b'@' => AT,
                0x80.. => NOT_ASCII,
                _ => 0,
            }
        })
    }

    #[test]
    fn nine_digits_are_seen_wherever_they_stand() {
        for number in ["1 2 3 4 5 6 7 8 9", "078-05-1120", "123456789"] {
            for before in 0..40 {
                let text = "x".repeat(before) + number;
                assert_eq!(kinds(text.as_bytes()), DENSE_DIGITS, "{text}");
            }
        }
        assert_eq!(
            kinds(b"12345678 and then, more than two chunks later, 9"),
            0
        );
    }

    proptest! {
        #[test]
        fn every_byte_is_looked_at(bytes in proptest::collection::vec(any::<u8>(), 0..100), at in 0..100usize) {
            prop_assert_eq!(kinds(&bytes) & !DENSE_DIGITS, plainly(&bytes));
            prop_assert_eq!(kinds(&bytes), kinds_anywhere(&bytes));
            let one: Vec<u8> = bytes.iter().enumerate().map(|(n, byte)| if n == at { *byte } else { b'a' }).collect();
            prop_assert_eq!(kinds(&one), plainly(&one));
        }
    }
}
