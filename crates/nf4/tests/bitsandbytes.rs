//! Is every byte the one bitsandbytes writes? (Its version 0.50.2, on fourteen tensors.)

use nf4::{Absmax, Dtype, dynamic_map, quantize, quantize_blockwise, reference, torch_mean};
use safetensors::SafeTensors;

const TENSORS: [&str; 14] = [
    "f32_a",
    "bf16_a",
    "f16_a",
    "f32_rem",
    "f32_cols48",
    "bf16_small",
    "f32_zero_blocks",
    "f32_outliers",
    "f32_allzero",
    "f32_nested",
    "f32_ties",
    "f32_tiny",
    "f32_denorm",
    "f32_huge",
];

struct Fixture(Vec<u8>);

impl Fixture {
    fn open() -> Fixture {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/data/nf4/nf4.safetensors"
        );
        Fixture(std::fs::read(path).expect("the fixture is part of the repository"))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        file.tensor(name).unwrap().data().to_vec()
    }

    fn f32(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name);
        let words = bytes.as_chunks().0.iter().copied();
        words.map(f32::from_le_bytes).collect()
    }

    fn source(&self, name: &str) -> (Vec<f32>, [usize; 2], Dtype) {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let view = file.tensor(&format!("{name}.src")).unwrap();
        let shape = [view.shape()[0], view.shape()[1]];
        let halves = || {
            view.data()
                .as_chunks()
                .0
                .iter()
                .copied()
                .map(u16::from_le_bytes)
        };
        match view.dtype() {
            safetensors::Dtype::F32 => (self.f32(&format!("{name}.src")), shape, Dtype::F32),
            safetensors::Dtype::BF16 => {
                let values = halves().map(|h| half::bf16::from_bits(h).to_f32());
                (values.collect(), shape, Dtype::BF16)
            }
            safetensors::Dtype::F16 => {
                let values = halves().map(|h| half::f16::from_bits(h).to_f32());
                (values.collect(), shape, Dtype::F16)
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn codes_and_absmax_equal_bitsandbytes() {
    let fixture = Fixture::open();
    for name in TENSORS {
        let (values, shape, dtype) = fixture.source(name);
        let quantized = quantize(&values, shape, dtype, false);
        assert_eq!(
            quantized.codes,
            fixture.bytes(&format!("{name}.nf4.packed")),
            "{name}"
        );
        let expected = fixture.f32(&format!("{name}.nf4.absmax"));
        assert_eq!(bits(&quantized.scales()), bits(&expected), "{name}");
    }
}

#[test]
fn nested_states_equal_bitsandbytes() {
    let fixture = Fixture::open();
    for name in TENSORS {
        let (values, shape, dtype) = fixture.source(name);
        let quantized = quantize(&values, shape, dtype, true);
        assert_eq!(
            quantized.codes,
            fixture.bytes(&format!("{name}.nf4.packed")),
            "{name}"
        );
        let restored = fixture.f32(&format!("{name}.dq.absmax_restored"));
        assert_eq!(bits(&quantized.scales()), bits(&restored), "{name}");
        let Absmax::Nested {
            codes,
            absmax,
            map,
            offset,
        } = &quantized.absmax
        else {
            panic!("{name}: double quantisation was asked for");
        };
        let expected = fixture.bytes(&format!("{name}.dq.absmax_u8_exact_nearest"));
        assert_eq!(codes, &expected, "{name}");
        let expected = fixture.f32(&format!("{name}.dq.nested_absmax"));
        assert_eq!(bits(absmax), bits(&expected), "{name}");
        assert_eq!(
            bits(&[*offset]),
            bits(&fixture.f32(&format!("{name}.dq.offset"))),
            "{name}"
        );
        assert_eq!(bits(&map[..]), bits(&fixture.f32("dynamic_map")), "{name}");
    }
}

#[test]
fn dequantised_values_equal_bitsandbytes() {
    let fixture = Fixture::open();
    for name in TENSORS {
        let (values, shape, _) = fixture.source(name);
        for (double_quant, stage) in [(false, "nf4"), (true, "dq")] {
            let quantized = quantize(&values, shape, Dtype::F32, double_quant);
            let expected = fixture.f32(&format!("{name}.{stage}.dequant_f32"));
            assert_eq!(
                bits(&quantized.dequantize()),
                bits(&expected),
                "{name} {stage}"
            );
        }
    }
}

#[test]
fn eight_bit_codes_are_the_nearest_values_of_the_map() {
    let fixture = Fixture::open();
    let (codes, absmax) = quantize_blockwise(&fixture.f32("dq8.x"));
    assert_eq!(codes, fixture.bytes("dq8.codes_exact_nearest"));
    assert_eq!(bits(&absmax), bits(&fixture.f32("dq8.absmax")));
    let by_the_cpu_table = fixture.bytes("dq8.codes_lib");
    let pairs = codes.iter().zip(&by_the_cpu_table);
    assert_eq!(
        pairs.filter(|(a, b)| a != b).count(),
        12,
        "the table's own rounding"
    );
}

#[test]
fn the_dynamic_map_and_the_codebook_equal_bitsandbytes() {
    let fixture = Fixture::open();
    assert_eq!(bits(dynamic_map()), bits(&fixture.f32("dynamic_map")));
    assert_eq!(bits(&nf4::CODEBOOK), bits(&fixture.f32("nf4_codebook")));
}

#[test]
fn the_mean_is_torchs_mean() {
    let fixture = Fixture::open();
    for name in TENSORS {
        let absmax = fixture.f32(&format!("{name}.nf4.absmax"));
        let expected = fixture.f32(&format!("{name}.dq.offset"));
        assert_eq!(bits(&[torch_mean(&absmax)]), bits(&expected), "{name}");
    }
}

#[test]
fn the_fast_code_agrees_with_the_reference() {
    let fixture = Fixture::open();
    for name in TENSORS {
        let (values, shape, dtype) = fixture.source(name);
        for double_quant in [false, true] {
            let fast = quantize(&values, shape, dtype, double_quant);
            assert_eq!(
                fast,
                reference::quantize(&values, shape, dtype, double_quant),
                "{name}"
            );
            assert_eq!(
                bits(&fast.dequantize()),
                bits(&reference::dequantize(&fast)),
                "{name}"
            );
        }
    }
}
