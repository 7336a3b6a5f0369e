#!/usr/bin/env python3
"""Makes tiny Qwen3-Next and Qwen3.5 checkpoints, what transformers makes of rows of tokens, and what ModelOpt exports.

usage: make_hybrid_models.py OUT [--large] [--seed N] [--modelopt PRESET...]

OUT/FAMILY holds a checkpoint in the form of the releases (Qwen3.5 inside of a multimodal config, its experts stacked, with
tensors of a vision tower and a draft head, which pass through), calib.jsonl and eval.jsonl, oracle.json with transformers'
losses in float32 and, with --modelopt, modelopt-PRESET.json: of each tensor [dtype, shape] and, of a quantized one,
its sha256 and the value of a scalar, and hf_quant_config.json. ModelOpt runs on the text model, calibrated in float32; it exports it under the names of the release.
Weights are random in BF16, so that nothing is trivial: norms and biases too.

tests/model/golden holds what this makes without --large: a few tens of kB a family. tools/check_modelopt_families.py reads
any such folder.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers==5.23.0 safetensors numpy
    venv/bin/pip install --no-deps nvidia-modelopt==0.48.0rc1 ninja nvidia-ml-py omegaconf antlr4-python3-runtime pulp scipy
    venv/bin/python tools/make_hybrid_models.py tests/model/golden --modelopt nvfp4
"""
import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file

SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=512, bos_token_id=1, eos_token_id=2,
             linear_key_head_dim=8, linear_value_head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
             layer_types=["linear_attention", "full_attention"])
SMALL_MOE = dict(moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, shared_expert_intermediate_size=32)
LARGE = dict(SMALL, vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=4, head_dim=32,
             linear_key_head_dim=32, linear_value_head_dim=32, linear_num_value_heads=8,
             layer_types=["linear_attention"] * 3 + ["full_attention"])
LARGE_MOE = dict(moe_intermediate_size=64, num_experts=8, num_experts_per_tok=2, shared_expert_intermediate_size=96)
ROPE = dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25, mrope_interleaved=True)
PRESETS = ("nvfp4", "nvfp4_mlp_only", "nvfp4_experts_only")


def families(large):
    sizes, moe = (LARGE, LARGE_MOE) if large else (SMALL, SMALL_MOE)
    section = [2, 1, 1] if large else [1, 1, 0]
    rope = dict(rope_parameters=dict(ROPE, mrope_section=section))
    next_rope = dict(rope_parameters=dict(rope_type="default", rope_theta=1e7, partial_rotary_factor=0.25))
    return {
        "qwen3_next": ("Qwen3Next", "Qwen3NextConfig",
                       dict(sizes, **moe, **next_rope, decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True)),
        "qwen3_5": ("Qwen3_5", "Qwen3_5TextConfig", dict(sizes, **rope)),
        "qwen3_5_moe": ("Qwen3_5Moe", "Qwen3_5MoeTextConfig", dict(sizes, **moe, **rope)),
    }


def make_model(kind, config_class, fields, seed):
    config = getattr(transformers, config_class)(**fields)
    config._attn_implementation = "eager"
    model = getattr(transformers, kind + "ForCausalLM")(config).float().eval()
    generator = torch.Generator().manual_seed(seed)

    def normal(shape, deviation):
        return deviation * torch.randn(shape, generator=generator)

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("A_log"):
                weight.copy_(torch.rand(weight.shape, generator=generator) * 1.5)
            elif "norm" in name:
                weight.add_(normal(weight.shape, 0.3))
            elif weight.ndim == 1:
                weight.copy_(normal(weight.shape, 0.3))
            else:
                weight.copy_(normal(weight.shape, 1.0 if "embed" in name else 0.8 / weight.shape[-1] ** 0.5))
            weight.copy_(weight.bfloat16())
    return model


def release_tensors(name, model, seed):
    """As the releases name and stack them."""
    tensors = {}
    for key, weight in model.state_dict().items():
        weight = weight.bfloat16().contiguous()
        if name == "qwen3_next" and ".experts." in key:
            prefix, _, stack = key.rpartition(".")
            parts = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}[stack]
            for expert, own in enumerate(weight):
                for part, rows in zip(parts, own.chunk(len(parts))):
                    tensors[f"{prefix}.{expert}.{part}.weight"] = rows.contiguous()
            continue
        if name != "qwen3_next" and key.startswith("model."):
            key = "model.language_model." + key[len("model."):]
        tensors[key] = weight
    generator = torch.Generator().manual_seed(seed + 1)
    extra = {"mtp.fc.weight": (8, 16)}
    if name != "qwen3_next":
        extra["model.visual.patch_embed.proj.weight"] = (4, 3, 2, 2, 2)
    for key, shape in extra.items():
        tensors[key] = torch.randn(shape, generator=generator).bfloat16()
    return tensors


