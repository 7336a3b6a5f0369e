#!/usr/bin/env python3
"""Makes tiny checkpoints of families without a forward pass, and what ModelOpt exports of them.

usage: make_weights_only_models.py OUT [FAMILY...]

OUT/FAMILY holds a checkpoint of random BF16 weights as transformers saves it, and modelopt-nvfp4.json: of each tensor of
ModelOpt's export [dtype, shape, sha256], scales of inputs aside. tests/model/golden holds what this makes.

    python3 -m venv venv && venv/bin/pip install torch==2.15.0 transformers==5.23.0 numpy safetensors requests
    venv/bin/pip install --no-deps nvidia-modelopt==0.48.0rc1 ninja nvidia-ml-py omegaconf pulp scipy pydantic tqdm
    venv/bin/python tools/make_weights_only_models.py tests/model/golden
"""
import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import torch
import transformers

SIZES = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
             max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)
FAMILIES = {
    "gemma3_text": ("Gemma3", "Gemma3TextConfig", dict(SIZES, intermediate_size=48, sliding_window=8)),
    "gemma4_text": ("Gemma4", "Gemma4TextConfig",
                    dict(SIZES, intermediate_size=48, num_hidden_layers=4, global_head_dim=32, num_global_key_value_heads=1,
                         attention_k_eq_v=True, enable_moe_block=True, num_experts=4, top_k_experts=2,
                         moe_intermediate_size=16, hidden_size_per_layer_input=16, vocab_size_per_layer_input=64,
                         num_kv_shared_layers=2, layer_types=["sliding_attention", "full_attention"] * 2)),
    "llama4_text": ("Llama4", "Llama4TextConfig",
                    dict(SIZES, intermediate_size=16, intermediate_size_mlp=48, num_local_experts=4, num_experts_per_tok=1,
                         interleave_moe_layer_step=2)),
    "nemotron_h": ("NemotronH", "NemotronHConfig",
                   dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_attention_heads=4, num_key_value_heads=2,
                        head_dim=16, layers_block_type=["linear_attention", "moe", "full_attention", "mlp"],
                        ssm_state_size=16, mamba_num_heads=4, mamba_head_dim=16, n_groups=2, conv_kernel=4, chunk_size=16,
                        n_routed_experts=4, moe_intermediate_size=16, moe_shared_expert_intermediate_size=32,
                        moe_latent_size=16, num_experts_per_tok=2, bos_token_id=1, eos_token_id=2)),
}


def randomize(model, generator):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() < 2:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * 0.5 / parameter.shape[-1] ** 0.5)


def digests(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        header_bytes = int.from_bytes(path.read_bytes()[:8], "little")
        data = path.read_bytes()
        for name, tensor in json.loads(data[8:8 + header_bytes]).items():
            if name == "__metadata__" or name.endswith("input_scale"):
                continue
            begin, end = (8 + header_bytes + offset for offset in tensor["data_offsets"])
            found[name] = [tensor["dtype"], tensor["shape"], hashlib.sha256(data[begin:end]).hexdigest()]
    return found


def make(family, out):
    import modelopt
    import modelopt.torch.quantization as mtq
    from modelopt.torch.export import export_hf_checkpoint
    kind, config_class, fields = FAMILIES[family]
    generator = torch.Generator().manual_seed(1)
    config = getattr(transformers, config_class)(**fields)
    config._attn_implementation = "eager"
    model = getattr(transformers, kind + "ForCausalLM")(config).eval()
    randomize(model, generator)
    model.to(torch.bfloat16).save_pretrained(out / family)
    (out / family / "generation_config.json").unlink(missing_ok=True)
    rows = torch.randint(3, 64, (16, 48), generator=generator)

    def calibrate(quantized):
        for row in rows:
            quantized(input_ids=row[None], use_cache=False)

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        mtq.quantize(model, mtq.NVFP4_DEFAULT_CFG, calibrate)
        export_hf_checkpoint(model, dtype=torch.bfloat16, export_dir=folder)
        made_by = f"nvidia-modelopt {modelopt.__version__}, transformers {transformers.__version__}, bfloat16, CPU"
        golden = {"made_by": made_by, "tensors": digests(Path(folder))}
    (out / family / "modelopt-nvfp4.json").write_text(json.dumps(golden, indent=0) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(FAMILIES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for family in arguments.families or FAMILIES:
        make(family, arguments.out)


if __name__ == "__main__":
    main()
