//! Do the kernels compute right as CUDA C++, and do their units wait for each other where they must?
//!
//! What a GPU would compile is run here on the host: the units of a cube are coroutines
//! (tests/emulation/units.cpp), tensor cores' fragments plain matrices (wmma.h there), inline PTX calls of functions
//! (asm.h, ptx.h). CubeCL's CPU
//! runtime proves the same kernels with other numbers of units and arrays for fragments; this proves
//! the text that NVRTC gets, with the units and the geometry of a GPU. Every kernel is run, and each
//! run looks for
//!
//! - **races**: units and cubes run in three orders (ascending, descending, shuffled), each to its
//!   next barrier, and all buffers must end with the same bits. Where two units touch a place between
//!   the same two barriers, and one of them writes, the first order has one of them first and the
//!   second the other: the outcome differs, unless both wrote the same;
//! - **barriers** that not all units of the cube reach, or which some reach at another place;
//! - **memory**: shared memory is NaN when a cube begins; it and the buffers are as long as they were
//!   asked for, and the compiler's sanitizers see reads and writes beyond, indices beyond one array of
//!   shared memory, vectors at addresses that a GPU would refuse, and shifts by a word or more.
//!
//! Where there is no C++ compiler it is skipped; REQUIRE_NVRTC=1 makes that an error too.

mod faults;
mod few_rows;
mod finish;
mod flash;
mod plain;
mod rows;
mod weights;

use super::{close, nvrtc};
use crate::kernels::cube::adamw::GROUP;
use crate::reference::widen;
use cubecl::ir::FloatKind;
use half::bf16;
use nvrtc::Source;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(nvrtc::sources)
}

fn source(name: &str) -> &'static Source {
    let found = sources().iter().find(|source| source.name == name);
    found.unwrap_or_else(|| panic!("no kernel is called {name}"))
}

/// A program of some kernels; its folder goes with it.
struct Program {
    folder: PathBuf,
    kernels: Vec<Source>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Program {
    /// Nothing, said aloud, where there is no compiler.
    fn of<S: AsRef<str>>(topic: &str, names: impl IntoIterator<Item = S>) -> Option<Program> {
        let kernels = names.into_iter().map(|name| source(name.as_ref()).clone());
        Program::of_sources(topic, kernels.collect())
    }

    fn of_sources(topic: &str, kernels: Vec<Source>) -> Option<Program> {
        let folder = std::env::temp_dir().join(format!("emulated-{}-{topic}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder to build in");
        let program = Program { folder, kernels };
        let (path, emulation) = (program.folder.join("kernels.cpp"), emulation());
        // Inline PTX is calls of functions here.
        std::fs::copy(emulation.join("asm.cpp"), &path).expect("a file for the source");
        if !program.compiles(topic, "calls", &[]) {
            return None;
        }
        let (calls, text) = (program.folder.join("calls"), text(&program.kernels));
        let said = output(Command::new(calls), text.as_bytes());
        std::fs::write(path, said.stdout).expect("a file for the source");
        let sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover"];
        program
            .compiles(topic, "kernels", &sanitize)
            .then_some(program)
    }

    /// kernels.cpp into a program of this name. No, said aloud, where there is no compiler.
    fn compiles(&self, topic: &str, name: &str, flags: &[&str]) -> bool {
        let compiler = Command::new("c++")
            .current_dir(&self.folder)
            .args(["-std=c++17", "-O1", "-w"])
            .args(flags)
            .arg("-I")
            .arg(emulation())
            .args(["-o", name, "kernels.cpp"])
            .output();
        match compiler {
            Ok(said) if said.status.success() => true,
            Ok(said) => panic!("{topic}: {}", String::from_utf8_lossy(&said.stderr)),
            Err(error) => {
                let required = std::env::var("REQUIRE_NVRTC").is_ok_and(|v| v == "1");
                assert!(!required, "REQUIRE_NVRTC=1, and no C++ compiler: {error}");
                eprintln!("skipped: no C++ compiler ({error}); REQUIRE_NVRTC=1 makes it an error");
                false
            }
        }
    }

    /// What the buffers hold after a launch.
    #[track_caller]
    fn run(&self, launch: Launch<'_>) -> Vec<Buffer> {
        let what = format!("{launch:?}");
        match self.outcome(launch) {
            Ok(buffers) => buffers,
            Err(why) => panic!("{what}: {why}"),
        }
    }

    fn outcome(&self, launch: Launch<'_>) -> Result<Vec<Buffer>, String> {
        let mut kernels = self.kernels.iter().enumerate();
        let found = kernels.find(|(_, kernel)| kernel.name == launch.kernel);
        let (index, kernel) = found.expect("it is in the program");
        let mut input = Vec::new();
        let mut put = |words: &[u32]| input.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        put(&[index as u32]);
        put(&launch.cubes);
        put(&[units(&kernel.code), kernel.shared_bytes as u32]);
        put(&[launch.buffers.len() as u32]);
        put(&launch
            .buffers
            .iter()
            .map(|b| b.0.len() as u32)
            .collect::<Vec<_>>());
        for buffer in &launch.buffers {
            input.extend(&buffer.0);
        }
        let mut put = |words: Vec<u32>| {
            input.extend((words.len() as u32).to_le_bytes());
            input.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        };
        put(launch.usizes.iter().map(|n| *n as u32).collect());
        put(launch.words.to_vec());
        put(launch.floats.iter().map(|v| v.to_bits()).collect());
        let output = output(Command::new(self.folder.join("kernels")), &input);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let mut rest = &output.stdout[..];
        let after = launch.buffers.iter().map(|buffer| {
            let (own, others) = rest.split_at(buffer.0.len());
            rest = others;
            Buffer(own.to_vec())
        });
        Ok(after.collect())
    }
}

/// What a program that was just built says to `input`, which it reads before it writes.
fn output(mut program: Command, input: &[u8]) -> Output {
    let mut child = program
        .env_remove("LD_PRELOAD") // the sanitizers come first or not at all
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was just built");
    let mut stdin = child.stdin.take().expect("it is piped");
    let _ = stdin.write_all(input); // where it does not read to the end, it says why
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn emulation() -> &'static Path {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/emulation"
    ))
}

