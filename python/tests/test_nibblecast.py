"""The module against the program that NIBBLECAST_PROGRAM names, or the package's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import nibblecast
from nibblecast._program import option_words


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny"
    nibblecast.synth("v4-tiny", path)
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("Every weight streams through once, and every expert sees some tokens. " * 200)
    return path


def test_keywords_become_options() -> None:
    words = option_words(
        {"text_size": 8, "strict": True, "quiet": False, "amax": None, "engine": ["vllm", "sglang"], "o": Path("a")}
    )
    assert list(words) == ["--text-size=8", "--strict", "--engine=vllm", "--engine=sglang", "--o=a"]


def test_a_job_from_plan_to_report(tiny: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rows: dict[str, nibblecast.Option] = {"calib_rows": "packed", "calib_size": 4, "calib_seq": 128}
    plan = nibblecast.plan(tiny, out, calib=texts, progress=None, **rows)
    assert plan["format"] == "nibblecast.plan/2" and plan["source"]["family"] == "deepseek_v4"
    made = nibblecast.quantize(tiny, out, calib=texts, engine=["vllm", "sglang"], progress=None, **rows)
    assert made["finished"] and made["destination"] == str(out)
    assert nibblecast.verify(tiny, out)["problems"] == []
    assert nibblecast.inspect(out)["tensors"] == plan["output"]["tensors"]
    assert nibblecast.compare(tiny, out)["different"] == 0
    assert nibblecast.status(out)["finished"]
    assert nibblecast.report(out)["verdict"]["good"] in (True, False)
    evaluated = nibblecast.evaluate(tiny, out, text=texts, text_size=2, text_seq=64)
    assert [model["path"] for model in evaluated["models"]] == [str(tiny), str(out)]
    back = nibblecast.convert(out, tmp_path / "back", to="mxfp4")
    assert back["finished"]
    wide = nibblecast.dequantize(tiny, tmp_path / "wide", dtype="float32")
    assert wide["finished"]


def test_calibrate_then_quantize_with_its_file(tiny: Path, texts: Path, tmp_path: Path) -> None:
    amax = tmp_path / "amax.safetensors"
    assert nibblecast.calibrate(tiny, calib=texts, calib_size=1, output=amax)["finished"]
    assert nibblecast.quantize(tiny, tmp_path / "out", amax=amax)["activations"]["kind"] == "amax file"


def test_an_error_has_the_fields_of_the_reply(tmp_path: Path) -> None:
    with pytest.raises(nibblecast.NibblecastError) as caught:
        nibblecast.plan(tmp_path / "nothing")
    error = caught.value
    assert (error.exit_code, error.kind) == (3, "bad input")
    assert error.file == str(tmp_path / "nothing") and error.expected is not None
    assert error.errors[0]["message"] == error.message and error.message in str(error)
    with pytest.raises(nibblecast.NibblecastError) as caught:
        nibblecast.plan(tmp_path, no_such_option=1)
    assert (caught.value.exit_code, caught.value.kind) == (2, "usage")


def test_problems_that_verify_finds_are_an_error(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    nibblecast.quantize(tiny, out, input_scale="1.0")
    shard = next(out.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(nibblecast.NibblecastError) as caught:
        nibblecast.verify(tiny, out)
    assert (caught.value.exit_code, caught.value.kind) == (6, "verify failed")
    assert caught.value.message == caught.value.reply["problems"][0]


def test_progress_is_told(tiny: Path, texts: Path, tmp_path: Path) -> None:
    seen: list[nibblecast.Progress] = []
    nibblecast.quantize(tiny, tmp_path / "out", calib=texts, calib_size=1, progress=seen.append)
    assert seen and all(one.title and one.seconds >= 0 for one in seen)


def test_an_exception_of_the_callback_ends_the_program(tiny: Path, texts: Path, tmp_path: Path) -> None:
    def stop(_: nibblecast.Progress) -> None:
        raise ZeroDivisionError

    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError):
        nibblecast.quantize(tiny, out, calib=texts, calib_rows="packed", calib_size=8, calib_seq=128, progress=stop)
    assert not (out / "config.json").exists()
    assert nibblecast.resume(out)["finished"]


def test_works_outside_the_main_thread(tiny: Path) -> None:
    results: list[nibblecast.Reply] = []
    thread = threading.Thread(target=lambda: results.append(nibblecast.inspect(tiny)))
    thread.start()
    thread.join()
    assert results[0]["ok"]


def test_python_dash_m_is_the_program() -> None:
    done = subprocess.run([sys.executable, "-m", "nibblecast", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nibblecast ")
    assert subprocess.run([sys.executable, "-m", "nibblecast", "nonsense"], capture_output=True).returncode == 2


def test_ctrl_c_ends_the_program_in_order(tiny: Path, texts: Path, tmp_path: Path) -> None:
    script = (
        "import sys, nibblecast\n"
        "nibblecast.quantize(*sys.argv[1:3], calib=sys.argv[3], calib_rows='packed', calib_size=16, calib_seq=256,\n"
        "                    progress=lambda p: print(p.title, flush=True))\n"
    )
    out = tmp_path / "out"
    texts.write_text(texts.read_text() * 20)
    words: list[str | Path] = [sys.executable, "-c", script, tiny, out, texts]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in child.stderr.read()
    assert nibblecast.status(out)["running"] is False


def test_without_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIBBLECAST_PROGRAM", os.devnull)
    with pytest.raises(FileNotFoundError, match="NIBBLECAST_PROGRAM"):
        nibblecast.doctor()
