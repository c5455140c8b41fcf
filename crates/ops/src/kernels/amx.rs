//! C (+)= A·B in bf16 on AMX: the tile of [`super::tile`] for processors that have a matrix unit.
//!
//! Layout: a group of A is `[steps / 16][parts][16 rows][16]` words, so that one `tileloadd` reads
//! 1 KiB in a row; B is a panel `[steps / 16][parts][16][b_row]`, as for vectors where it has one part,
//! whose sixteen steps × sixteen lanes are the other operand as they lie. A word is two bf16 along the
//! depth; the depth is a multiple of 32, filled up with zeros in both.
//! f32 comes in three parts, each the bf16 nearest to what the parts before it left, whose sum it is.
//! Three parts of A meet a B that is bf16: every product is exact, only sums are rounded. With three
//! parts of B too, six of the nine products are summed. The others are at most 2⁻²³ of the value's and
//! a twentieth of that in the mean; sums are rounded twice for each 32 of the depth and product, so
//! that the error is less than half of what a chain of f32 multiply-adds has (a test measures it).
//! Register plan: two groups of rows × two vectors of lanes are four tiles of C, two of A, two of B;
//! four loads feed four products (six parts: sixteen feed 24). One group alone takes three vectors.
//! What limits is how data reach the unit, at 26 bytes a cycle from L2. A panel of 32 lanes stays in L1
//! up to a depth of 640 if A, which passes by once a panel, is loaded with the hint not to stay
//! (`tileloaddt1`); and C, which no cache holds, is asked for a piece ahead. Measured in a loop of its
//! own on the Xeon it was written on, 512 rows, C cold and on cache lines, two cores: tiles of 1 × 3
//! 1.43 TFLOP/s at 576 → 1536, 1.86 at 1536 → 576, 1.75 at 576 → 576; of 2 × 2 1.66, 2.00, 1.89; with
//! the hint and C ahead 1.98, 2.09, 2.85, of 5.1 where all is in L1. A C that does not begin on a cache
//! line costs all of that again ([`crate::CacheLines`]). Blocks of a deeper depth cost more for C than
//! they save; beginning C a piece ahead costs too.
//!
//! `tdpbf16ps` adds the even products of sixteen steps and the odd ones apart, then both to C; it
//! rounds to nearest even and flushes denormals. An element's sum depends on its row and lane alone.
//! The instructions are written out, because Rust 1.95 has no stable names for them. The operating
//! system lends the tiles on request ([`available`]); a thread configures its own once, all eight of
//! them full, and edges go by way of a buffer.

use super::tile::{Piece, VECTORS};
use super::words::{TILE_STEPS, Words};
use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::cell::Cell;
use std::sync::LazyLock;

/// Rows of a tile, and its 32-bit lanes.
const SIDE: usize = 16;
/// Rows and lanes of the piece that has the most products for its loads.
pub(super) const ROWS: usize = 2 * SIDE;
pub(super) const LANES: usize = 2 * SIDE;
/// Bytes of a panel that stay in an L1 of 48 KiB.
const STAYS: usize = 40 << 10;

/// Whether this processor has AMX-BF16 and this process may use it: asked once.
pub(crate) fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| processor_has_it() && permitted());
    *AVAILABLE
}

fn processor_has_it() -> bool {
    const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BF16_AND_TILE == BF16_AND_TILE
}

/// Asks Linux (5.16 and later) for the tiles' 8 KiB of state; a system that cannot save them says no.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and changes only what this process may use.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// The palette of `ldtilecfg`: every tile has sixteen rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

static FULL_TILES: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes_of_row: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Configures this thread's tiles, unless it has been done.
///
/// # Safety
/// AMX is [`available`].
#[inline(always)]
pub(super) unsafe fn configure() {
    thread_local!(static DONE: Cell<bool> = const { Cell::new(false) });
    if !DONE.get() {
        // SAFETY: a valid configuration; the compiler keeps nothing in tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &FULL_TILES, options(readonly, nostack)) };
        DONE.set(true);
    }
}

