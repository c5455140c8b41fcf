#!/usr/bin/env python3
"""How fast does datasets.map render and tokenize chats? The peer that tokenize-pack is timed against.

usage: datasets-map.py BASE CHATS.jsonl [PROCESSES]

Prints rows, tokens and seconds of the map alone: reading the file beforehand is not counted, and no loss mask and
no packing is made. Needs datasets and transformers (jinja2, tokenizers); no torch.
"""
import json
import os
import sys
import tempfile
import time

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error")

import datasets
import transformers

datasets.disable_progress_bars()
base, chats, processes = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 2
tokenizer = transformers.AutoTokenizer.from_pretrained(base)


def tokenize(batch):
    texts = tokenizer.apply_chat_template(batch["messages"], tokenize=False)
    return {"input_ids": tokenizer(texts, add_special_tokens=False)["input_ids"]}


with tempfile.TemporaryDirectory() as cache:
    rows = datasets.load_dataset("json", data_files=chats, split="train", cache_dir=cache)
    start = time.perf_counter()
    mapped = rows.map(tokenize, batched=True, num_proc=processes, remove_columns=rows.column_names)
    seconds = time.perf_counter() - start
    tokens = sum(len(ids) for ids in mapped.with_format("numpy")["input_ids"])
    print(json.dumps({
        "rows": len(rows), "tokens": tokens, "seconds": seconds,
        "with": f"datasets {datasets.__version__}, transformers {transformers.__version__}, {processes} processes",
    }))
