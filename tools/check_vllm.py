"""Loads checkpoints with vLLM's own model classes and weight loaders, on a CPU that says it is an SM100 GPU. No kernel runs.

usage: check_vllm.py FOLDER...

Needs vLLM 0.33.0 with all that it requires (pip install vllm==0.33.0, in an environment of its own). Of each folder: vLLM takes its
config, builds the model with the quantization that the documents say, and loads all tensors. Then every byte of every
parameter must have come from the checkpoint: the model is loaded twice, over zeros and over ones, and nothing may differ. vLLM itself
does not notice an expert or a scale that is not there. Prints how layers were built; exit code 1 where a folder does not load.
"""
import collections
import logging
import os
import subprocess
import sys

CACHE_SCALES = (".attn.q_scale", ".attn.k_scale", ".attn.v_scale", ".attn.prob_scale",
                ".attn.q_zero_point", ".attn.k_zero_point", ".attn.v_zero_point")

os.environ.update(VLLM_LOGGING_LEVEL="ERROR", VLLM_TARGET_DEVICE="cpu", VLLM_CONFIGURE_LOGGING="0")


def pretend_sm100():
    """vLLM's CPU platform, with the capability of a B200."""
    import vllm.platforms
    from vllm.platforms.cpu import CpuPlatform
    from vllm.platforms.interface import DeviceCapability

    class Pretended(CpuPlatform):
        @classmethod
        def get_device_capability(cls, device_id=0):
            return DeviceCapability(10, 0)

        @classmethod
        def verify_quantization(cls, quant):
            pass

        @classmethod
        def import_kernels(cls):
            pass

    vllm.platforms._current_platform = Pretended()
    # It looks at model classes in a process of its own, which would not pretend.
    import vllm.model_executor.models.registry as registry
    registry._run_in_subprocess = lambda function: function()


def pretend_kernels():
    """What loading is for is chosen by what kernels there are: any is right, as none runs."""
    import vllm.model_executor.kernels.linear as linear
    import vllm.model_executor.layers.fused_moe.oracle.nvfp4 as oracle
    import vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors_moe.compressed_tensors_moe_w4a4_nvfp4 as moe
    import vllm.model_executor.layers.quantization.compressed_tensors.schemes.compressed_tensors_w4a4_nvfp4 as dense
    import vllm.model_executor.layers.quantization.compressed_tensors.schemes.compressed_tensors_w8a8_fp8 as fp8
    import vllm.model_executor.layers.quantization.modelopt as modelopt

    class NoKernel:
        def __init__(self, *args, **kwargs):
            pass

        def input_quant_key(self):
            return None

    for name in ("init_nvfp4_linear_kernel", "init_fp8_linear_kernel"):
        for module in (linear, modelopt, dense, fp8):
            if hasattr(module, name):
                setattr(module, name, NoKernel)
    for module in (modelopt, moe):
        module.select_nvfp4_moe_backend = lambda *args, **kwargs: (oracle.NvFp4MoeBackend.EMULATION, NoKernel)


def build(folder):
    """The model and what loads it."""
    import torch
    from vllm.config import DeviceConfig, LoadConfig, ModelConfig, VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    model_config = ModelConfig(model=folder, tokenizer=folder, skip_tokenizer_init=True, dtype="bfloat16",
                               enforce_eager=True)
    config = VllmConfig(model_config=model_config, load_config=LoadConfig(), device_config=DeviceConfig("cpu"))
    with set_current_vllm_config(config):
        init_distributed_environment(1, 0, "file:///" + os.path.join("/tmp", f"check_vllm_{os.getpid()}"), 0, "gloo")
        initialize_model_parallel(1, 1)
        from vllm.model_executor.model_loader import get_model_loader
        from vllm.model_executor.model_loader.utils import initialize_model
        torch.set_default_dtype(torch.bfloat16)
        model = initialize_model(config)
        loader = get_model_loader(config.load_config)

    def load(byte):
        with set_current_vllm_config(config), torch.no_grad():
            for parameter in model.parameters():
                parameter.data.contiguous().view(torch.uint8 if parameter.dim() else parameter.dtype).fill_(byte)
            loader.load_weights(model, model_config)
            return {name: parameter.data.clone().reshape(-1).view(torch.uint8)
                    for name, parameter in model.named_parameters()}

    return model, config, load


def kv_scale_stored(folder, parameter):
    """Whether the checkpoint has what vLLM loads into a cache's scale; without it, it takes 1."""
    from safetensors import safe_open
    stored = parameter.replace(".attn.k_scale", ".k_proj.k_scale").replace(".attn.v_scale", ".v_proj.v_scale")
    for file in os.listdir(folder):
        if file.endswith(".safetensors"):
            with safe_open(os.path.join(folder, file), "pt") as tensors:
                if stored in tensors.keys():
                    return True
    return False


def is_weight_only(quantization):
    if "quant_algo" in quantization:
        return quantization["quant_algo"] == "W4A16_NVFP4"
    groups = quantization.get("config_groups", {}).values()
    return bool(groups) and all(group.get("input_activations") is None for group in groups)


def check(folder):
    logging.disable(logging.WARNING)
    pretend_sm100()
    pretend_kernels()
    model, config, load = build(folder)
    built = collections.Counter(type(getattr(module, "quant_method")).__name__ for module in model.modules()
                                if getattr(module, "quant_method", None) is not None)
    first, second = load(0), load(1)
    missing = [name for name in first if not bool((first[name] == second[name]).all())]
    missing = [name for name in missing if not name.endswith(CACHE_SCALES) or kv_scale_stored(folder, name)]
    if is_weight_only(config.model_config.hf_config.quantization_config or {}):  # built, and dropped unread
        missing = [name for name in missing if not name.endswith(("input_scale", "input_global_scale"))]
    print(f"{folder}: quantization {config.model_config.quantization}; {len(first)} parameters; "
          + ", ".join(f"{count} {name}" for name, count in sorted(built.items())))
    for name in missing:
        print(f"  {name}: not loaded, or in part")
    return not missing


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--one":
        sys.exit(0 if check(sys.argv[2]) else 1)
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    failed = [folder for folder in sys.argv[1:]
              if subprocess.run([sys.executable, os.path.abspath(__file__), "--one", folder]).returncode != 0]
    for folder in failed:
        print(f"{folder}: FAILED")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