/// Units of a cube, of which the text says how many there are.
fn units(code: &str) -> u32 {
    let after = code.split("__launch_bounds__(").nth(1);
    let number = after.and_then(|rest| rest.split(')').next());
    number
        .and_then(|n| n.parse().ok())
        .expect("CubeCL writes it")
}

/// One C++ program of these kernels, each in a namespace of its own.
fn text(kernels: &[Source]) -> String {
    let mut program = String::new();
    program += "#include \"units.cpp\"\n#include \"cuda.h\"\n";
    let mut chosen = String::new();
    for (index, Source { code, .. }) in kernels.iter().enumerate() {
        let ours = |line: &&str| {
            !line.starts_with("#include")
                && !line.starts_with("typedef unsigned ")
                && !line.starts_with("typedef signed ")
        };
        let lines: Vec<&str> = code.lines().filter(ours).collect();
        let mut code = lines.join("\n").replace("extern \"C\"", "");
        if let Some(start) = code.find("extern __shared__") {
            let end = start + code[start..].find("[];").expect("CubeCL writes it");
            let name = code[start..end].rsplit(' ').next().expect("it has a name");
            let ours = format!("char *const {name} = shared_memory");
            code.replace_range(start..end + 2, &ours);
        }
        let after = code.split("__launch_bounds__(").nth(1).expect("units");
        let name = after.split([')', '(']).nth(1).expect("a name").trim();
        chosen += &format!("    if (l.kernel == {index}) launch(k{index}::{name}, l);\n");
        program += &format!("namespace k{index} {{\n{code}\n}}\n");
    }
    program += include_str!("emulated/main.cpp");
    program + &format!("static void choose(Launch &l) {{\n{chosen}}}\n")
}

/// A kernel's buffers in the order of its arguments, and its scalars by type in that order.
#[derive(Clone)]
struct Launch<'a> {
    kernel: &'a str,
    cubes: [u32; 3],
    buffers: Vec<Buffer>,
    usizes: &'a [usize],
    words: &'a [u32],
    floats: &'a [f32],
}

