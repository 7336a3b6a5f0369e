#!/usr/bin/env python3
"""Turns a set of chats into JSON lines of text, once, by the model's own chat template.

usage: render_chats.py MODEL CHATS OUT [--key messages] [--max-records N] [--generation-prompt]

    python3 -m venv venv && venv/bin/pip install transformers==5.20.2 jinja2
    venv/bin/python tools/render_chats.py /models/Qwen3-8B chats.jsonl texts.jsonl
    nibblecast quantize ... --calib texts.jsonl --bos never

CHATS holds JSON lines, or one JSON array, of objects with `messages` ([{"role", "content"}]) or `conversations` ([{"from",
"value"}], ShareGPT). MODEL has a tokenizer with a chat template, or the release's own script, encoding/encoding*.py with
encode_messages(), as DeepSeek's have. Templates write a BOS where the model wants one, which is why `--bos never` goes with them.
A record that the template refuses ends the tool, with its number. nibblecast itself joins the contents of `messages` by
newlines, without roles.
"""
import argparse
import importlib.util
import inspect
import json
import pathlib
import sys

ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system", "tool": "tool"}


def records(path):
    with open(path, encoding="utf-8") as file:
        first = file.read(1)
        file.seek(0)
        if first == "[":
            yield from json.load(file)
            return
        for line in file:
            if line.strip():
                yield json.loads(line)


def messages_of(record, key):
    if key in record:
        return record[key]
    if "conversations" in record:
        return [{"role": ROLES.get(turn["from"], turn["from"]), "content": turn["value"]} for turn in record["conversations"]]
    raise ValueError(f"neither '{key}' nor 'conversations'; found {', '.join(record)}")


def release_script(model):
    """encode_messages() of the release's script; None without one."""
    for path in sorted((model / "encoding").glob("encoding*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, "encode_messages"):
            return module.encode_messages
    return None


def renderer(model, generation_prompt):
    encode = release_script(model)
    if encode is not None:
        # Without thinking, as the chats of a calibration set are.
        options = {"thinking_mode": "chat"} if "thinking_mode" in inspect.signature(encode).parameters else {}
        return lambda messages: encode(messages, **options)
    from transformers import AutoTokenizer  # heavy, and not needed above
    tokenizer = AutoTokenizer.from_pretrained(model)
    if not tokenizer.chat_template:
        sys.exit(f"{model}: the tokenizer has no chat template, and there is no encoding/encoding*.py")
    return lambda messages: tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation_prompt)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("chats")
    parser.add_argument("out")
    parser.add_argument("--key", default="messages")
    parser.add_argument("--max-records", type=int)
    parser.add_argument("--generation-prompt", action="store_true", help="end with what asks the model to answer")
    options = parser.parse_args()
    render = renderer(options.model, options.generation_prompt)
    count = 0
    with open(options.out, "x", encoding="utf-8") as out:
        for number, record in enumerate(records(options.chats)):
            if options.max_records is not None and count == options.max_records:
                break
            try:
                text = render(messages_of(record, options.key))
            except Exception as error:  # a template may raise anything
                sys.exit(f"{options.chats}: record {number}: {error}")
            out.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            count += 1
    print(f"{count} texts in {options.out}")


if __name__ == "__main__":
    main()
