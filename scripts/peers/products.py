#!/usr/bin/env python3
"""How fast does torch multiply what a training step multiplies, and nothing else?

products.py [--tokens 512] [--threads N]: for each type the products with the frozen weights of SmolLM2-135M's shapes,
forward (x·Wᵀ) and backward (dy·W), dense, each layer with weights of its own, as a micro-batch of so many tokens has
them; best of five. The step bench (cargo bench -p model --bench step) does these and everything else.
"""
import argparse

from timing import best

LAYERS, HIDDEN, VOCABULARY = 30, 576, 49152
# in-features, out-features, how many of them a layer has
PROJECTIONS = [(576, 576, 2), (576, 192, 2), (576, 1536, 2), (1536, 576, 1)]


def both_ways(torch, tokens, dtype, width_in, width_out, weights):
    """Seconds and FLOP of the products with so many weights, one after the other."""
    x, dy = torch.randn(tokens, width_in).to(dtype), torch.randn(tokens, width_out).to(dtype)
    held = [torch.randn(width_out, width_in).to(dtype) for _ in range(weights)]

    def run():
        for weight in held:
            x @ weight.t()
            dy @ weight

    return best(run, 5), 4 * tokens * width_in * width_out * weights


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError as missing:
        print(f"products.py: skipped: {missing}")
        return
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        for dtype in (torch.bfloat16, torch.float32):
            parts = [both_ways(torch, arguments.tokens, dtype, i, o, n * LAYERS) for i, o, n in PROJECTIONS]
            layers, flop = (sum(part) for part in zip(*parts))
            head, head_flop = both_ways(torch, arguments.tokens, dtype, HIDDEN, VOCABULARY, 1)
            print(
                f"torch {torch.__version__}, {dtype}, {arguments.tokens} tokens, {arguments.threads} threads: "
                f"layers {layers * 1e3:.0f} ms ({flop / layers / 1e9:.0f} GFLOP/s), "
                f"head {head * 1e3:.0f} ms ({head_flop / head / 1e9:.0f} GFLOP/s), "
                f"together {(flop + head_flop) / (layers + head) / 1e9:.0f} GFLOP/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
