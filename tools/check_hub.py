#!/usr/bin/env python3
"""Holds the Hub that our tests imitate (tests/remote/hub_server.h) against the Hub's own client: what
huggingface_hub understands and downloads, and what nibblecast reads of the same server and of that client's cache.

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
        server.stdin.close()
    print(f"huggingface_hub {hub.__version__}: {len(names)} files listed and downloaded; read by nibblecast from the "
          "server, from the client's cache, and without a line")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as place:
        check(sys.argv[1], sys.argv[2], pathlib.Path(place))
