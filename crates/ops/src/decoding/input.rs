//! Inputs of linear maps, in every order that a map which reads them wants.

use super::linear::HostLinear;
use crate::kernels::Shared;
use crate::kernels::aligned::Aligned;
use crate::kernels::few_rows::{Layout, Order};
use crate::kernels::simd::Level;

/// Packed copies of the rows that the next linear maps multiply.
#[derive(Default)]
pub(super) struct Input {
    copies: Vec<(Layout, Aligned)>,
    ready: usize,
}

impl Input {
    /// Packs x `[rows, features]` for these maps and their adapters: most often all want one order.
    pub(super) fn set(&mut self, level: Level, x: &[f32], rows: usize, linears: &[HostLinear]) {
        self.clear(level, rows, linears);
        for (layout, room) in &mut self.copies[..self.ready] {
            layout.pack(level, x, room);
        }
    }

    /// Room for rows that are put there piece by piece.
    pub(super) fn clear(&mut self, level: Level, rows: usize, linears: &[HostLinear]) {
        self.ready = 0;
        for linear in linears {
            for order in linear.orders(level) {
                self.add(order.layout(rows, linear.format().in_features));
            }
        }
    }

    /// Where such pieces go, in each order: [`Layout::put`] at the address.
    pub(super) fn rooms(&mut self) -> Vec<(Layout, Shared)> {
        let ready = self.copies[..self.ready].iter_mut();
        ready
            .map(|(layout, room)| (*layout, Shared(room.as_mut_ptr())))
            .collect()
    }

    /// The copy in this order.
    pub(super) fn of(&self, order: Order) -> (&[f32], Layout) {
        let ready = &self.copies[..self.ready];
        let copy = ready.iter().find(|(layout, _)| layout.order == order);
        let (layout, words) = copy.expect("packed in this order");
        (words, *layout)
    }

    /// A buffer for this layout, its memory kept from the last time.
    fn add(&mut self, layout: Layout) {
        let ready = &self.copies[..self.ready];
        if ready.iter().any(|(other, _)| *other == layout) {
            return;
        }
        if self.copies.len() == self.ready {
            self.copies.push((layout, Aligned::default()));
        }
        let (name, room) = &mut self.copies[self.ready];
        *name = layout;
        room.resize(layout.len());
        self.ready += 1;
    }
}