/// Which parts of A and B meet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Products {
    /// One of each.
    One,
    /// Three of A, one of B.
    Three,
    /// Three of each; not those of two parts of which one is the third and the other not the first.
    Six,
}

impl Products {
    pub fn of(words: Words) -> Products {
        match (words.parts(), words.weight_parts()) {
            (1, _) => Products::One,
            (_, 1) => Products::Three,
            _ => Products::Six,
        }
    }
}

/// As [`super::tile::multiply_words`].
///
/// # Safety
/// AMX is [`available`]; the pieces of A, B and C are what `piece` says.
pub(super) unsafe fn multiply(
    piece: Piece,
    products: Products,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
) {
    debug_assert!(piece.steps.is_multiple_of(TILE_STEPS) && piece.lanes <= piece.b_row);
    debug_assert!(products != Products::Six || piece.b_row == LANES);
    assert!(piece.steps > 0, "a product has a depth");
    let (groups, vectors) = (piece.rows.div_ceil(SIDE), piece.lanes.div_ceil(SIDE));
    // SAFETY: says the caller; the buffer holds a whole piece.
    unsafe {
        configure();
        if piece.rows == groups * SIDE && piece.lanes == vectors * SIDE {
            return whole(piece, products, [groups, vectors], a, b, c);
        }
        const WIDTH: usize = VECTORS * SIDE;
        let mut buffer = [0.0; ROWS * WIDTH];
        let rows = |buffer: *mut f32| {
            (0..piece.rows).map(move |i| (buffer.add(i * WIDTH), c.add(i * piece.c_row)))
        };
        if piece.accumulate {
            for (buffer, c) in rows(buffer.as_mut_ptr()) {
                c.copy_to_nonoverlapping(buffer, piece.lanes);
            }
        }
        let edge = Piece {
            c_row: WIDTH,
            ..piece
        };
        let to = buffer.as_mut_ptr();
        whole(edge, products, [groups, vectors], a, b, to);
        for (buffer, c) in rows(to) {
            buffer.copy_to_nonoverlapping(c, piece.lanes);
        }
    }
}

/// The text that loads each tile of A, `$at` bytes beyond its pointer.
macro_rules! load_rows {
    ($load:literal, $at:literal, [$(($a:literal, $from:literal)),+]) => {
        concat!($($load, " ", $a, ", [{", $from, "} + {a_row} + ", $at, "]\n"),+)
    };
}

/// The text that loads each tile of B, `$at` bytes and its lanes beyond the pointer.
macro_rules! load_lanes {
    ($at:literal, [$(($b:literal, $on:literal)),+]) => {
        concat!($("tileloadd ", $b, ", [{b} + {b_row} + ", $at, " + ", $on, "]\n"),+)
    };
}

/// The text that adds A·B to each tile of C.
macro_rules! multiply_add {
    ([$(($c:literal, $a:literal, $b:literal, $to:literal, $on:literal)),+]) => {
        concat!($("tdpbf16ps ", $c, ", ", $a, ", ", $b, "\n"),+)
    };
}

/// The text of sixteen steps of the depth; products are in the order in which each tile is loaded as seldom as can be.
macro_rules! sixteen_steps {
    (One, $load:literal, $a:tt, $b:tt, $c:tt) => {
        concat!(
            load_rows!($load, "0", $a),
            load_lanes!("0", $b),
            multiply_add!($c)
        )
    };
    (Three, $load:literal, $a:tt, $b:tt, $c:tt) => {
        concat!(
            load_rows!($load, "0", $a),
            load_lanes!("0", $b),
            multiply_add!($c),
            load_rows!($load, "1024", $a),
            multiply_add!($c),
            load_rows!($load, "2048", $a),
            multiply_add!($c),
        )
    };
    (Six, $load:literal, $a:tt, $b:tt, $c:tt) => {
        concat!(
            load_rows!("tileloadd", "2048", $a),
            load_lanes!("0", $b),
            multiply_add!($c),
            load_rows!("tileloadd", "1024", $a),
            multiply_add!($c),
            load_rows!("tileloadd", "0", $a),
            multiply_add!($c),
            load_lanes!("2048", $b),
            multiply_add!($c),
            load_rows!("tileloadd", "1024", $a),
            multiply_add!($c),
            load_rows!("tileloadd", "0", $a),
            load_lanes!("4096", $b),
            multiply_add!($c),
        )
    };
}

