#!/usr/bin/env python3
"""How fast do transformers (and llama.cpp) continue the prompts that decode_speed continues?

generate.py BASE [GGUF] [--batch 1 8 32]: greedy, prompts of 64 tokens, 64 new ones; the best of three. transformers
holds the base in bitsandbytes' NF4 with double quantisation and computes in bf16; llama-cpp-python, if it is there and
a GGUF is named, speaks alone. Two threads unless OMP_NUM_THREADS says otherwise.
"""
import argparse
import os

from timing import best

THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "2"))
os.environ["HF_HUB_OFFLINE"] = "1"
PROMPT, NEW = 64, 64


def prompts(count, vocabulary):
    """The prompts of decode_speed."""
    return [[100 + (i * 7919 + seed * 104729) % (vocabulary - 100) for i in range(PROMPT)] for seed in range(count)]


def report(who, batch, prefill, whole):
    step = (whole - prefill) / NEW
    print(
        f"{who}, batch {batch:>3}: {batch / step:>7.1f} tokens/s decoding ({step * 1e3:.2f} ms a step), "
        f"{batch * PROMPT / prefill:>7.1f} tokens/s reading prompts",
        flush=True,
    )


def transformers(base, batches):
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    torch.set_num_threads(THREADS)
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, quantization_config=nf4).eval()
    for batch in batches:
        ids = torch.tensor(prompts(batch, model.config.vocab_size))

        def run(new):
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=0,
                eos_token_id=None,
            )

        with torch.inference_mode():
            report("transformers NF4", batch, best(lambda: run(1)), best(lambda: run(1 + NEW)))


def llama_cpp(gguf):
    from llama_cpp import Llama

    model = Llama(gguf, n_threads=THREADS, n_threads_batch=THREADS, n_ctx=512, verbose=False)
    ids = prompts(1, model.n_vocab())[0]

    def run(new):
        model.reset()
        for _, _ in zip(range(new), model.generate(ids, temp=0.0, reset=False)):
            pass

    report("llama.cpp " + os.path.basename(gguf), 1, best(lambda: run(1)), best(lambda: run(1 + NEW)))


def main():
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("base")
    args.add_argument("gguf", nargs="?")
    args.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    args = args.parse_args()
    if not os.path.exists(args.base):
        print(f"generate.py: skipped: no base at {args.base} (make -f scripts/pipeline.mk base)")
        return
    try:
        transformers(args.base, args.batch)
    except ImportError as missing:
        print(f"generate.py: skipped transformers: {missing}")
    if args.gguf:
        try:
            llama_cpp(args.gguf)
        except ImportError as missing:
            print(f"generate.py: skipped llama.cpp: {missing}")


if __name__ == "__main__":
    main()
