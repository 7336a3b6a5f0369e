#!/usr/bin/env python3
"""Makes tests/model/golden/clamp-and-sliding: a tiny DeepSeek-V4 checkpoint and what transformers makes of it.

It covers what few checkpoints of that size do: SwiGLU's clamp is active (gates above, ups on both sides of
swiglu_limit, in routed and shared experts), and layer 1 is sliding (theta 10000, no YaRN), with one row
shorter and one longer than the window. Layer 0 is CSA, hash-routed, with an indexer that selects.

Weights are random in their stored form (F8_E4M3 and MXFP4 with E8M0 scales, BF16, F32), so dequantizing them
is exact; transformers runs on the dequantized values in float32 on the CPU.

    python3 -m venv venv && venv/bin/pip install torch==2.11.0 transformers==5.17.0 safetensors==0.8.0 numpy==2.4.6
    venv/bin/python tools/make_forward_golden.py tests/model/golden/clamp-and-sliding
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from transformers.models.deepseek_v4 import DeepseekV4Config, DeepseekV4ForCausalLM

D, LAYERS, HEADS, HEAD_DIM, ROPE = 64, 2, 4, 32, 16
Q_RANK, O_GROUPS, O_RANK, INTER, EXPERTS, TOP_K = 32, 2, 32, 64, 4, 2
INDEX_HEADS, INDEX_DIM, VOCAB, STREAMS, WINDOW, LIMIT = 2, 32, 96, 4, 8, 10.0
RATIOS = [4, 0]
ROW_LENGTHS = [5, 24]

CONFIG = {
    "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4",
    "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 1,
    "compress_ratios": RATIOS, "rope_theta": 10000, "compress_rope_theta": 160000,
    "rope_scaling": {"type": "yarn", "factor": 16, "original_max_position_embeddings": 64,
                     "beta_fast": 32, "beta_slow": 1},
    "max_position_embeddings": 1024, "expert_dtype": "fp4", "hc_eps": 1e-6, "hc_mult": STREAMS,
    "hc_sinkhorn_iters": 20, "head_dim": HEAD_DIM, "hidden_act": "silu", "hidden_size": D,
    "index_head_dim": INDEX_DIM, "index_n_heads": INDEX_HEADS, "index_topk": 2, "moe_intermediate_size": INTER,
    "n_routed_experts": EXPERTS, "n_shared_experts": 1, "norm_topk_prob": True, "num_attention_heads": HEADS,
    "num_experts_per_tok": TOP_K, "num_hash_layers": 1, "num_hidden_layers": LAYERS, "num_key_value_heads": 1,
    "num_nextn_predict_layers": 0, "o_groups": O_GROUPS, "o_lora_rank": O_RANK, "q_lora_rank": Q_RANK,
    "qk_rope_head_dim": ROPE, "rms_norm_eps": 1e-6, "routed_scaling_factor": 1.5, "scoring_func": "sqrtsoftplus",
    "sliding_window": WINDOW, "swiglu_limit": LIMIT, "tie_word_embeddings": False, "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16", "vocab_size": VOCAB,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "scale_fmt": "ue8m0", "weight_block_size": [128, 128]},
}

E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)


class Weights:
    """Stored tensors by official name, and their values in float32."""

    def __init__(self, seed):
        self.random = np.random.Generator(np.random.PCG64(seed))
        self.stored, self.values = {}, {}

    def put(self, name, array, dtype=torch.float32):
        tensor = torch.from_numpy(np.asarray(array)).to(dtype).contiguous()
        self.stored[name] = tensor
        self.values[name] = tensor.float() if tensor.is_floating_point() else tensor

    def uniform(self, name, shape, center, half_width, dtype=torch.float32):
        unit = self.random.uniform(-1, 1, shape).astype(np.float32)
        self.put(name, center + half_width * unit, dtype)

    def matrix(self, name, shape, gain, dtype=torch.bfloat16):
        self.uniform(name, shape, 0, gain * np.sqrt(3 / shape[1]), dtype)

    def scales(self, shape, rms, fan_in, gain, spread):
        exponent = int(np.round(np.log2(gain / (rms * np.sqrt(fan_in)))))
        return (127 + exponent + self.random.integers(-spread, spread + 1, shape)).astype(np.uint8)

    def fp8(self, module, out, fan_in, gain=1.0):  # one 128x128 tile covers it
        normal = self.random.normal(0, 100, (out, fan_in)).clip(-448, 448).astype(np.float32)
        codes = torch.from_numpy(normal).to(torch.float8_e4m3fn)
        scale = self.scales((1, 1), 100, fan_in, gain, spread=0)
        self.stored[module + ".weight"] = codes
        self.stored[module + ".scale"] = torch.from_numpy(scale).view(torch.float8_e8m0fnu)
        self.values[module] = codes.float() * float(2.0 ** (int(scale[0, 0]) - 127))

    def mxfp4(self, module, out, fan_in, gain=1.0):
        nibbles = self.random.integers(0, 16, (out, fan_in)).astype(np.uint8)
        packed = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)
        scale = self.scales((out, fan_in // 32), 2.926, fan_in, gain, spread=1)
        self.stored[module + ".weight"] = torch.from_numpy(packed.view(np.int8))
        self.stored[module + ".scale"] = torch.from_numpy(scale).view(torch.float8_e8m0fnu)
        factor = np.exp2(scale.astype(np.float32) - 127).repeat(32, axis=1)
        self.values[module] = torch.from_numpy(E2M1[nibbles] * factor)


def add_compressor(w, prefix, dim):
    w.uniform(prefix + "ape", (4, 2 * dim), 0, 0.5)
    w.matrix(prefix + "wkv.weight", (2 * dim, D), 1)
    w.matrix(prefix + "wgate.weight", (2 * dim, D), 1)
    w.uniform(prefix + "norm.weight", (dim,), 1, 0.25, torch.bfloat16)


def add_hyper_connection(w, name, outputs, scales):
    w.matrix(name + "_fn", (outputs, STREAMS * D), 1, torch.float32)
    w.uniform(name + "_base", (outputs,), 0, 1)
    w.uniform(name + "_scale", (scales,), 1, 0.25)


def add_layer(w, n):
    p = f"layers.{n}."
    for norm, size in [("attn_norm", D), ("ffn_norm", D), ("attn.q_norm", Q_RANK), ("attn.kv_norm", HEAD_DIM)]:
        w.uniform(p + norm + ".weight", (size,), 1, 0.25, torch.bfloat16)
    add_hyper_connection(w, p + "hc_attn", (2 + STREAMS) * STREAMS, 3)
    add_hyper_connection(w, p + "hc_ffn", (2 + STREAMS) * STREAMS, 3)
    w.fp8(p + "attn.wq_a", Q_RANK, D)
    w.fp8(p + "attn.wq_b", HEADS * HEAD_DIM, Q_RANK)
    w.fp8(p + "attn.wkv", HEAD_DIM, D)
    w.fp8(p + "attn.wo_a", O_GROUPS * O_RANK, HEADS * HEAD_DIM // O_GROUPS)
    w.fp8(p + "attn.wo_b", D, O_GROUPS * O_RANK)
    w.uniform(p + "attn.attn_sink", (HEADS,), 0, 2)
    if RATIOS[n] == 4:
        add_compressor(w, p + "attn.compressor.", HEAD_DIM)
        add_compressor(w, p + "attn.indexer.compressor.", INDEX_DIM)
        w.fp8(p + "attn.indexer.wq_b", INDEX_HEADS * INDEX_DIM, Q_RANK)
        w.matrix(p + "attn.indexer.weights_proj.weight", (INDEX_HEADS, D), 1)
    w.matrix(p + "ffn.gate.weight", (EXPERTS, D), 1.5)
    if n < CONFIG["num_hash_layers"]:
        ids = np.stack([w.random.permutation(EXPERTS)[:TOP_K] for _ in range(VOCAB)])
        w.put(p + "ffn.gate.tid2eid", ids.astype(np.int64), torch.int64)
    else:
        w.uniform(p + "ffn.gate.bias", (EXPERTS,), 0, 0.1)
    # Gain 8: gates and ups of rms 8, about a fifth of them beyond the limit. w2 brings that down again.
    for prefix, linear in [("ffn.shared_experts", w.fp8)] + [(f"ffn.experts.{e}", w.mxfp4) for e in range(EXPERTS)]:
        linear(f"{p}{prefix}.w1", INTER, D, 8)
        linear(f"{p}{prefix}.w3", INTER, D, 8)
        linear(f"{p}{prefix}.w2", D, INTER, 0.03)


def make_weights():
    w = Weights(seed=20260424)
    w.uniform("embed.weight", (VOCAB, D), 0, 1.7, torch.bfloat16)
    w.matrix("head.weight", (VOCAB, D), 1)
    w.uniform("norm.weight", (D,), 1, 0.25, torch.bfloat16)
    add_hyper_connection(w, "hc_head", STREAMS, 1)
    for n in range(LAYERS):
        add_layer(w, n)
    return w


def transformers_state(values):
    """Values under transformers' names."""
    state = {"model.embed_tokens.weight": values["embed.weight"], "lm_head.weight": values["head.weight"],
             "model.norm.weight": values["norm.weight"]}
    for part in ("fn", "base", "scale"):
        state[f"model.hc_head.hc_{part}"] = values[f"hc_head_{part}"]
    for n in range(LAYERS):
        p, q = f"layers.{n}.", f"model.layers.{n}."
        names = {"attn_norm.weight": "input_layernorm.weight", "ffn_norm.weight": "post_attention_layernorm.weight",
                 "attn.wq_a": "self_attn.q_a_proj.weight", "attn.q_norm.weight": "self_attn.q_a_norm.weight",
                 "attn.wq_b": "self_attn.q_b_proj.weight", "attn.wkv": "self_attn.kv_proj.weight",
                 "attn.kv_norm.weight": "self_attn.kv_norm.weight", "attn.wo_a": "self_attn.o_a_proj.weight",
                 "attn.wo_b": "self_attn.o_b_proj.weight", "attn.attn_sink": "self_attn.sinks",
                 "ffn.gate.weight": "mlp.gate.weight", "ffn.shared_experts.w1": "mlp.shared_experts.gate_proj.weight",
                 "ffn.shared_experts.w3": "mlp.shared_experts.up_proj.weight",
                 "ffn.shared_experts.w2": "mlp.shared_experts.down_proj.weight"}
        if n < CONFIG["num_hash_layers"]:
            names["ffn.gate.tid2eid"] = "mlp.gate.tid2eid"
        else:
            names["ffn.gate.bias"] = "mlp.gate.e_score_correction_bias"
        for site in ("attn", "ffn"):
            names |= {f"hc_{site}_{part}": f"{site}_hc.{part}" for part in ("fn", "base", "scale")}
        if RATIOS[n] == 4:
            for ours, theirs in [("attn.compressor.", "self_attn.compressor."),
                                 ("attn.indexer.compressor.", "self_attn.compressor.indexer.")]:
                names |= {ours + "ape": theirs + "position_bias", ours + "wkv.weight": theirs + "kv_proj.weight",
                          ours + "wgate.weight": theirs + "gate_proj.weight",
                          ours + "norm.weight": theirs + "kv_norm.weight"}
            names["attn.indexer.wq_b"] = "self_attn.compressor.indexer.q_b_proj.weight"
            names["attn.indexer.weights_proj.weight"] = "self_attn.compressor.indexer.scorer.weights_proj.weight"
        for ours, theirs in names.items():
            state[q + theirs] = values[p + ours]
        expert = lambda e, k: values[f"{p}ffn.experts.{e}.w{k}"]
        state[q + "mlp.experts.gate_up_proj"] = torch.stack(
            [torch.cat([expert(e, 1), expert(e, 3)]) for e in range(EXPERTS)])
        state[q + "mlp.experts.down_proj"] = torch.stack([expert(e, 2) for e in range(EXPERTS)])
    return state


