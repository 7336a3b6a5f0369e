"""Runs the program: arguments from keywords, progress and reply from its streams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Union

PathText = Union[str, "os.PathLike[str]"]
Scalar = Union[str, int, float, "os.PathLike[str]"]
Option = Union[None, bool, Scalar, Sequence[Scalar]]
Reply = dict[str, Any]  # docs/json.md


@dataclass(frozen=True)
class Progress:
    """How far a command is (docs/json.md, "Progress")."""

    title: str
    detail: str
    seconds: float
    seconds_left: float | None
    bytes_done: int
    bytes: int | None


class NibblecastError(Exception):
    """A command that failed: the first of its errors, with the fields of docs/json.md, and all it said.

    Where a command ended otherwise than well without an error (`verify` found problems: exit code 6), `kind` is
    "verify failed" and `reply` holds what it found.
    """

    def __init__(self, exit_code: int, reply: Reply, stderr: str) -> None:
        self.exit_code = exit_code
        self.reply = reply
        self.stderr = stderr
        self.errors: list[dict[str, Any]] = reply.get("errors", [])
        first = self.errors[0] if self.errors else self._without_error()
        self.kind: str = first["kind"]
        self.message: str = first["message"]
        self.file: str | None = first.get("file")
        self.tensor: str | None = first.get("tensor")
        self.offset: int | None = first.get("offset")
        self.expected: str | None = first.get("expected")
        self.found: str | None = first.get("found")
        self.hint: str | None = first.get("hint")
        super().__init__(self._text())

    def _without_error(self) -> dict[str, Any]:
        if self.exit_code == 6:
            problems = self.reply.get("problems") or [f"exit code {self.exit_code}"]
            return {"kind": "verify failed", "message": str(problems[0])}
        how = f"signal {-self.exit_code}" if self.exit_code < 0 else f"exit code {self.exit_code}"
        last = self.stderr.strip().rsplit("\n", 1)[-1]
        return {"kind": "internal", "message": f"the program ended with {how}" + (f": {last}" if last else "")}

    def _text(self) -> str:
        where = "".join(f"{part}: " for part in (self.file, self.tensor) if part)
        detail = ", ".join(
            f"{name} {value}" for name, value in (("expected", self.expected), ("found", self.found)) if value
        )
        return where + self.message + (f" ({detail})" if detail else "") + (f"; {self.hint}" if self.hint else "")


def program() -> str:
    """The path of the binary: NIBBLECAST_PROGRAM, or the one in this package."""
    path = os.environ.get("NIBBLECAST_PROGRAM") or str(Path(__file__).parent / "bin" / "nibblecast")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no nibblecast; install the wheel, or name the binary in NIBBLECAST_PROGRAM")
    return path


def option_words(options: dict[str, Option]) -> Iterator[str]:
    """text_size=8 -> --text-size=8; True -> the flag; lists repeat it; None and False -> nothing."""
    for name, value in options.items():
        option = "--" + name.rstrip("_").replace("_", "-")
        if value is True:
            yield option
        elif value is None or value is False:
            continue
        elif isinstance(value, (str, int, float, os.PathLike)):
            yield f"{option}={_text(value)}"
        else:
            yield from (f"{option}={_text(item)}" for item in value)


def _text(value: Scalar) -> str:
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def run(
    command: str,
    *arguments: PathText | None,
    progress: Callable[[Progress], object] | None = None,
    **options: Option,
) -> Reply:
    """Runs `nibblecast COMMAND ARGUMENTS... --json` and returns its object.

    Arguments that are None are left out. Ctrl-C, and an exception of `progress`, stop the program in order (the same
    command goes on later). Raises NibblecastError.
    """
    words = [program(), command, *(os.fspath(word) for word in arguments if word is not None)]
    words += [*option_words(options), "--json"]
    if progress is None:
        words.append("--quiet")
    environment = {**os.environ, "NIBBLECAST_PROGRESS": "json"}
    with tempfile.TemporaryFile() as out:  # not a pipe: nobody need read it while progress is told
        # A session of its own: a terminal's Ctrl-C comes here alone, and is handed on once.
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        ) as child:
            assert child.stderr is not None
            stderr = _watch(child, child.stderr, progress)
        out.seek(0)
        text = out.read().decode("utf-8", "replace")
    try:
        reply: Reply = json.loads(text)
    except ValueError:  # killed before it could say anything
        reply = {}
    if child.returncode != 0 or not reply:
        raise NibblecastError(child.returncode, reply, stderr)
    return reply


def _watch(
    child: subprocess.Popen[bytes], lines: IO[bytes], progress: Callable[[Progress], object] | None
) -> str:
    """Until the program ends: tells `progress`; returns what else stood on stderr."""
    others: list[str] = []
    try:
        for raw in lines:
            line = raw.decode("utf-8", "replace")
            if progress is not None and line.startswith('{"progress":'):
                progress(Progress(**json.loads(line)["progress"]))
            else:
                others.append(line)
        child.wait()
    except BaseException:
        child.send_signal(signal.SIGINT)
        for _ in lines:  # until it has ended, which takes two seconds
            pass
        raise
    return "".join(others)
