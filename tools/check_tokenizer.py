#!/usr/bin/env python3
"""Compares nibblecast's token ids with those of Hugging Face's library, line by line.

    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3
    venv/bin/python tools/check_tokenizer.py build/dev/tests/calibration/encode_lines TOKENIZER.JSON TEXTS.JSONL...

Each line of TEXTS.JSONL is an object with "text"; an `oracle.json` with "tokenizer_cases" works too.
Exit code 1 if any line differs.
"""
import json
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer


def read_texts(path):
    with open(path, encoding="utf-8", newline="\n") as file:
        content = file.read()
    if path.endswith(".json"):
        return [case["text"] for case in json.loads(content)["tokenizer_cases"]]
    return [json.loads(line)["text"] for line in content.split("\n") if line.strip()]


def encode_ours(encode_lines, tokenizer, texts):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"text": text}) + "\n")
        file.flush()
        run = subprocess.run([encode_lines, tokenizer, file.name], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def main(encode_lines, tokenizer, *paths):
    reference = Tokenizer.from_file(tokenizer)
    reference.no_truncation()
    reference.no_padding()
    differing = 0
    for path in paths:
        texts = read_texts(path)
        ours = encode_ours(encode_lines, tokenizer, texts)
        if len(ours) != len(texts):
            sys.exit(f"{path}: {len(ours)} results for {len(texts)} texts")
        ids = 0
        for number, (text, found) in enumerate(zip(texts, ours), 1):
            expected = reference.encode(text).ids
            ids += len(expected)
            if found == expected:
                continue
            differing += 1
            first = next((i for i, pair in enumerate(zip(expected, found)) if pair[0] != pair[1]),
                         min(len(expected), len(found)))
            print(f"{path}: text {number}: id {first}: expected {expected[first:first + 8]}, "
                  f"found {found[first:first + 8]}: {text[:60]!r}")
        print(f"{path}: {len(texts)} texts, {ids} ids")
    print(f"{differing} texts differ")
    return 1 if differing else 0


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
