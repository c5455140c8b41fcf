//! Keys and values of sequences that are being generated on a GPU: one buffer a layer.
//!
//! Every sequence has a slot of `capacity` rows in each layer's buffer; a sequence that ends gives
//! up its slot, nothing moves. Rows are written where they belong, so that a step copies only what
//! is new.

use super::attention::{FEW_ROWS, Seen, attend, forward};
use super::tensor::{Argument, cast, dims, each, fresh, narrowed, packed, upload};
use crate::kernels::cube::attention::write_rows_kernel;
use crate::segments::{AttentionOptions, Segment, Segments};
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Tensor};
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

/// The cache of all layers for a batch of sequences.
#[derive(Debug)]
pub struct DeviceKvCache {
    layers: Vec<Option<[CubeTensor; 2]>>,
    /// Rows of a slot.
    capacity: usize,
    slots: usize,
    sequences: Vec<Sequence>,
}

#[derive(Clone, Copy, Debug)]
struct Sequence {
    slot: usize,
    /// Rows that all layers hold.
    length: usize,
}

impl DeviceKvCache {
    /// `sequences` empty sequences that may grow to `capacity` rows.
    pub fn new(layers: usize, sequences: usize, capacity: usize) -> DeviceKvCache {
        DeviceKvCache {
            layers: (0..layers).map(|_| None).collect(),
            capacity,
            slots: sequences,
            sequences: (0..sequences)
                .map(|slot| Sequence { slot, length: 0 })
                .collect(),
        }
    }

    /// Rows cached of one sequence.
    pub fn length(&self, sequence: usize) -> usize {
        self.sequences[sequence].length
    }

    /// Writes rows `offsets[i]..offsets[i + 1]` of k and v (rotated already) behind sequence i in one
    /// layer. They count once [`DeviceKvCache::advance`] is told that all layers have them.
    pub fn append(&mut self, layer: usize, k: Tensor<2>, v: Tensor<2>, offsets: &[usize]) {
        let rows = self.rows(offsets);
        let new = [device(k), device(v)];
        let buffers = self.buffers(layer, &new[0], dims(&new[0])[1]);
        for (buffer, new) in buffers.iter().zip(new) {
            write(buffer, new, &rows);
        }
    }

    /// Keys and values of one layer, rows of `width`; made beside `like` and of its type where there
    /// are none yet.
    pub(super) fn buffers(
        &mut self,
        layer: usize,
        like: &CubeTensor,
        width: usize,
    ) -> [CubeTensor; 2] {
        let shape = [self.slots * self.capacity, width];
        let buffers = self.layers[layer]
            .get_or_insert_with(|| [(); 2].map(|()| fresh(like, shape, like.dtype)));
        buffers.clone()
    }

    /// Attention of q in one layer, whose rows `offsets[i]..offsets[i + 1]` are the newest of
    /// sequence i, to all that is cached of it (append first).
    pub fn attend(
        &self,
        layer: usize,
        q: Tensor<2>,
        offsets: &[usize],
        options: &AttentionOptions,
    ) -> Tensor<2> {
        let q = device(q);
        let [k, v] = self.layers[layer].as_ref().expect("append comes first");
        let [rows, width] = dims(&q);
        let out = if rows <= FEW_ROWS {
            let (first, end) = self.seen(&self.rows(offsets), offsets, options.window);
            let out = fresh(&q, [rows, width], q.dtype);
            let lse = fresh(&q, [rows, options.heads], DType::F32);
            let seen = Seen::new(&first, &end, &q);
            attend(&q, k, v, &seen, &out, &lse, options);
            out
        } else {
            let one = |(sequence, w): (&Sequence, &[usize])| {
                let start = sequence.slot * self.capacity;
                let new = w[1] - w[0];
                let length = sequence.length + new;
                let keys = |t: &CubeTensor| narrowed(t.clone(), 0, start..start + length);
                let segment = Segment {
                    q: 0..new,
                    k: 0..length,
                };
                let q = narrowed(q.clone(), 0, w[0]..w[1]);
                forward(q, keys(k), keys(v), Segments::new(vec![segment]), *options).o
            };
            let parts = self.sequences.iter().zip(offsets.windows(2)).map(one);
            CubeBackend::float_cat(parts.collect(), 0)
        };
        Tensor::from_primitive::<CubeBackend>(out)
    }