def load_model(values):
    source = {k: v for k, v in CONFIG.items() if k not in ("quantization_config", "architectures", "torch_dtype")}
    model = DeepseekV4ForCausalLM._from_config(DeepseekV4Config(**source), attn_implementation="eager",
                                               experts_implementation="eager", dtype=torch.float32).float().eval()
    missing, unexpected = model.load_state_dict(transformers_state(values), strict=False)
    assert not unexpected, unexpected
    assert all("inv_freq" in name for name in missing), missing
    theta = 1.0 / 10000.0 ** (torch.arange(0, ROPE, 2).float() / ROPE)
    assert torch.allclose(model.model.rotary_emb.main_inv_freq, theta, rtol=1e-6), "sliding layers: theta 10000"
    assert not torch.allclose(model.model.rotary_emb.compress_inv_freq, theta, rtol=1e-2)
    return model


class Recorder:
    """Inputs and outputs of the modules that the checks below look at."""

    def __init__(self, model):
        self.inputs, self.outputs = {}, {}
        for name, module in model.named_modules():
            if name.startswith("model.layers."):
                module.register_forward_hook(self.hook(name), with_kwargs=True)

    def hook(self, name):
        def record(module, args, kwargs, output):
            self.inputs[name], self.outputs[name] = args[0] if args else kwargs.get("hidden_states"), output
        return record


