//! C (+)= A·B in bf16 on AMX: the tile of [`super::tile`] for processors that have a matrix unit.
//!
//! Layout: a group of A is `[steps / 16][parts][16 rows][16]` words, so that one `tileloadd` reads
//! 1 KiB in a row; B is a panel `[steps / 16][parts][16][48]`, as for vectors where it has one part,
//! whose sixteen steps × sixteen lanes are the other operand as they lie. A word is two bf16 along the
//! depth; the depth is a multiple of 32, filled up with zeros in both.
//! f32 comes in three parts, each the bf16 nearest to what the parts before it left, whose sum it is.
//! Three parts of A meet a B that is bf16: every product is exact, only sums are rounded. With three
//! parts of B too, six of the nine products are summed. The others are at most 2⁻²³ of the value's and
//! a twentieth of that in the mean; sums are rounded twice for each 32 of the depth and product, so
//! that the error is less than half of what a chain of f32 multiply-adds has (a test measures it).
//! Register plan: three tiles of C (16 rows × 48 lanes), one of A, three of B, and one more of A for
//! parts: four loads feed three products, twelve feed eighteen of six (1.5 TFLOP/s a core, a sixth of
//! it of use, where vectors in f32 reach 0.19). Two groups of rows at once (four loads, four products;
//! seven and six) were measured and are a tenth faster at most, because what limits is L2, from where
//! the panel comes at about 26 bytes a cycle: 1.2 of 3.4 TFLOP/s a core on the Xeon it was written
//! on, where `vdpbf16ps` gives a tenth of a TFLOP/s.
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
const PANEL: usize = VECTORS * SIDE;

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
    debug_assert!(piece.steps.is_multiple_of(TILE_STEPS) && piece.lanes <= PANEL);
    assert!(piece.steps > 0, "a product has a depth");
    let vectors = piece.lanes.div_ceil(SIDE);
    // SAFETY: says the caller; the buffer holds a whole piece.
    unsafe {
        configure();
        if piece.rows == SIDE && piece.lanes == vectors * SIDE {
            return whole(piece, products, vectors, a, b, c);
        }
        let mut buffer = [0.0; SIDE * PANEL];
        let rows = |buffer: *mut f32| {
            (0..piece.rows).map(move |i| (buffer.add(i * PANEL), c.add(i * piece.c_row)))
        };
        if piece.accumulate {
            for (buffer, c) in rows(buffer.as_mut_ptr()) {
                c.copy_to_nonoverlapping(buffer, piece.lanes);
            }
        }
        let edge = Piece {
            c_row: PANEL,
            ..piece
        };
        whole(edge, products, vectors, a, b, buffer.as_mut_ptr());
        for (buffer, c) in rows(buffer.as_mut_ptr()) {
            buffer.copy_to_nonoverlapping(c, piece.lanes);
        }
    }
}

/// These lines for each sixteen steps of the depth, with so many parts of A and of B.
macro_rules! down_the_depth {
    ($piece:ident, $a:ident, $b:ident; $a_parts:literal, $b_parts:literal; $($line:expr),+) => {
        asm!(
            "2:",
            $($line,)+
            "add {a}, {a_next}",
            "add {b}, {b_next}",
            "dec {blocks}",
            "jnz 2b",
            a = inout(reg) $a => _,
            b = inout(reg) $b => _,
            blocks = inout(reg) $piece.steps / TILE_STEPS => _,
            a_row = in(reg) 4 * TILE_STEPS,
            b_row = in(reg) 4 * PANEL,
            a_next = const $a_parts * 4 * TILE_STEPS * SIDE,
            b_next = const $b_parts * 4 * TILE_STEPS * PANEL,
            options(readonly, nostack),
        )
    };
}

/// Loads (or clears) the tiles of C, runs down the depth, stores them.
macro_rules! product {
    ($piece:ident, $products:ident, $a:ident, $b:ident, $c:ident; $(($sum:literal, $lanes:literal, $at:literal)),+) => {{
        let c_row = 4 * $piece.c_row;
        if $piece.accumulate {
            $(asm!(concat!("tileloadd ", $sum, ", [{c} + {row} + ", $at, "]"),
                c = in(reg) $c, row = in(reg) c_row, options(readonly, nostack, preserves_flags));)+
        } else {
            $(asm!(concat!("tilezero ", $sum), options(nomem, nostack, preserves_flags));)+
        }
        match $products {
            Products::One => down_the_depth!($piece, $a, $b; 1, 1;
                "tileloadd tmm3, [{a} + {a_row}]",
                $(concat!("tileloadd ", $lanes, ", [{b} + {b_row} + ", $at, "]"),
                concat!("tdpbf16ps ", $sum, ", tmm3, ", $lanes)),+),
            Products::Three => down_the_depth!($piece, $a, $b; 3, 1;
                "tileloadd tmm3, [{a} + {a_row}]",
                $(concat!("tileloadd ", $lanes, ", [{b} + {b_row} + ", $at, "]"),
                concat!("tdpbf16ps ", $sum, ", tmm3, ", $lanes),)+
                "tileloadd tmm7, [{a} + {a_row} + 1024]",
                $(concat!("tdpbf16ps ", $sum, ", tmm7, ", $lanes),)+
                "tileloadd tmm3, [{a} + {a_row} + 2048]",
                $(concat!("tdpbf16ps ", $sum, ", tmm3, ", $lanes)),+),
            Products::Six => down_the_depth!($piece, $a, $b; 3, 3;
                "tileloadd tmm3, [{a} + {a_row} + 2048]",
                $(concat!("tileloadd ", $lanes, ", [{b} + {b_row} + ", $at, "]"),
                concat!("tdpbf16ps ", $sum, ", tmm3, ", $lanes),)+
                "tileloadd tmm7, [{a} + {a_row} + 1024]",
                $(concat!("tdpbf16ps ", $sum, ", tmm7, ", $lanes),)+
                "tileloadd tmm3, [{a} + {a_row}]",
                $(concat!("tdpbf16ps ", $sum, ", tmm3, ", $lanes),)+
                $(concat!("tileloadd ", $lanes, ", [{b} + {b_row} + 3072 + ", $at, "]"),
                concat!("tdpbf16ps ", $sum, ", tmm3, ", $lanes),)+
                $(concat!("tdpbf16ps ", $sum, ", tmm7, ", $lanes),)+
                $(concat!("tileloadd ", $lanes, ", [{b} + {b_row} + 6144 + ", $at, "]"),
                concat!("tdpbf16ps ", $sum, ", tmm3, ", $lanes)),+),
        }
        $(asm!(concat!("tilestored [{c} + {row} + ", $at, "], ", $sum),
            c = in(reg) $c, row = in(reg) c_row, options(nostack, preserves_flags));)+
    }};
}

/// # Safety
/// As [`multiply`], and C has sixteen rows of `vectors` whole vectors.
unsafe fn whole(
    piece: Piece,
    products: Products,
    vectors: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
) {
    // SAFETY: says the caller; the tiles are configured, and the compiler keeps nothing in them.
    unsafe {
        match vectors {
            3 => product!(piece, products, a, b, c;
                ("tmm0", "tmm4", 0), ("tmm1", "tmm5", 64), ("tmm2", "tmm6", 128)),
            2 => product!(piece, products, a, b, c; ("tmm0", "tmm4", 0), ("tmm1", "tmm5", 64)),
            _ => product!(piece, products, a, b, c; ("tmm0", "tmm4", 0)),
        }
    }
}
