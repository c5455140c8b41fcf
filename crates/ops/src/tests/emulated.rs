//! Does the tensor cores' variant of flash attention compute right, all but the tensor cores?
//!
//! The CUDA C++ that a GPU would compile is run here instead, with 128 units as coroutines and
//! fragments as plain matrices (`emulated/cuda.h`). CubeCL's CPU runtime proves the same kernels
//! with arrays for fragments; this proves how fragments are addressed and how units share the work.
//! Where there is no C++ compiler it is skipped; REQUIRE_NVRTC=1 makes that an error too.

use super::{Random, close, nvrtc};
use crate::backends::cube::flash::visible;
use crate::reference::attention::{backward, forward};
use crate::reference::widen;
use crate::{AttentionOptions, Segment, Segments};
use half::bf16;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// One C++ program of the three kernels.
fn program(sources: &[(String, String)], head_dim: usize) -> String {
    let mut program = include_str!("emulated/cuda.h").to_string();
    for (space, name) in [
        ("forward", "flash forward"),
        ("dq", "flash dq"),
        ("dkdv", "flash dk and dv"),
    ] {
        let name = format!("{name} of heads of {head_dim}, capped false");
        let (_, source) = sources.iter().find(|s| s.0 == name).expect("it is made");
        let ours = |line: &&str| {
            !line.starts_with("#include")
                && !line.starts_with("typedef unsigned ")
                && !line.starts_with("typedef signed ")
        };
        let source: Vec<&str> = source.lines().filter(ours).collect();
        let source = source.join("\n");
        let after = |mark: &str| source.split(mark).nth(1).expect("CubeCL writes it");
        let word = |text: &str| -> String {
            let letters = text
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_');
            letters.collect()
        };
        let kernel = word(after("__launch_bounds__(128)").trim_start());
        let shared = word(after("extern __shared__ __align__(32) char "));
        program += &format!(
            "#define {} {kernel}\nnamespace {space} {{\nalignas(32) char {shared}[1 << 18];\n{source}\n}}\n",
            space.to_uppercase()
        );
    }
    program + include_str!("emulated/run.cpp")
}

/// The program built, if there is a compiler.
fn build(program: &str, folder: &Path) -> Result<std::path::PathBuf, String> {
    let (source, built) = (folder.join("flash.cpp"), folder.join("flash"));
    std::fs::write(&source, program).expect("a file for the source");
    let compiler = Command::new("c++")
        .args(["-std=c++17", "-O1", "-w", "-o"])
        .args([&built, &source])
        .output()
        .map_err(|error| format!("no C++ compiler: {error}"))?;
    let said = String::from_utf8_lossy(&compiler.stderr);
    assert!(compiler.status.success(), "{said}");
    Ok(built)
}

fn run(built: &Path, segments: &Segments, [q_rows, k_rows]: [usize; 2], o: &AttentionOptions) {
    let mut random = Random::new(11);
    let mut draw = |rows: usize, heads: usize| -> Vec<bf16> {
        let values = random.values(rows * heads * o.head_dim);
        values.into_iter().map(bf16::from_f32).collect()
    };
    let (q, k, v) = (
        draw(q_rows, o.heads),
        draw(k_rows, o.kv_heads),
        draw(k_rows, o.kv_heads),
    );
    let d_o = draw(q_rows, o.heads);
    let visible = visible(segments, [q_rows, k_rows], o.window);
    let shape = [
        q_rows,
        k_rows,
        o.heads,
        o.kv_heads,
        o.head_dim,
        visible.len(),
    ];
    let mut input: Vec<u8> = shape
        .iter()
        .flat_map(|n| (*n as u32).to_le_bytes())
        .collect();
    input.extend([o.scale, 0.0].iter().flat_map(|n| n.to_le_bytes()));
    input.extend(visible.iter().flat_map(|n| n.to_le_bytes()));
    for values in [&q, &k, &v, &d_o] {
        input.extend(values.iter().flat_map(|n| n.to_le_bytes()));
    }
    let mut child = Command::new(built)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it was just built");
    // It reads everything before it writes.
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(&input).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{:?} {o:?}", output.status);
    let got: Vec<f32> = output
        .stdout
        .as_chunks::<2>()
        .0
        .iter()
        .map(|b| bf16::from_le_bytes(*b).to_f32())
        .collect();
    let wide = |values: &[bf16]| widen(&values.iter().map(|v| v.to_f32()).collect::<Vec<_>>());
    let (q, k, v, d_o) = (wide(&q), wide(&k), wide(&v), wide(&d_o));
    let (dq, dk, dv) = backward(&d_o, &q, &k, &v, segments, o);
    let mut at = 0;
    for (name, expected) in [
        ("o", forward(&q, &k, &v, segments, o)),
        ("dq", dq),
        ("dk", dk),
        ("dv", dv),
    ] {
        // Weights and results are rounded to 8 bits of mantissa once each.
        close(
            &got[at..at + expected.len()],
            &expected,
            1e-2,
            &format!("{name} of {o:?}"),
        );
        at += expected.len();
    }
}

#[test]
fn the_tensor_cores_variant_is_its_specification_with_fragments_of_plain_matrices() {
    let sources = nvrtc::sources();
    let options = |heads, kv_heads, head_dim| AttentionOptions {
        heads,
        kv_heads,
        head_dim,
        scale: 1.5 / (head_dim as f32).sqrt(),
        window: None,
        softcap: None,
        compute: crate::ComputeDtype::Bf16,
        kernel: crate::AttentionKernel::Flash,
    };
    let many = Segments::from_offsets(&[0, 5, 6, 40, 41, 100, 103, 180]);
    let two = Segments::from_offsets(&[0, 7, 150]);
    let continued = Segments::new(vec![
        Segment {
            q: 0..40,
            k: 2..130,
        },
        Segment {
            q: 40..70,
            k: 130..200,
        },
    ]);
    for head_dim in [64, 128] {
        let folder = std::env::temp_dir().join(format!("flash-{}-{head_dim}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder to build in");
        let built = match build(&program(&sources, head_dim), &folder) {
            Ok(built) => built,
            Err(why) => {
                let required = std::env::var("REQUIRE_NVRTC").is_ok_and(|v| v == "1");
                assert!(!required, "REQUIRE_NVRTC=1, and {why}");
                return eprintln!("skipped: {why}; REQUIRE_NVRTC=1 makes it an error");
            }
        };
        run(&built, &many, [180, 180], &options(4, 2, head_dim));
        run(&built, &continued, [70, 201], &options(2, 2, head_dim));
        let o = options(3, 1, head_dim);
        let windowed = AttentionOptions {
            window: Some(70),
            ..o
        };
        run(&built, &two, [150, 150], &windowed);
        // Scores that outgrow their reference: fragments are shrunk.
        let scale = 20.0 * o.scale;
        run(&built, &two, [150, 150], &AttentionOptions { scale, ..o });
        std::fs::remove_dir_all(&folder).expect("it was made above");
    }
}
