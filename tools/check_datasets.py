#!/usr/bin/env python3
"""Compares the rows that --calib takes of published data sets with those of ModelOpt's own loader, on Parquet files
that pyarrow writes in the data sets' schemas, layouts and encodings; and writes the goldens of the tests.

usage: tools/check_datasets.py LIST_TEXTS            compare (LIST_TEXTS: build/parquet/tests/calibration/list_texts)
       tools/check_datasets.py --golden              write tests/calibration/golden/datasets

pip install nvidia-modelopt==0.47.0 torch==2.11.0 datasets==5.2.0 pyarrow==26.0.1
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

GOLDEN = Path(__file__).resolve().parent.parent / "tests/calibration/golden/datasets"
CNN, NEMOTRON = "cnn_dailymail", "nemotron-post-training-dataset-v2"
SPLITS = ["stem", "chat", "math", "code"]

# As the data sets' cards declare them.
CNN_SCHEMA = pa.schema([("article", pa.string()), ("highlights", pa.string()), ("id", pa.string())])
NEMOTRON_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ["uuid", "license", "generator", "version", "category", "reasoning"]]
    + [("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])))])

WORDS = ["", "Öl", "naïve", "日本語", "\u2028", "🙂", "a\nb", "\t", "\"quoted\"", "plain", "words", "x" * 50]


def text(rng, most):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(most)))


def cnn_rows(rng, count):
    rows = [{"article": text(rng, 12), "highlights": text(rng, 3), "id": f"{i:040x}"} for i in range(count)]
    rows[count // 2]["article"] = ""
    return rows


def nemotron_rows(rng, split, count):
    rows = []
    for i in range(count):
        messages = [{"role": role, "content": text(rng, 8)} for role in ["system", "user", "assistant", "user"]]
        rows.append({"uuid": f"{i}", "license": "cc-by-4.0", "generator": None, "version": "v2", "category": split,
                     "reasoning": "on", "messages": messages[: rng.randrange(1, 5)]})
    rows[count // 2]["messages"] = []
    return rows


def write_split(folder, split, rows, schema, files, jsonl=False, **options):
    """`rows` in `files` files, as the Hub numbers them."""
    folder.mkdir(parents=True, exist_ok=True)
    bounds = [len(rows) * i // files for i in range(files + 1)]
    for i in range(files):
        part = rows[bounds[i] : bounds[i + 1]]
        name = f"{split}-{i:05d}-of-{files:05d}"
        pq.write_table(pa.Table.from_pylist(part, schema=schema), folder / f"{name}.parquet", **options)
        if jsonl:
            lines = [json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for row in part]
            (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_card(folder, config, splits):
    """What makes `datasets` find the files: the front matter of the repository's README."""
    lines = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, pattern in splits:
        lines += [f"  - split: {split}", f"    path: {pattern}"]
    folder.joinpath("README.md").write_text("\n".join([*lines, "---", ""]))


def write_sets(root, rng, count, files, jsonl=False, **options):
    """Copies of both repositories, below `root`."""
    write_split(root / CNN / "3.0.0", "train", cnn_rows(rng, count), CNN_SCHEMA, files, jsonl, **options)
    for split in SPLITS + ["multilingual_ja"]:
        rows = nemotron_rows(rng, split, count)
        write_split(root / NEMOTRON / "data", split, rows, NEMOTRON_SCHEMA, files, jsonl, **options)
    # Only Parquet counts for `datasets`.
    write_card(root / CNN, "3.0.0", [("train", "3.0.0/train-*.parquet")])
    write_card(root / NEMOTRON, "default", [(s, f"data/{s}-*.parquet") for s in SPLITS + ["multilingual_ja"]])


def modelopt_texts(root, name, count):
    from modelopt.torch.utils.dataset_utils import get_dataset_samples

    return get_dataset_samples(str(root / name), count)


def our_texts(list_texts, root, name, count):
    run = subprocess.run([list_texts, str(root / name), str(count)], capture_output=True)
    if b"no calibration rows" in run.stderr:
        return []
    run.check_returncode()
    return json.loads(run.stdout)


def compare(list_texts):
    encodings = [
        {"compression": "snappy"},
        {"compression": "zstd", "row_group_size": 7, "data_page_version": "2.0"},
        {"compression": "gzip", "use_dictionary": False, "data_page_size": 200},
        {"compression": "none", "version": "1.0", "column_encoding": {"uuid": "DELTA_BYTE_ARRAY"},
         "use_dictionary": ["license"]},
        {"compression": "brotli", "store_schema": False},
    ]
    compared = 0
    for seed, options in enumerate(encodings):
        with tempfile.TemporaryDirectory() as folder:
            root, rng = Path(folder), random.Random(seed)
            cnn_options = {k: v for k, v in options.items() if k != "column_encoding"}
            cnn_options["use_dictionary"] = options.get("use_dictionary") is not False
            write_sets(root, rng, 300, 3, **(options if "column_encoding" not in options else cnn_options))
            for name in (CNN, NEMOTRON):
                for count in (1, 5, 64, 250):
                    theirs = modelopt_texts(root, name, count)
                    ours = our_texts(list_texts, root, name, count)
                    if theirs != ours:
                        sys.exit(f"{options}: {name}:{count} differs:\n{theirs}\n{ours}")
                    compared += len(theirs)
    print(f"{compared} texts equal ModelOpt's, in {len(encodings)} encodings")


def write_golden():
    shutil.rmtree(GOLDEN, ignore_errors=True)
    rng = random.Random(5)
    write_sets(GOLDEN, rng, 6, 2, jsonl=True)
    expected = [{"name": name, "count": count, "texts": modelopt_texts(GOLDEN, name, count)}
                for name, count in [(CNN, 1), (CNN, 6), (NEMOTRON, 3), (NEMOTRON, 11), (NEMOTRON, 24)]]
    for card in GOLDEN.glob("*/README.md"):
        card.unlink()
    (GOLDEN / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    other = pa.table({
        "input_ids": pa.array([[1, 2], None, None, None], pa.list_(pa.int32())),
        "text": pa.array([None, "ab", None, None], pa.large_string()),
        "messages": pa.array([None, None, [{"content": [{"type": "text", "text": "c"}], "n": 1.5},
                                           {"content": None, "n": 2.5}], None]),
        "prompt": pa.array([None, None, None, "d"], pa.string()),
        "weight": pa.array([0.5, 1.0, 1.5, 2.0])})
    pq.write_table(other, GOLDEN / "other.parquet")
    pq.write_table(pa.table({"body": ["a"]}), GOLDEN / "no_text.parquet")
    pq.write_table(pa.table({"text": [1.5]}), GOLDEN / "not_text.parquet")
    latin = pa.array([b"caf\xe9"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": latin}), GOLDEN / "latin1.parquet")


if __name__ == "__main__":
    if sys.argv[1:] == ["--golden"]:
        write_golden()
    elif len(sys.argv) == 2:
        compare(sys.argv[1])
    else:
        sys.exit(__doc__)
