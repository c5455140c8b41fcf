"""Time TRL + PEFT + bitsandbytes on the rows that qlora-train is timed on.

usage: train_trl.py BASE EXAMPLES.jsonl [--steps 4] [--dtype bf16|f32] [--checkpointing] [--threads 2]

BASE is a Hugging Face folder in full precision, EXAMPLES chat lines. The setting is the bench's:
NF4 with double quantisation, rank 16 on all seven projections, best-fit packing into 512 tokens,
1 row x 4 micro-batches, every token a target. Prints one JSON line; the first step, which warms
caches, is not in the mean.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time

START = time.monotonic()
# What is measured must not depend on what a server answers.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false")

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MICRO_BATCHES = 4


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("examples")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--dtype", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def main():
    args = arguments()
    try:
        import bitsandbytes  # noqa: F401  (transformers finds it by itself)
        import torch
        from datasets import load_dataset
        from peft import LoraConfig
        from transformers import (
            AutoModelForCausalLM,
            AutoTokenizer,
            BitsAndBytesConfig,
            TrainerCallback,
        )
        from trl import SFTConfig, SFTTrainer
    except ImportError as error:
        sys.exit(f"skipped: {error}")
    torch.set_num_threads(args.threads)
    imported = time.monotonic()

    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    model = AutoModelForCausalLM.from_pretrained(args.base, dtype=dtype, quantization_config=nf4)
    loaded = time.monotonic()

    class Clock(TrainerCallback):
        """When each optimizer step began and how long it took."""

        began = None
        first = None
        seconds = []

        def on_step_begin(self, *_args, **_kwargs):
            self.began = time.monotonic()
            self.first = self.first or self.began

        def on_step_end(self, *_args, **_kwargs):
            self.seconds.append(time.monotonic() - self.began)

    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        config = SFTConfig(
            output_dir=scratch,
            use_cpu=True,
            bf16=False,
            max_steps=args.steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=MICRO_BATCHES,
            learning_rate=2e-4,
            warmup_steps=1,
            weight_decay=0.01,
            max_length=args.max_length,
            packing=True,
            gradient_checkpointing=args.checkpointing,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=args.steps,
        )
        lora = LoraConfig(
            r=16, lora_alpha=32, lora_dropout=0.05, target_modules=TARGETS, task_type="CAUSAL_LM"
        )
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=load_dataset("json", data_files=args.examples, split="train"),
            processing_class=AutoTokenizer.from_pretrained(args.base),
            peft_config=lora,
            callbacks=[clock],
        )
        trainer.train()
    rows = [len(row) for row in trainer.train_dataset["input_ids"]]
    tokens_per_step = MICRO_BATCHES * sum(rows) / len(rows)
    timed = clock.seconds[1:] or clock.seconds
    result = {
        "dtype": args.dtype,
        "checkpointing": args.checkpointing,
        "tokens_per_second": tokens_per_step * len(timed) / sum(timed),
        "seconds_per_step": sum(timed) / len(timed),
        "import_seconds": imported - START,
        "load_seconds": loaded - imported,
        "seconds_to_first_step": clock.first - START,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
