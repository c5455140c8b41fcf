//! Inputs of linear maps, in every order that a map which reads them wants.

use crate::format::WeightFormat;
use crate::kernels::aligned::Aligned;
use crate::kernels::few_rows::Order;
use crate::kernels::simd::Level;

/// Packed copies of the rows that the next linear maps multiply.
#[derive(Default)]
pub(super) struct Input {
    copies: Vec<(Order, Aligned)>,
    orders: usize,
}

impl Input {
    /// Packs x `[rows, features]` for weights of these formats: most often all want the same order.
    pub(super) fn set(
        &mut self,
        level: Level,
        x: &[f32],
        features: usize,
        formats: impl IntoIterator<Item = WeightFormat>,
    ) {
        self.orders = 0;
        for format in formats {
            let order = Order::of(level, format);
            if self.ready().iter().any(|(ready, _)| *ready == order) {
                continue;
            }
            order.pack(x, features, self.room(order));
        }
    }

    /// Room for rows that are put there one by one, in the one order that `format` wants.
    pub(super) fn clear(&mut self, level: Level, format: WeightFormat, rows: usize) -> &mut [f32] {
        self.orders = 0;
        let order = Order::of(level, format);
        let size = order.vectors(format.in_features) * order.lanes() * rows;
        let room = self.room(order);
        room.resize(size);
        room.fill(0.0);
        room
    }

    /// The copy for a weight of this format.
    pub(super) fn of(&self, level: Level, format: WeightFormat) -> &[f32] {
        let order = Order::of(level, format);
        let copy = self.ready().iter().find(|(ready, _)| *ready == order);
        &copy.expect("packed for this order").1
    }

    fn ready(&self) -> &[(Order, Aligned)] {
        &self.copies[..self.orders]
    }

    /// The buffer of the next order, its memory kept from the last time.
    fn room(&mut self, order: Order) -> &mut Aligned {
        if self.copies.len() == self.orders {
            self.copies.push((order, Aligned::default()));
        }
        self.orders += 1;
        let (name, room) = &mut self.copies[self.orders - 1];
        *name = order;
        room
    }
}