    /// All layers have had rows `offsets[i]..offsets[i + 1]` of sequence i appended.
    pub fn advance(&mut self, offsets: &[usize]) {
        for (sequence, w) in self.sequences.iter_mut().zip(offsets.windows(2)) {
            sequence.length += w[1] - w[0];
        }
    }

    /// A cache of `copies` sequences that each begin with all of the first, and may grow to
    /// `capacity` rows.
    pub fn replicate(&self, copies: usize, capacity: usize) -> DeviceKvCache {
        let mut cache = DeviceKvCache::new(self.layers.len(), copies, capacity);
        let Sequence { slot, length } = self.sequences[0];
        let from = slot * self.capacity;
        for (layer, buffers) in self.layers.iter().enumerate() {
            let Some(buffers) = buffers else { continue };
            let copied = buffers.each_ref().map(|buffer| {
                let rows = packed(narrowed(buffer.clone(), 0, from..from + length));
                let copy = fresh(&rows, [copies * capacity, dims(&rows)[1]], rows.dtype);
                for slot in 0..copies {
                    let to = (slot * capacity) as u32;
                    let places: Vec<u32> = (to..to + length as u32).collect();
                    write(&copy, rows.clone(), &places);
                }
                copy
            });
            cache.layers[layer] = Some(copied);
        }
        cache.sequences.iter_mut().for_each(|s| s.length = length);
        cache
    }

    /// Drops the sequences for which `keep` is false; the others move together.
    pub fn retain(&mut self, keep: &[bool]) {
        let mut keep = keep.iter();
        self.sequences
            .retain(|_| *keep.next().expect("one verdict for each sequence"));
    }

    /// Which rows of a layer each new row sees, `first..end`, itself the last; `rows` as
    /// [`DeviceKvCache::rows`] says.
    pub(super) fn seen(
        &self,
        rows: &[u32],
        offsets: &[usize],
        window: Option<usize>,
    ) -> (Vec<u32>, Vec<u32>) {
        let end: Vec<u32> = rows.iter().map(|row| row + 1).collect();
        let seen = |(start, end): (u32, &u32)| match window {
            Some(window) => start.max(end.saturating_sub(window as u32)),
            None => start,
        };
        let first = self.starts(offsets).into_iter().zip(&end).map(seen);
        (first.collect(), end)
    }

    /// Where each new row goes.
    pub(super) fn rows(&self, offsets: &[usize]) -> Vec<u32> {
        let each = self.sequences.iter().zip(offsets.windows(2));
        each.flat_map(|(s, w)| {
            assert!(
                s.length + w[1] - w[0] <= self.capacity,
                "a slot has {} rows",
                self.capacity
            );
            let at = (s.slot * self.capacity + s.length) as u32;
            at..at + (w[1] - w[0]) as u32
        })
        .collect()
    }

    /// Where the sequence of each new row begins.
    fn starts(&self, offsets: &[usize]) -> Vec<u32> {
        let each = self.sequences.iter().zip(offsets.windows(2));
        each.flat_map(|(s, w)| vec![(s.slot * self.capacity) as u32; w[1] - w[0]])
            .collect()
    }
}

fn write(buffer: &CubeTensor, rows: CubeTensor, places: &[u32]) {
    if places.is_empty() {
        return;
    }
    let rows = packed(cast(rows, buffer.dtype));
    let [count, width] = dims(&rows);
    let client = buffer.client.clone();
    let (cubes, dim) = each(&client, count * width);
    write_rows_kernel::launch(
        &client,
        cubes,
        dim,
        rows.clone().argument(),
        upload(places, &rows).argument(),
        buffer.clone().argument(),
        count * width,
        width,
        super::tensor::storage(buffer.dtype),
    );
}

fn device(t: Tensor<2>) -> CubeTensor {
    packed(
        t.try_into_primitive::<CubeBackend>()
            .expect("a device cache holds tensors of a GPU, without a tape"),
    )
}
