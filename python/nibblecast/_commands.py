"""The commands. Positional arguments stand here by name; options are handed on as they are given."""

from __future__ import annotations

from collections.abc import Callable

from nibblecast._program import Option, PathText, Progress, Reply, run

Callback = Callable[[Progress], object]


def plan(
    source: PathText, destination: PathText | None = None, *, progress: Callback | None = None, **options: Option
) -> Reply:
    """What quantize would make and what it takes."""
    return run("plan", source, destination, progress=progress, **options)


def quantize(source: PathText, destination: PathText, *, progress: Callback | None = None, **options: Option) -> Reply:
    """Makes the NVFP4 checkpoint `destination`."""
    return run("quantize", source, destination, progress=progress, **options)


def dequantize(
    source: PathText, destination: PathText, *, progress: Callback | None = None, **options: Option
) -> Reply:
    """Makes `destination` with every weight as BF16 or F32."""
    return run("dequantize", source, destination, progress=progress, **options)


def convert(source: PathText, destination: PathText, *, progress: Callback | None = None, **options: Option) -> Reply:
    """NVFP4 back to MXFP4 (to="mxfp4"), or in another dialect (format="compressed-tensors")."""
    return run("convert", source, destination, progress=progress, **options)


def calibrate(source: PathText, *, progress: Callback | None = None, **options: Option) -> Reply:
    """Measures activations (calib=..., output=...), for quantize(amax=...)."""
    return run("calibrate", source, progress=progress, **options)


def resume(destination: PathText, *, progress: Callback | None = None, **options: Option) -> Reply:
    """Goes on with the job that `destination` holds."""
    return run("resume", destination, progress=progress, **options)


def status(destination: PathText, **options: Option) -> Reply:
    """How far a job is."""
    return run("status", destination, progress=None, **options)


def verify(
    source: PathText, destination: PathText | None = None, *, progress: Callback | None = None, **options: Option
) -> Reply:
    """Proves `destination` against `source`."""
    return run("verify", source, destination, progress=progress, **options)


def report(destination: PathText, **options: Option) -> Reply:
    """Writes the page that shows what became of the model."""
    return run("report", destination, progress=None, **options)


def inspect(path: PathText, **options: Option) -> Reply:
    """What is in a checkpoint, a tensor or an amax file."""
    return run("inspect", path, progress=None, **options)


def compare(a: PathText, b: PathText, *, progress: Callback | None = None, **options: Option) -> Reply:
    """Two checkpoints, weight by weight."""
    return run("compare", a, b, progress=progress, **options)


def evaluate(source: PathText, *candidates: PathText, progress: Callback | None = None, **options: Option) -> Reply:
    """What `candidates` lost against `source`, on texts (text=...)."""
    return run("evaluate", source, *candidates, progress=progress, **options)


def synth(config: PathText, destination: PathText, *, progress: Callback | None = None, **options: Option) -> Reply:
    """A checkpoint with random weights."""
    return run("synth", config, destination, progress=progress, **options)


def doctor(folder: PathText | None = None, **options: Option) -> Reply:
    """What this machine is good for."""
    return run("doctor", folder, progress=None, **options)