/// Where a product stands in its depth.
struct Walk {
    /// The first group of A, and the one below it.
    a: [*const f32; 2],
    b: *const f32,
    /// What of C is asked for next.
    ahead: *const f32,
}

/// Runs `$blocks` times through `$text`, which is written for so many parts of A and of B.
macro_rules! down_the_depth {
    ($piece:ident, $walk:ident, $blocks:expr, $a_parts:literal, $b_parts:literal, $text:expr) => {
        asm!(
            concat!("2:\n# {below} {ahead} {c_row}\n", $text),
            "add {a}, {a_next}",
            "add {below}, {a_next}",
            "add {b}, {b_next}",
            "dec {blocks}",
            "jnz 2b",
            a = inout(reg) $walk.a[0],
            below = inout(reg) $walk.a[1],
            b = inout(reg) $walk.b,
            ahead = inout(reg) $walk.ahead,
            blocks = inout(reg) $blocks => _,
            a_row = in(reg) 4 * TILE_STEPS,
            b_row = in(reg) 4 * $piece.b_row,
            c_row = in(reg) 4 * $piece.c_row,
            a_next = const $a_parts * 4 * TILE_STEPS * SIDE,
            b_next = in(reg) $b_parts * 4 * TILE_STEPS * $piece.b_row,
            options(readonly, nostack),
        )
    };
}

/// Loads (or clears) the tiles of C, runs down the depth, stores them. Two groups that are `streamed` ask
/// for the piece below as they go, two rows each sixteen steps, and keep A out of L1 where B stays in it.
macro_rules! product {
    ($piece:ident, $products:ident, $walk:ident, $c:ident; $a:tt, $b:tt, [$($tile:tt),+]) => {{
        let blocks = $piece.steps / TILE_STEPS;
        $(tile_of_c!($piece, $c, $tile, load);)+
        match $products {
            Products::One => product!(down $piece, $walk, blocks, One, 1, 1, $a, $b, [$($tile),+]),
            Products::Three => product!(down $piece, $walk, blocks, Three, 3, 1, $a, $b, [$($tile),+]),
            Products::Six => product!(down $piece, $walk, blocks, Six, 3, 3, $a, $b, [$($tile),+]),
        }
        $(tile_of_c!($piece, $c, $tile, store);)+
    }};
    (down $piece:ident, $walk:ident, $blocks:ident, $products:ident, $a_parts:literal, $b_parts:literal,
        [$one:tt], $b:tt, $c:tt) => {
        down_the_depth!($piece, $walk, $blocks, $a_parts, $b_parts,
            sixteen_steps!($products, "tileloadd", [$one], $b, $c))
    };
    (down $piece:ident, $walk:ident, $blocks:ident, $products:ident, $a_parts:literal, $b_parts:literal,
        $a:tt, $b:tt, $c:tt) => {
        if !$piece.streamed {
            down_the_depth!($piece, $walk, $blocks, $a_parts, $b_parts,
                sixteen_steps!($products, "tileloadd", $a, $b, $c))
        } else if $b_parts * 4 * $piece.steps * $piece.b_row <= STAYS {
            product!(ahead $piece, $walk, $blocks, $a_parts, $b_parts,
                sixteen_steps!($products, "tileloaddt1", $a, $b, $c))
        } else {
            product!(ahead $piece, $walk, $blocks, $a_parts, $b_parts,
                sixteen_steps!($products, "tileloadd", $a, $b, $c))
        }
    };
    (ahead $piece:ident, $walk:ident, $blocks:ident, $a_parts:literal, $b_parts:literal, $text:expr) => {{
        let first = $blocks.min(SIDE);
        down_the_depth!($piece, $walk, first, $a_parts, $b_parts, concat!(ask_ahead!(), $text));
        if first < $blocks {
            down_the_depth!($piece, $walk, $blocks - first, $a_parts, $b_parts, $text);
        }
    }};
}

