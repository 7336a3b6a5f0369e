#!/usr/bin/env python3
"""Tests import_amax.py on dumps as ModelOpt writes them, whole and spoilt, and on the maxima of the shared tiny model.

    tools/check_import_amax.py build/release/nibblecast [MODELS_FOLDER]

pip install torch==2.11.0 safetensors==0.8.0
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

TOOL = Path(__file__).with_name("import_amax.py")
EXPERTS = 8


def run(*arguments):
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True)


def imported(work, *arguments):
    result = run(*arguments, "-o", work / "amax.safetensors")
    assert result.returncode == 0, result.stderr
    return load_file(work / "amax.safetensors"), result.stdout


def refused(work, *arguments):
    output = work / "none.safetensors"
    result = run(*arguments, "-o", output)
    assert result.returncode == 1 and "Traceback" not in result.stderr and not output.exists(), result
    return result.stderr


def official(layers=2, missing=()):
    """What deepseek_v4/ptq.py dumps: experts' quantizers; those without tokens have no input amax."""
    state = {}
    for layer in range(layers):
        for expert in range(EXPERTS):
            for w in (1, 2, 3):
                base = f"layers.{layer}.ffn.experts.{expert}.w{w}"
                state[f"{base}_weight_quantizer._amax"] = torch.tensor(0.25, dtype=torch.bfloat16)
                if (layer, expert) not in missing:
                    value = 2 + layer + expert / 8 + (0.5 if w == 3 else 0)
                    state[f"{base}_input_quantizer._amax"] = torch.tensor(value, dtype=torch.bfloat16)
    return state


def write_ranks(work, state, ranks):
    folder = work / f"mp{ranks}"
    folder.mkdir(exist_ok=True)
    for rank in range(ranks):
        part = {k: v for k, v in state.items() if ".experts." not in k or int(k.split(".")[4]) % ranks == rank}
        torch.save(part, folder / f"amax_dict_rank{rank}-mp{ranks}.pt")
    return folder


def check_ranks(work, nibblecast):
    amax, printed = imported(work, write_ranks(work, official(missing={(1, 7)}), 4))
    assert sorted(amax) == [f"layers.{n}.ffn.experts.{k}" for n in (0, 1)
                            for k in ("w13.input_amax", "w2.input_amax_weighted")], sorted(amax)
    assert amax["layers.0.ffn.experts.w13.input_amax"].tolist() == [2.5 + e / 8 for e in range(EXPERTS)]
    assert amax["layers.1.ffn.experts.w2.input_amax_weighted"].tolist() == [3 + e / 8 for e in range(7)] + [0]
    assert "1 of 8 experts without a value: 7" in printed and "48 of weight quantizers" in printed, printed
    shown = json.loads(subprocess.run([nibblecast, "inspect", work / "amax.safetensors", "--json"], check=True,
                                      capture_output=True).stdout)
    assert shown["layers"][1]["experts_without_tokens"] == [7], shown
    (work / "mp4" / "amax_dict_rank2-mp4.pt").unlink()
    assert "[2] are missing" in refused(work, work / "mp4")


def check_merge(work):
    """The same linear on two ranks: the larger."""
    for rank, value in enumerate((1.5, 4.0, 3.0)):
        save_file({"model.layers.0.self_attn.q_a_proj.input_quantizer._amax": torch.tensor([value])},
                  work / f"rank{rank}.safetensors")
    amax, _ = imported(work, *(work / f"rank{rank}.safetensors" for rank in range(3)))
    assert {k: v.item() for k, v in amax.items()} == {"layers.0.attn.wq_a.input_amax": 4.0}


def check_hub_names(work):
    """A state of transformers' model: fused experts share one value, the routing weight comes after w2."""
    state = {"lm_head.input_quantizer._amax": torch.tensor(1.0),
             "model.layers.3.mlp.experts.gate_up_proj_input_quantizer._amax": torch.tensor(5.0),
             "model.layers.3.mlp.experts.down_proj_input_quantizer._amax": torch.tensor(7.0),
             "model.layers.3.self_attn.compressor.indexer.scorer.weights_proj.input_quantizer._amax": torch.tensor(6.0)}
    for expert in range(EXPERTS):
        state[f"model.layers.3.mlp.experts.gate_up_proj_weight_quantizers.{expert}._amax"] = torch.ones(64)
    torch.save({"state_dict": state}, work / "state.pt")
    amax, printed = imported(work, work / "state.pt")
    assert amax.pop("layers.3.attn.indexer.weights_proj.input_amax").shape == ()
    assert {k: v.tolist() for k, v in amax.items()} == {
        "layers.3.ffn.experts.w13.input_amax": [5.0] * EXPERTS, "layers.3.ffn.experts.w2.input_amax": [7.0] * EXPERTS}
    assert "1 of lm_head" in printed, printed


