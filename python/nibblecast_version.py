"""The wheel's version, for scikit-build-core: what tools/package-version says, or an unpacked source archive's own."""

import subprocess
from pathlib import Path
from typing import Any


def dynamic_metadata(field: str, settings: dict[str, Any]) -> str:
    assert field == "version" and not settings
    tree = Path(__file__).parent.parent
    made_before = tree / "PKG-INFO"
    if made_before.exists():
        lines = made_before.read_text(encoding="utf-8").splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("Version: "))
    done = subprocess.run([str(tree / "tools/package-version")], capture_output=True, text=True, check=True)
    return done.stdout.strip()
