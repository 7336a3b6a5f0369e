#!/usr/bin/env python3
"""Makes tests/ops/golden/decoder.json: what transformers' own modules make of small inputs.

    python3 -m venv venv && venv/bin/pip install transformers==5.23.0 torch==2.15.0
    venv/bin/python tools/make_decoder_golden.py tests/ops/golden/decoder.json

Rotary tables, norms, turned heads, routers, activations and attention. Numbers are F32, little-endian,
hexadecimal; those of BF16 modules are BF16's, widened.
"""
import json
import sys
from types import SimpleNamespace

import torch
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek_v3
from transformers.models.gemma3 import modeling_gemma3 as gemma3
from transformers.models.gemma4 import modeling_gemma4 as gemma4
from transformers.models.glm4_moe import modeling_glm4_moe as glm4_moe
from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss
from transformers.models.llama import modeling_llama as llama
from transformers.models.llama4 import modeling_llama4 as llama4
from transformers.models.mistral4 import modeling_mistral4 as mistral4
from transformers.models.mixtral import modeling_mixtral as mixtral
from transformers.models.qwen3 import modeling_qwen3 as qwen3
from transformers.models.qwen3_moe import modeling_qwen3_moe as qwen3_moe


def hexed(tensor):
    return tensor.detach().float().contiguous().numpy().astype("<f4").tobytes().hex()


def table(parameters, head_dim, length=131072):
    config = LlamaConfig(hidden_size=head_dim, num_attention_heads=1, head_dim=head_dim,
                         max_position_embeddings=length, rope_parameters=parameters)
    kind = parameters["rope_type"]
    if kind == "default":
        return llama.LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    return ROPE_INIT_FUNCTIONS[kind](config, "cpu")