def close(a, b, tolerance=1e-5):
    return bool((a - b).norm() <= tolerance * b.norm())


def swiglu(x, gate, up, down, clamp):
    g, u = x @ gate.T, x @ up.T
    if clamp:
        g, u = g.clamp(max=LIMIT), u.clamp(-LIMIT, LIMIT)
    return (torch.nn.functional.silu(g) * u) @ down.T


def check_clamp(values, recorder, counts):
    """Shared and routed experts must be what the clamped formula gives and not what the plain one gives."""
    for n in range(LAYERS):
        mlp = f"model.layers.{n}.mlp"
        x = recorder.inputs[mlp + ".shared_experts"].reshape(-1, D)
        _, weights, indices = recorder.outputs[mlp + ".gate"]
        w = lambda prefix: [values[f"layers.{n}.ffn.{prefix}.w{k}"] for k in (1, 3, 2)]

        def routed(clamp):
            out = torch.zeros_like(x)
            for e in range(EXPERTS):
                token, slot = torch.where(indices == e)
                if len(token):
                    out[token] += weights[token, slot, None] * swiglu(x[token], *w(f"experts.{e}"), clamp)
            return out

        shared = recorder.outputs[mlp + ".shared_experts"].reshape(-1, D)
        assert close(shared, swiglu(x, *w("shared_experts"), True))
        assert not close(shared, swiglu(x, *w("shared_experts"), False), 1e-2)
        from_experts = recorder.outputs[mlp + ".experts"].reshape(-1, D)
        assert close(from_experts, routed(True))
        assert not close(from_experts, routed(False), 1e-2)
        for kind, prefix, rows in [("shared", "shared_experts", x)] + [
                ("routed", f"experts.{e}", x[(indices == e).any(-1)]) for e in range(EXPERTS)]:
            gate, up, _ = w(prefix)
            g, u = rows @ gate.T, rows @ up.T
            counts[kind] += np.array([(g > LIMIT).sum(), (g < -LIMIT).sum(), (u.abs() > LIMIT).sum(), g.numel()])


