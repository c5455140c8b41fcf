//! A few rows times 4-bit weights as they lie: both kernels, tiles and splits that end within a weight.

use super::Bench;

impl Bench {
    pub(super) fn few_rows(&mut self) {
        for shape in [
            [1, 70, 576],
            [2, 9, 64],
            [4, 8, 4160],
            [5, 65, 128],
            [12, 70, 320],
            [16, 64, 256],
            [20, 200, 64],
            [32, 130, 1088],
        ] {
            self.linear(shape, "nf4 double", 0, None, false);
            self.linear(shape, "nf4 double", 4, None, true);
            self.linear(shape, "nf4 plain", 70, None, false);
        }
    }
}
