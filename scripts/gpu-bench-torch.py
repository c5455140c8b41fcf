"""What scripts/gpu-bench compares with: the same training step in PyTorch.

LoRA of rank 16 on the seven projections, over bf16 weights and over 4-bit weights that are
dequantised by table lookup before each linear and again in backward. Attention is PyTorch's own
flash kernel, the head's logits are computed in chunks: what a careful user of PyTorch would write.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

SHAPES = {  # hidden, ffn, layers, heads, kv heads, vocabulary
    "tiny": (128, 256, 2, 4, 2, 512),
    "Llama-3.1-8B": (4096, 14336, 32, 32, 8, 128256),
    "Mistral-7B": (4096, 14336, 32, 32, 8, 32768),
    "Llama-3.2-1B": (2048, 8192, 16, 32, 8, 128256),
    "SmolLM2-135M": (576, 1536, 30, 9, 3, 49152),
}


class Dequantized(torch.autograd.Function):
    """x Wᵀ with W looked up from 4-bit codes, forward and backward; W is never kept."""

    @staticmethod
    def weight(codes, absmax, table, shape):
        pairs = table[codes.int()]  # [bytes, 2]
        return (pairs.view(-1, 64) * absmax[:, None]).view(shape)

    @staticmethod
    def forward(ctx, x, codes, absmax, table, shape):
        ctx.save_for_backward(codes, absmax, table)
        ctx.shape = shape
        return F.linear(x, Dequantized.weight(codes, absmax, table, shape))

    @staticmethod
    def backward(ctx, dy):
        return dy @ Dequantized.weight(*ctx.saved_tensors, ctx.shape), None, None, None, None


class Linear(torch.nn.Module):
    def __init__(self, out, inputs, four_bit, table, device):
        super().__init__()
        self.shape, self.table = (out, inputs), table
        if four_bit:
            self.codes = torch.randint(0, 256, (out * inputs // 2,), dtype=torch.uint8, device=device)
            self.absmax = torch.full((out * inputs // 64,), 0.05, dtype=torch.bfloat16, device=device)
        else:
            self.codes = None
            self.w = torch.randn(out, inputs, dtype=torch.bfloat16, device=device) * 0.02
        self.a = torch.nn.Parameter(torch.randn(16, inputs, device=device) * 0.01)
        self.b = torch.nn.Parameter(torch.zeros(out, 16, device=device))

    def forward(self, x):
        if self.codes is None:
            y = F.linear(x, self.w)
        else:
            y = Dequantized.apply(x, self.codes, self.absmax, self.table, self.shape)
        return y + 2.0 * F.linear(F.linear(x, self.a.bfloat16()), self.b.bfloat16())


def rotate(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


class Layer(torch.nn.Module):
    def __init__(self, hidden, ffn, heads, kv, make):
        super().__init__()
        d = hidden // heads
        self.heads, self.kv, self.d, self.hidden = heads, kv, d, hidden
        self.q, self.k, self.v = make(hidden, hidden), make(kv * d, hidden), make(kv * d, hidden)
        self.o = make(hidden, hidden)
        self.gate, self.up, self.down = make(ffn, hidden), make(ffn, hidden), make(hidden, ffn)

    def forward(self, x, cos, sin):
        rows, length, _ = x.shape
        h = F.rms_norm(x, (self.hidden,))
        split = lambda t, n: t.view(rows, length, n, self.d).transpose(1, 2)
        q, k = split(self.q(h), self.heads), split(self.k(h), self.kv)
        v = split(self.v(h), self.kv)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv)
        x = x + self.o(o.transpose(1, 2).reshape(rows, length, self.hidden))
        h = F.rms_norm(x, (self.hidden,))
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


def head_loss(h, w, targets):
    """Cross-entropy in chunks of 1024 rows, each recomputed in backward: no logits are kept."""
    part = lambda h, t: F.cross_entropy(F.linear(h, w).float(), t, reduction="sum")
    total = h.new_zeros((), dtype=torch.float32)
    for rows, t in zip(h.split(1024), targets.split(1024)):
        total = total + checkpoint(part, rows, t, use_reentrant=False)
    return total / len(targets)


def measure(name, four_bit, flags, device):
    hidden, ffn, layers, heads, kv, vocabulary = SHAPES[name]
    on_gpu = device.type == "cuda"
    values = torch.linspace(-1, 1, 16, dtype=torch.bfloat16, device=device)
    bytes_ = torch.arange(256, device=device)
    table = torch.stack([values[bytes_ >> 4], values[bytes_ & 15]], dim=1)
    make = lambda out, inputs: Linear(out, inputs, four_bit, table, device)
    model = torch.nn.ModuleList(Layer(hidden, ffn, heads, kv, make) for _ in range(layers))
    embedding = torch.randn(vocabulary, hidden, dtype=torch.bfloat16, device=device) * 0.02
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, **({"fused": True} if on_gpu else {}))
    ids = torch.arange(flags.rows * flags.length, device=device) * 7919 % vocabulary
    ids = ids.view(flags.rows, flags.length)
    angles = torch.arange(flags.length, device=device)[:, None] / 10000 ** (
        torch.arange(hidden // heads // 2, device=device) / (hidden // heads // 2)
    )
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()

    def step():
        x = embedding[ids]
        if flags.recompute:
            x.requires_grad_()
        for layer in model:
            x = checkpoint(layer, x, cos, sin, use_reentrant=False) if flags.recompute else layer(x, cos, sin)
        h = F.rms_norm(x, (hidden,))[:, :-1].reshape(-1, hidden)
        head_loss(h, embedding, ids[:, 1:].reshape(-1)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if on_gpu:
            torch.cuda.synchronize()

    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        step()
    started = time.perf_counter()
    for _ in range(flags.steps):
        step()
    rate = flags.steps * ids.numel() / (time.perf_counter() - started)
    peak = f", peak {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB" if on_gpu else ""
    kind = "QLoRA, dequantise + linear" if four_bit else "LoRA, bf16 weights"
    print(f"PyTorch {torch.__version__} {name}: {kind}: {rate:.0f} tokens/s{peak}", flush=True)


def matmul_rate(device):
    """FLOP/s of a square product in bf16."""
    on_gpu = device.type == "cuda"
    n, repeats = (8192, 10) if on_gpu else (1024, 3)
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device=device) for _ in range(2))
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    for _ in range(3):
        a @ b
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    wait()
    return 2 * n**3 * repeats / (time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--shape", action="append")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--rehearse", action="store_true")
    flags, _ = parser.parse_known_args()  # what else ours takes means nothing here
    if flags.rehearse:
        flags.shape, flags.rows, flags.length, flags.steps = ["tiny"], 1, 64, 1
    device = torch.device(flags.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("PyTorch sees no GPU here: nothing to compare with")
        return
    print(f"PyTorch {torch.__version__}: matmul {matmul_rate(device) / 1e12:.1f} TFLOP/s", flush=True)
    for name in flags.shape or list(SHAPES)[1:]:
        for four_bit in (False, True):
            try:
                measure(name, four_bit, flags, device)
            except torch.OutOfMemoryError:
                print(f"PyTorch {name}: out of memory ({'QLoRA' if four_bit else 'LoRA'})", flush=True)
            if device.type == "cuda":
                torch.cuda.empty_cache()


main()