def check_refusals(work):
    """Stale memory read as maxima, and each single fault, by name."""
    name = "layers.1.ffn.experts.3.w2_input_quantizer._amax"
    for value, reason in [(float("nan"), "NaN"), (float("inf"), "infinite"), (0.0, "zero"), (-1.0, "negative"),
                          (1e30, "outside"), (1e-30, "outside"), (60000.0, "its layer's median")]:
        state = official()
        state[name] = torch.tensor(value)
        error = refused(work, write_ranks(work, state, 2))
        assert f"refused: {name} = " in error and reason in error and "1 of 48" in error, error
    amax, _ = imported(work, work / "mp2", "--drop-refused")
    assert amax["layers.1.ffn.experts.w2.input_amax_weighted"][3] == 0
    # A zero or NaN of one rank does not hide behind a sound value of another.
    for rank, value in enumerate((float("nan"), 2.0, 0.0)):
        torch.save({"layers.0.attn.wkv.input_quantizer._amax": torch.tensor(value)}, work / f"amax{rank}.pt")
    for ranks in ((0, 1), (1, 0), (1, 2), (2, 1)):
        assert "refused: layers.0.attn.wkv" in refused(work, *(work / f"amax{rank}.pt" for rank in ranks))
    garbage = {k: torch.frombuffer(bytearray(i.to_bytes(4, "little")), dtype=torch.float32)[0]
               for i, k in enumerate(k for k in official() if "input" in k)}
    assert "48 of 48" in refused(work, write_ranks(work, garbage, 1), "--all")
    torch.save({"layers.0.ffn.experts.0.w1_input_quantizer._amax": torch.ones(4)}, work / "shape.pt")
    assert "one value for the tensor" in refused(work, work / "shape.pt")
    (work / "damaged.pt").write_bytes((work / "shape.pt").read_bytes()[:100])
    assert "torch cannot load it" in refused(work, work / "damaged.pt")
    torch.save({"layers.0.attn.wq_x.input_quantizer._amax": torch.tensor(1.0)}, work / "name.pt")
    assert "no linear of a DeepSeek-V4 layer" in refused(work, work / "name.pt")


def check_tiny(work, models):
    """The oracle's maxima as such a dump give the vectors that the oracle has."""
    oracle = load_file(models / "tiny-v4" / "oracle.safetensors")
    linears = json.loads((models / "tiny-v4" / "oracle.json").read_text())["linear_input_amax_calib"]
    state = {f"{name}.input_quantizer._amax": torch.tensor(value) for name, value in linears.items()}
    for name, values in oracle.items():
        parts = name.split(".")  # calib.layers.N.experts.w13
        if parts[-1] in ("w13", "w2_weighted"):
            for expert, value in enumerate(values.tolist()):
                for w in ("w1", "w3") if parts[-1] == "w13" else ("w2",):
                    state[f"layers.{parts[2]}.ffn.experts.{expert}.{w}_input_quantizer._amax"] = torch.tensor(value)
    torch.save(state, work / "tiny.pt")
    amax, _ = imported(work, work / "tiny.pt", "--w2", "weighted")
    assert len(amax) == len(linears) - 1 + 2 * 6, len(amax)  # lm_head is none of ours
    for layer in range(6):
        for kind, theirs in (("w13.input_amax", "w13"), ("w2.input_amax_weighted", "w2_weighted")):
            assert (amax[f"layers.{layer}.ffn.experts.{kind}"] == oracle[f"calib.layers.{layer}.experts.{theirs}"]).all()


def main():
    nibblecast, *models = sys.argv[1:]
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        check_ranks(work, nibblecast)
        check_merge(work)
        check_hub_names(work)
        check_refusals(work)
        if models:
            check_tiny(work, Path(models[0]))
    print("import_amax.py: all as expected")


if __name__ == "__main__":
    main()