impl std::fmt::Debug for Launch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Launch { kernel, cubes, .. } = self;
        let sizes: Vec<usize> = self.buffers.iter().map(|b| b.0.len()).collect();
        write!(f, "{kernel}: {cubes:?} cubes, buffers of {sizes:?} bytes, ")?;
        write!(f, "{:?} {:?} {:?}", self.usizes, self.words, self.floats)
    }
}

/// Bytes on a device.
#[derive(Clone)]
struct Buffer(Vec<u8>);

/// How activations are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F32,
    BF16,
}

const KINDS: [Kind; 2] = [Kind::F32, Kind::BF16];

impl Kind {
    fn bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::BF16 => 2,
        }
    }

    /// Values of the vectors that kernels are made for.
    fn vectors(self) -> [usize; 2] {
        nvrtc::vectors(match self {
            Kind::F32 => FloatKind::F32,
            Kind::BF16 => FloatKind::BF16,
        })
    }

    fn rounded(self, values: &[f32]) -> Vec<f32> {
        match self {
            Kind::F32 => values.to_vec(),
            Kind::BF16 => {
                let round = |v: &f32| bf16::from_f32(*v).to_f32();
                values.iter().map(round).collect()
            }
        }
    }

    /// [`Kind::rounded`], as the specification takes them.
    fn wide(self, values: &[f32]) -> Vec<f64> {
        widen(&self.rounded(values))
    }

    fn buffer(self, values: &[f32]) -> Buffer {
        Buffer(match self {
            Kind::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Kind::BF16 => {
                let halves = values.iter().map(|v| bf16::from_f32(*v).to_le_bytes());
                halves.flatten().collect()
            }
        })
    }

    /// What a kernel forgets to write is not a number.
    fn unwritten(self, count: usize) -> Buffer {
        Buffer(vec![0xff; count * self.bytes()])
    }

    fn values(self, buffer: &Buffer) -> Vec<f32> {
        match self {
            Kind::F32 => {
                let words = buffer.0.as_chunks::<4>().0.iter();
                words.map(|b| f32::from_le_bytes(*b)).collect()
            }
            Kind::BF16 => {
                let halves = buffer.0.as_chunks::<2>().0.iter();
                halves.map(|b| bf16::from_le_bytes(*b).to_f32()).collect()
            }
        }
    }

    /// Whether a buffer holds these, each rounded once to this type after sums in f32.
    #[track_caller]
    fn holds(self, buffer: &Buffer, expected: &[f64], what: &str) {
        // f32: sums of some hundred terms of order 1; bf16: 8 bits of mantissa.
        let tolerance = match self {
            Kind::F32 => 1e-5,
            Kind::BF16 => 5e-3,
        };
        close(&self.values(buffer), expected, tolerance, what);
    }
}

fn floats(values: &[f32]) -> Buffer {
    Kind::F32.buffer(values)
}

fn words(values: &[u32]) -> Buffer {
    Buffer(values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

fn as_words(buffer: &Buffer) -> Vec<u32> {
    let words = buffer.0.as_chunks::<4>().0.iter();
    words.map(|b| u32::from_le_bytes(*b)).collect()
}

/// An argument that a variant does not read.
fn unread() -> Buffer {
    Kind::F32.unwritten(1)
}

/// Cubes for so many elements, one a unit: in three dimensions and more than are needed, as CubeCL may
/// spread them.
fn each(count: usize) -> [u32; 3] {
    [2, (count as u32).div_ceil(128 * 2 * 2), 2]
}

#[test]
fn every_kernel_is_run_in_every_order() {
    let run: Vec<String> = [
        flash::kernels(),
        few_rows::kernels(),
        finish::kernels(),
        plain::kernels(),
        rows::kernels(),
        weights::kernels(),
    ]
    .concat();
    let left: Vec<&str> = sources()
        .iter()
        .map(|source| source.name.as_str())
        .filter(|name| !run.iter().any(|other| other == name))
        // The same texts with three tensors are.
        .filter(|name| !name.ends_with(&format!(" of {GROUP} tensors")))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
