"""Run a qlora-train command and print its speed, its start and its memory as one JSON line.

usage: time_training.py QLORA_TRAIN --out-dir RUN ...

The first step, which touches every page for the first time, is not in the mean.
"""

import json
import pathlib
import resource
import subprocess
import sys
import time


def main():
    command = sys.argv[1:]
    run = pathlib.Path(command[command.index("--out-dir") + 1])
    timing = run / "timing.jsonl"
    began = time.monotonic()
    process = subprocess.Popen(command)
    first_done = None
    while process.poll() is None:
        if first_done is None and timing.exists() and timing.stat().st_size > 0:
            first_done = time.monotonic()
        time.sleep(0.01)
    if process.returncode not in (0, 1):
        sys.exit(f"{command[0]} ended with status {process.returncode}")
    steps = [json.loads(line) for line in timing.read_text().splitlines()]
    timed = steps[1:] or steps
    result = {
        "tokens_per_second": sum(s["tokens"] for s in timed) / sum(s["seconds"] for s in timed),
        "seconds_per_step": sum(s["seconds"] for s in timed) / len(timed),
        "seconds_to_first_step": first_done - began - steps[0]["seconds"],
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