/// The text that asks for two rows of 32 lanes.
macro_rules! ask_ahead {
    () => {
        "prefetchw [{ahead}]\nprefetchw [{ahead} + 64]\nadd {ahead}, {c_row}\n\
         prefetchw [{ahead}]\nprefetchw [{ahead} + 64]\nadd {ahead}, {c_row}\n"
    };
}

/// Loads or clears, or stores, one tile of C: its group and its bytes along the row.
macro_rules! tile_of_c {
    ($piece:ident, $c:ident, ($tile:literal, $a:literal, $b:literal, $group:literal, $on:literal), load) => {
        if $piece.accumulate {
            asm!(concat!("tileloadd ", $tile, ", [{c} + {row} + ", $on, "]"),
                c = in(reg) $c.add($group * SIDE * $piece.c_row), row = in(reg) 4 * $piece.c_row,
                options(readonly, nostack, preserves_flags));
        } else {
            asm!(concat!("tilezero ", $tile), options(nomem, nostack, preserves_flags));
        }
    };
    ($piece:ident, $c:ident, ($tile:literal, $a:literal, $b:literal, $group:literal, $on:literal), store) => {
        asm!(concat!("tilestored [{c} + {row} + ", $on, "], ", $tile),
            c = in(reg) $c.add($group * SIDE * $piece.c_row), row = in(reg) 4 * $piece.c_row,
            options(nostack, preserves_flags));
    };
}

/// # Safety
/// As [`multiply`], and C has whole groups of rows and whole vectors of lanes.
unsafe fn whole(
    piece: Piece,
    products: Products,
    [groups, vectors]: [usize; 2],
    a: *const f32,
    b: *const f32,
    c: *mut f32,
) {
    let walk = &mut Walk {
        a: [a, a.wrapping_add(piece.a_group)],
        b,
        ahead: c.wrapping_add(ROWS * piece.c_row),
    };
    // SAFETY: says the caller; the tiles are configured, and the compiler keeps nothing in them.
    unsafe {
        match (groups, vectors) {
            (2, 2) => product!(piece, products, walk, c;
                [("tmm4", "a"), ("tmm5", "below")], [("tmm6", "0"), ("tmm7", "64")],
                [("tmm0", "tmm4", "tmm6", 0, "0"), ("tmm1", "tmm4", "tmm7", 0, "64"),
                 ("tmm2", "tmm5", "tmm6", 1, "0"), ("tmm3", "tmm5", "tmm7", 1, "64")]),
            (2, 1) => product!(piece, products, walk, c;
                [("tmm4", "a"), ("tmm5", "below")], [("tmm6", "0")],
                [("tmm0", "tmm4", "tmm6", 0, "0"), ("tmm2", "tmm5", "tmm6", 1, "0")]),
            (1, 3) => product!(piece, products, walk, c;
                [("tmm3", "a")], [("tmm4", "0"), ("tmm5", "64"), ("tmm6", "128")],
                [("tmm0", "tmm3", "tmm4", 0, "0"), ("tmm1", "tmm3", "tmm5", 0, "64"),
                 ("tmm2", "tmm3", "tmm6", 0, "128")]),
            (1, 2) => product!(piece, products, walk, c;
                [("tmm3", "a")], [("tmm4", "0"), ("tmm5", "64")],
                [("tmm0", "tmm3", "tmm4", 0, "0"), ("tmm1", "tmm3", "tmm5", 0, "64")]),
            (1, 1) => product!(piece, products, walk, c;
                [("tmm3", "a")], [("tmm4", "0")], [("tmm0", "tmm3", "tmm4", 0, "0")]),
            _ => unreachable!("two groups have two vectors at most, one group three"),
        }
    }
}