def release_config(name, kind, model):
    config = model.config.to_dict()
    config.update(dtype="bfloat16", architectures=[kind + "ForCausalLM"])
    config.pop("_attn_implementation", None)
    if name == "qwen3_next":
        return config
    config.pop("architectures")
    return {"architectures": [kind + "ForConditionalGeneration"], "model_type": name, "text_config": config,
            "tie_word_embeddings": False, "vision_config": {"model_type": name, "depth": 0}}


def write_rows(path, rows):
    path.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))


def oracle(model, rows):
    made = []
    for row in rows:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0].double()
        logprobs = torch.log_softmax(logits, dim=-1)
        losses = -logprobs[:-1].gather(1, torch.tensor(row[1:])[:, None])
        made.append({"tokens": len(row), "nll_sum": losses.sum().item(), "last_logprobs_head": logprobs[-1, :8].tolist(),
                     "last_argmax": int(logits[-1].argmax())})
    return {"transformers": transformers.__version__, "rows": made}


def modelopt_export(model, release, rows, preset):
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint

    config = {"nvfp4": mtq.NVFP4_DEFAULT_CFG, "nvfp4_mlp_only": mtq.NVFP4_MLP_ONLY_CFG,
              "nvfp4_experts_only": mtq.NVFP4_EXPERTS_ONLY_CFG}[preset]

    def calibrate(quantized):
        for row in rows:
            quantized(input_ids=torch.tensor([row]), use_cache=False)

    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        mtq.quantize(model, config, calibrate)
        export_hf_checkpoint(model, dtype=torch.float32, export_dir=folder)
        tensors = {}
        for path in Path(folder).glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                for key in file.keys():
                    weight = file.get_tensor(key)
                    entry = [file.get_slice(key).get_dtype(), list(weight.shape),
                             hashlib.sha256(weight.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()]
                    if weight.numel() == 1:
                        entry.append(weight.float().item())
                    tensors[key] = entry
        hf = json.loads((Path(folder) / "hf_quant_config.json").read_text())
    # Of what is not quantized the source decides; ModelOpt's model was float32.
    quantized = {key[:-len("_scale")] for key in tensors if key.endswith(".weight_scale")}
    scales = (".weight_scale", ".weight_scale_2", ".input_scale")
    kept = {key: entry if key in quantized or key.endswith(scales) else entry[:2] for key, entry in tensors.items()}
    for key, weight in release.items():
        if not key.endswith((".experts.gate_up_proj", ".experts.down_proj")):
            kept.setdefault(key, ["BF16", list(weight.shape)])
    return {"made_by": f"nvidia-modelopt, transformers {transformers.__version__}, torch {torch.__version__}, float32, CPU",
            "tensors": dict(sorted(kept.items())), "hf_quant_config": hf}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--modelopt", nargs="+", default=[], choices=PRESETS, metavar="PRESET")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, (kind, config_class, fields) in families(arguments.large).items():
        def model():
            return make_model(kind, config_class, fields, arguments.seed)
        folder = arguments.out / name
        folder.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(arguments.seed + 2)

        def row(length):
            return torch.randint(3, fields["vocab_size"], (length,), generator=generator).tolist()
        calibration = [row(96) for _ in range(16)] if arguments.large else [row(24) for _ in range(4)]
        evaluation = [row(length) for length in ((16, 100, 256, 300) if arguments.large else (3, 20, 70))]
        write_rows(folder / "calib.jsonl", calibration)
        write_rows(folder / "eval.jsonl", evaluation)
        release = release_tensors(name, model(), arguments.seed)
        save_file(release, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(release_config(name, kind, model()), indent=1, sort_keys=True) + "\n")
        (folder / "oracle.json").write_text(json.dumps(oracle(model(), evaluation)) + "\n")
        for preset in arguments.modelopt:
            if preset == "nvfp4_experts_only" and "num_experts" not in fields:
                continue  # ModelOpt refuses: nothing would be quantized
            export = modelopt_export(model(), release, calibration, preset)
            (folder / f"modelopt-{preset}.json").write_text(json.dumps(export, separators=(",", ":")) + "\n")
        print(name, sum(path.stat().st_size for path in folder.iterdir()), "bytes")


main()