def check_hyper_connection(recorder):
    """The streams after attention are post[k] * y + sum over j of comb[j][k] * X[j], and not the transpose."""
    for n in range(LAYERS):
        layer = f"model.layers.{n}"
        post, comb, _ = recorder.outputs[layer + ".attn_hc"]
        x, y = recorder.inputs[layer + ".attn_hc"], recorder.outputs[layer + ".self_attn"][0]
        after = recorder.inputs[layer + ".ffn_hc"]
        own = post[..., None] * y[:, :, None, :]
        assert close(after, own + torch.einsum("bsjk,bsjd->bskd", comb, x))
        # In layer 0 the four streams are still equal, and rows and columns of comb both sum to 1.
        assert n == 0 or not close(after, own + torch.einsum("bskj,bsjd->bskd", comb, x), 1e-2)


def run_row(model, values, ids, counts):
    recorder = Recorder(model)
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    check_clamp(values, recorder, counts)
    check_hyper_connection(recorder)
    log_p = torch.log_softmax(logits.double(), dim=-1)
    golden = {"input_ids": torch.tensor(ids, dtype=torch.int32), "logits": logits,
              "nll": -log_p[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].float()}
    for n in range(LAYERS):
        golden[f"layers.{n}.streams"] = recorder.outputs[f"model.layers.{n}"][0]
        golden[f"layers.{n}.experts_sorted"] = recorder.outputs[f"model.layers.{n}.mlp.gate"][2].sort(-1).values.int()
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_hooks_with_kwargs.clear()
    return golden


def main():
    torch.set_num_threads(1)
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    weights = make_weights()
    model = load_model(weights.values)
    golden, counts = {}, {"routed": np.zeros(4, int), "shared": np.zeros(4, int)}
    random = np.random.Generator(np.random.PCG64(7))
    for row, length in enumerate(ROW_LENGTHS):
        ids = [int(i) for i in random.integers(0, VOCAB, length)]
        for name, tensor in run_row(model, weights.values, ids, counts).items():
            golden[f"row{row}.{name}"] = tensor.contiguous()
    for kind, (above, below, ups, total) in counts.items():
        print(f"{kind}: of {total}, gates above {LIMIT}: {above}, gates below -{LIMIT}: {below}, |ups| above: {ups}")
        assert above and below and ups
    save_file(weights.stored, out / "model.safetensors")
    save_file(golden, out / "golden.safetensors")
    (out / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    for file in sorted(out.iterdir()):
        print(file, file.stat().st_size)


if __name__ == "__main__":
    main()
