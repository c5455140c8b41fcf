"""Is each line of a JSONL file a conversation worth learning? The plain checker that most projects write
first, as a measure for jsonl-validate's speed: parse, roles, content, last answer, exact duplicates.

python3 scripts/peers/check_jsonl.py FILE prints the seconds it took, and how many lines it would keep."""

import hashlib
import json
import sys
import time

ROLES = {"system", "developer", "user", "assistant", "tool", "function"}


def is_sound(line):
    try:
        messages = json.loads(line)["messages"]
        said = [(message["role"], message["content"].strip()) for message in messages]
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return bool(said) and said[-1][0] == "assistant" and all(role in ROLES and text for role, text in said)


def main():
    start, seen = time.perf_counter(), set()
    with open(sys.argv[1], "rb") as lines:
        for line in lines:
            if is_sound(line):
                seen.add(hashlib.blake2b(line.strip(), digest_size=16).digest())
    print(time.perf_counter() - start, len(seen))


main()