def ropes():
    cases = {
        "default": ({"rope_type": "default", "rope_theta": 1e6}, 128),
        "small theta": ({"rope_type": "default", "rope_theta": 10000.0}, 64),
        "linear": ({"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}, 96),
        "dynamic": ({"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}, 128),
        "llama3": ({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, 128),
        "llama3 32": ({"rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
                       "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, 64),
        "yarn": ({"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
                  "original_max_position_embeddings": 32768}, 128),
        "yarn mscale": ({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "beta_fast": 32.0,
                         "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.707,
                         "original_max_position_embeddings": 4096}, 64),
        "yarn not truncated": ({"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0,
                                "beta_slow": 1.0, "truncate": False,
                                "original_max_position_embeddings": 4096}, 64),
        "yarn attention_factor": ({"rope_type": "yarn", "rope_theta": 10000.0, "factor": 2.0, "beta_fast": 64.0,
                                   "beta_slow": 2.0, "attention_factor": 1.3,
                                   "original_max_position_embeddings": 2048}, 80),
    }
    positions = [100, 511]
    made = []
    for name, (parameters, dims) in cases.items():
        frequencies, factor = table(parameters, dims)
        angles = torch.tensor(positions, dtype=torch.float32)[:, None] * frequencies[None]
        made.append({"name": name, "parameters": parameters, "dims": dims, "factor": factor,
                     "frequencies": hexed(frequencies), "positions": positions,
                     "cos": hexed(angles.cos() * factor), "sin": hexed(angles.sin() * factor)})
    return made


def norms():
    width, eps, made = 72, 1e-5, []
    kinds = {"rounded_times": llama.LlamaRMSNorm, "plus_one": gemma3.Gemma3RMSNorm, "times": gemma4.Gemma4RMSNorm}
    for use, kind in kinds.items():
        for dtype in (torch.float32, torch.bfloat16):
            module = kind(width, eps=eps).to(dtype)
            with torch.no_grad():
                module.weight.copy_(1 + 0.4 * torch.randn(width))
            x = (torch.randn(4, width) * 3).to(dtype)
            made.append({"use": use, "bf16": dtype == torch.bfloat16, "width": width, "eps": eps, "x": hexed(x),
                         "weight": hexed(module.weight), "y": hexed(module(x))})
    return made


def turned_heads():
    tokens, heads, width, made = 5, 3, 24, []
    for pairing, dims, normed in (("halves", 24, True), ("halves", 12, False), ("interleaved", 24, False)):
        x = torch.randn(1, tokens, heads, width)
        norm = qwen3.Qwen3RMSNorm(width, eps=1e-6)
        with torch.no_grad():
            norm.weight.copy_(1 + 0.4 * torch.randn(width))
        frequencies, _ = table({"rope_type": "default", "rope_theta": 10000.0}, dims)
        angles = torch.arange(tokens).float()[:, None] * frequencies[None]
        both = torch.cat([angles, angles], dim=-1)[None]
        q = (norm(x) if normed else x).transpose(1, 2)
        apply = glm4_moe.apply_rotary_pos_emb if pairing == "halves" else deepseek_v3.apply_rotary_pos_emb_interleave
        y = apply(q, q, both.cos(), both.sin())[0].transpose(1, 2)
        if pairing == "interleaved":  # it lays out all first channels of the pairs, then all second ones
            y = y.reshape(1, tokens, heads, 2, width // 2).transpose(3, 4).reshape(1, tokens, heads, width)
        made.append({"pairing": pairing, "dims": dims, "tokens": tokens, "heads": heads, "width": width,
                     "eps": 1e-6, "weight": hexed(norm.weight) if normed else "", "x": hexed(x), "y": hexed(y)})
    return made


def router_cases():
    """Each module with how our spec says it."""
    base = dict(num_experts=16, num_local_experts=16, num_experts_per_tok=4, hidden_size=16, norm_topk_prob=True,
                routed_scaling_factor=1.0, n_group=1, topk_group=1)
    grouped = dict(base, n_group=4, topk_group=2, routed_scaling_factor=2.5)
    return [
        ("qwen3_moe", qwen3_moe.Qwen3MoeTopKRouter, base, {"score": "softmax"}),
        ("qwen3_moe not normalized", qwen3_moe.Qwen3MoeTopKRouter, dict(base, norm_topk_prob=False),
         {"score": "softmax", "renormalize": False}),
        ("mixtral", mixtral.MixtralTopKRouter, dict(base, num_experts_per_tok=2), {"score": "softmax"}),
        ("deepseek_v3", deepseek_v3.DeepseekV3TopkRouter, grouped, {"score": "sigmoid", "eps": 1e-20}),
        ("glm4_moe", glm4_moe.Glm4MoeTopkRouter, dict(base, routed_scaling_factor=1.8),
         {"score": "sigmoid", "eps": 1e-20}),
        ("mistral4", mistral4.Mistral4TopkRouter, grouped, {"score": "softmax", "eps": 1e-20}),
        ("gpt_oss", gpt_oss.GptOssTopKRouter, base, {"score": "softmax", "score_chosen": True, "renormalize": False}),
        ("llama4", llama4.Llama4Router, dict(base, num_experts_per_tok=1),
         {"score": "sigmoid", "score_chosen": True, "renormalize": False}),
    ]


def routers():
    made = []
    for name, kind, fields, spec in router_cases():
        module = kind(SimpleNamespace(**fields))
        bias = torch.zeros(16)
        with torch.no_grad():
            module.weight.copy_(torch.eye(16))  # so that logits are what goes in
            if hasattr(module, "e_score_correction_bias"):
                bias = 0.3 * torch.randn(16)
                module.e_score_correction_bias.copy_(bias)
        logits = torch.randn(12, 16) * 2
        out = module(logits)
        weights, chosen = out[1], out[2] if len(out) == 3 else None
        if chosen is None:  # llama4 gives scores of all experts, 0 where not chosen
            weights, chosen = out[0].topk(fields["num_experts_per_tok"], dim=-1)
        order = (torch.sigmoid(logits) + bias if spec["score"] == "sigmoid" else logits).gather(1, chosen).argsort(
            dim=1, descending=True)
        made.append({"name": name, "spec": dict(spec, experts=16, top=fields["num_experts_per_tok"],
                                                groups=fields["n_group"], top_groups=fields["topk_group"],
                                                scale=fields["routed_scaling_factor"]),
                     "logits": hexed(logits), "bias": hexed(bias), "chosen": chosen.gather(1, order).tolist(),
                     "weights": hexed(weights.gather(1, order))})
    return made


def activations():
    gate, up = torch.randn(60) * 4, torch.randn(60)
    gate[:4] = torch.tensor([0.0, -30.0, 30.0, -1e-3])
    return {"gate": hexed(gate), "up": hexed(up), "silu": hexed(ACT2FN["silu"](gate) * up),
            "gelu_tanh": hexed(ACT2FN["gelu_pytorch_tanh"](gate) * up), "relu2": hexed(ACT2FN["relu2"](gate))}


def attentions():
    tokens, heads, kv_heads, width, made = 13, 6, 2, 8, []
    q, k, v = (torch.randn(1, count, tokens, width) * 1.5 for count in (heads, kv_heads, kv_heads))
    sinks = torch.randn(heads) * 2
    rows, columns = torch.arange(tokens)[:, None], torch.arange(tokens)[None]
    for name, window, with_sinks in (("causal", 0, False), ("window", 5, False), ("sinks", 0, True),
                                     ("window and sinks", 5, True)):
        seen = (columns <= rows) & ((columns > rows - window) if window else True)
        mask = torch.zeros(tokens, tokens).masked_fill(~seen, float("-inf"))[None, None]
        module = SimpleNamespace(num_key_value_groups=heads // kv_heads, sinks=sinks, training=False)
        forward = (gpt_oss if with_sinks else qwen3).eager_attention_forward
        out, _ = forward(module, q, k, v, mask, width**-0.5)
        made.append({"name": name, "window": window, "sinks": hexed(sinks) if with_sinks else "", "out": hexed(out)})
    inputs = {name: hexed(x.transpose(1, 2)) for name, x in (("q", q), ("k", k), ("v", v))}
    return dict(inputs, tokens=tokens, heads=heads, kv_heads=kv_heads, width=width, cases=made)


def main(path):
    torch.manual_seed(7)
    with torch.no_grad():
        golden = {"rope": ropes(), "norm": norms(), "heads": turned_heads(), "router": routers(),
                  "activation": activations(), "attention": attentions()}
    with open(path, "w") as file:
        json.dump(golden, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
