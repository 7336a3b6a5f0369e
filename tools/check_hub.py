#!/usr/bin/env python3
"""Holds the Hub that our tests imitate (tests/remote/hub_server.h) against the Hub's own client: what
huggingface_hub understands and downloads, what nibblecast reads of the same server and of that client's cache, and
what that client makes of what --keep-source stored, whole or in parts.

    tools/check_hub.py NIBBLECAST SERVE_HUB     # build/release/nibblecast build/release/tests/remote/serve_hub

Needs huggingface_hub (seen with 0.36.0).
"""
import filecmp
import json
import os
import pathlib
import subprocess
import sys
import tempfile

MODEL, TOKEN = "owner/tiny", "hf_for_the_check"


def plan(nibblecast, source, environment):
    run = subprocess.run([nibblecast, "plan", source, "--json"], env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"plan {source}: {run.stderr}")
    return json.loads(run.stdout)["source"]


def run(nibblecast, *words):
    done = subprocess.run([nibblecast, *words, "--quiet"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{words}: {done.stderr}")


def check_kept(nibblecast, hub, model, folder):
    """What --keep-source stored: whole after a cast, in parts after a calibration, which the client makes whole."""
    whole, parts, names = folder / "whole", folder / "parts", sorted(p.name for p in model.iterdir())
    run(nibblecast, "quantize", f"hf://{MODEL}", folder / "out", "--input-scale", "1.0", "--keep-source", whole)
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"{row}: " + "weights stream by " * 40}) + "\n" for row in range(8)))
    run(nibblecast, "calibrate", f"hf://{MODEL}", "--calib", texts, "--calib-size", "8", "-o", folder / "amax",
        "--keep-source", parts)
    assert list(parts.glob("*/blobs/*.nibblecast.incomplete")), "all of it was read"
    try:
        hub.snapshot_download(MODEL, cache_dir=parts, local_files_only=True)
        sys.exit("a part is taken for the whole")
    except hub.errors.LocalEntryNotFoundError:
        pass
    for cache, only_local in [(whole, True), (parts, False)]:
        snapshot = pathlib.Path(hub.snapshot_download(MODEL, cache_dir=cache, local_files_only=only_local))
        for name in names:
            assert filecmp.cmp(model / name, snapshot / name, shallow=False), name
        scanned = hub.scan_cache_dir(cache)
        assert not scanned.warnings and len(scanned.repos) == 1, scanned
    return len(names)


def check(nibblecast, serve_hub, folder):
    model = folder / "model"
    subprocess.run([nibblecast, "synth", "v4-tiny", model, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    with subprocess.Popen([serve_hub, model, MODEL, TOKEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as server:
        endpoint = server.stdout.readline().strip()
        os.environ.update(HF_ENDPOINT=endpoint, HF_TOKEN=TOKEN, HF_HOME=str(folder / "home"),
                          HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1", no_proxy="127.0.0.1,localhost")
        import huggingface_hub as hub  # reads its settings when it is imported

        names = {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()}
        listed = {item.path for item in hub.HfApi().list_repo_tree(MODEL, recursive=True)
                  if isinstance(item, hub.hf_api.RepoFile)}
        assert listed == names, listed ^ names
        snapshot = pathlib.Path(hub.snapshot_download(MODEL))
        for name in names:
            assert filecmp.cmp(model / name, snapshot / name, shallow=False), name
        for refused, error in [(lambda: hub.HfApi(token="hf_wrong").model_info(MODEL), hub.errors.RepositoryNotFoundError),
                               (lambda: hub.HfApi().model_info("owner/none"), hub.errors.RepositoryNotFoundError),
                               (lambda: hub.hf_hub_download(MODEL, "none.json"), hub.errors.EntryNotFoundError),
                               (lambda: hub.HfApi().model_info(MODEL, revision="v9"), hub.errors.RevisionNotFoundError)]:
            try:
                refused()
                sys.exit(f"{error.__name__} was expected")
            except error:
                pass
        here = plan(nibblecast, str(model), os.environ)
        for change in [{"HF_HOME": str(folder / "empty")}, {}, {"HF_HUB_OFFLINE": "1"}]:
            there = plan(nibblecast, f"hf://{MODEL}", os.environ | change)
            assert there["identity"] == here["identity"], (change, there)
        kept = check_kept(nibblecast, hub, model, folder)
        server.stdin.close()
    print(f"huggingface_hub {hub.__version__}: {len(names)} files listed and downloaded; read by nibblecast from the "
          "server, from the client's cache, and without a line; "
          f"{kept} files that --keep-source stored are the client's snapshot, and their parts are made whole")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as place:
        check(sys.argv[1], sys.argv[2], pathlib.Path(place))
