#!/usr/bin/env python3
"""Opens the pages that `nibblecast report` writes in headless Chromium and holds them against report.json.

    tools/check_report.py NIBBLECAST [DST|PAGE.html ...] [--screenshots FOLDER]

The pages: those that are named, that of each finished output DST, and of one that is made up here, 61 layers of 384 experts. Checked: nothing on the
console; no request; every section; every number that the page shows, and the place that it names in report.json; tooltips;
light and dark; 400 px without sideways scrolling; paper; below 2 MB; texts of the record are no markup.

Chromium: $CHROMIUM or Debian's package; without one the check is skipped and says so. Standard library only.
"""
import argparse
import base64
import json
import os
import pathlib
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

SECTIONS = ["sizes", "blocks", "scales", "requantized", "evaluation", "experts", "activations", "run", "commands"]
MOST_BYTES = 2_000_000
HOSTILE = "a</script><script>alert(1)</script><!--&lt;\u2028"


class Browser:
    """Chromium over its debugging pipe: JSON texts that end with NUL, commands in, replies and events out."""

    def __init__(self, program, profile):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def at_their_places():
            read, write = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(read, 3)
            os.dup2(write, 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
             "--disable-background-networking", f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=at_their_places, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.read, self.write = os.fdopen(ours_in, "rb"), os.fdopen(ours_out, "wb", buffering=0)
        self.last, self.rest, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(domain + ".enable")

    def message(self):
        while b"\0" not in self.rest:
            part = self.read.read1(1 << 20)
            if not part:
                raise SystemExit("Chromium has ended")
            self.rest += part
        text, self.rest = self.rest.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **parameters):
        self.last += 1
        command = {"id": self.last, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        self.write.write(json.dumps(command).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.last:
                if "error" in message:
                    raise SystemExit(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, page, width=1100, scheme="light"):
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.message())
        # One more turn, so that what the page does late is seen too.
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def screenshot(self, file, whole=True):
        size = self.run("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1] if whole else 900, "scale": 1}
        shot = self.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait()


# ---- an output that is made up

def header_of(tensors):
    header, at = {}, 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8), at


def write_tensors(path, tensors, data):
    """`data`: of the first ones; of the others there is a hole."""
    header, size = header_of(tensors)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + data)
        file.truncate(8 + len(header) + size)


def write_scales(path, tensors):
    """Block scales where the report looks for them (src/pipeline/block_scales.cpp: 64 MiB, spread evenly)."""
    places, at = [], 8 + len(header_of(tensors)[0])
    for name, _, _, size in tensors:
        if name.endswith(".weight_scale"):
            places.append((at, size))
        at += size
    share = (64 << 20) / sum(size for _, size in places)
    with open(path, "r+b") as file:
        for index, (begin, size) in enumerate(places):
            if (index * 2654435769) % 2**32 < share * 2**32:
                file.seek(begin)
                file.write(bytes(min(126, max(0, int(random.gauss(84, 12)))) for _ in range(4096)) * (size // 4096))


def made_up_stages(layers):
    """A run on a GPU, the first layers of which wait for the disk."""
    stages = []
    for name in ["embedding"] + [f"layer {layer}" for layer in range(layers)] + ["rest", "end"]:
        wait = random.uniform(20, 30) if len(stages) < layers // 2 else random.uniform(1, 4)
        times = {"read_wait": wait, "forward": random.uniform(15, 18), "make": random.uniform(3, 4), "write_wait": random.uniform(0, 2),
                 "save": 6.5 if len(stages) % 8 == 0 else 0.0}
        stages.append({"stage": name, "seconds": sum(times.values()) + 0.7, "bus": random.uniform(14, 17), "device": random.uniform(9, 12), **times})
    return stages


def make_output(folder, layers=61, experts=384, hidden=7168, middle=3072):
    random.seed(1)
    names = [f"layers.{layer}.ffn.experts.{expert}.{part}" for layer in range(layers) for expert in range(experts)
             for part in ["w1", "w2", "w3"]]
    amax = {name: random.lognormvariate(2 + int(name.split(".")[1]) / 40, 0.3) for name in names}
    scalars = [(f"{name}.{scalar}", "F32", [], 4) for name in names for scalar in ["weight_scale_2", "input_scale"]]
    values = b"".join(struct.pack("<ff", 1.0, amax[name] / 2688) for name in names)
    attention = [(f"layers.{layer}.attn.wq_b.weight", "F8_E4M3", [16384, 1536], 16384 * 1536) for layer in range(layers)]
    embedding = [("embed.weight", "BF16", [129280, hidden], 129280 * hidden * 2)]
    count = hidden * middle
    shapes = {"w1": (middle, hidden), "w2": (hidden, middle), "w3": (middle, hidden)}
    made, source = list(scalars), []
    for name in names:
        rows, columns = shapes[name[-2:]]
        made += [(f"{name}.weight", "U8", [rows, columns // 2], count // 2), (f"{name}.weight_scale", "F8_E4M3", [rows, columns // 16], count // 16)]
        source += [(f"{name}.weight", "I8", [rows, columns // 2], count // 2), (f"{name}.scale", "F8_E8M0", [rows, columns // 32], count // 32)]
    source = embedding + attention + source
    header, size = header_of(source)
    (folder / "nibblecast").mkdir(parents=True)
    (folder / "calibration").mkdir()
    write_tensors(folder / "model.safetensors", made + embedding + attention, values)
    write_scales(folder / "model.safetensors", made + embedding + attention)
    shard = {"name": "model.safetensors", "size_bytes": 8 + len(header) + size, "header": header.decode()}
    (folder / "nibblecast/source.json").write_text(json.dumps({"config": "{}", "index": "", "shards": [shard]}))
    (folder / "config.json").write_text('{"model_type": "deepseek_v4"}')
    tokens = [[max(0, int(random.lognormvariate(5, 1.1)) - 12) for _ in range(experts)] for _ in range(layers)]
    counts = [(f"layers.{layer}.experts.tokens", "I64", [experts], 8 * experts) for layer in range(layers)]
    header, _ = header_of(counts)
    header = json.dumps({"__metadata__": {"format": "nibblecast.amax/2"}, **json.loads(header)}).encode()
    header += b" " * (-len(header) % 8)
    with open(folder / "calibration/amax.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header + b"".join(struct.pack(f"<{experts}q", *layer) for layer in tokens))
    (folder / "nibblecast.json").write_text(json.dumps(made_up_record(layers, tokens, amax, len(names) * count // 32)))


def made_up_record(layers, tokens, amax, blocks):
    taps = ["attn.in", "attn.out", "attn.out_rank", "attn.q_rank", "ffn.in", "shared.mid"]
    entries = []
    for layer in range(layers):
        prefix = f"layers.{layer}.ffn"
        of = lambda part: max(value for name, value in amax.items() if name.startswith(prefix + ".") and name.endswith(part))
        entries.append({"layer": layer, "amax": {**{tap: random.lognormvariate(1.6, 0.3) for tap in taps}, "experts.in": of("w1"), "experts.mid": of("w2"),
                                                 "experts.mid_weighted": of("w2") * 1.3},
                        "bound": {"experts.in": 90 + random.random() * 9, "experts.mid": 100.78, "experts.mid_weighted": 251.95},
                        "experts_without_tokens": [expert for expert, count in enumerate(tokens[layer]) if count == 0]})
    outside = 4711
    attempts = [{"began": "2026-11-30T10:00:00Z", "ended": "", "end": "", "last": "layer 3", "version": "0.1.0"},
                {"began": "2026-11-30T10:20:00Z", "ended": "2026-11-30T11:20:00Z", "end": "interrupted", "last": "layer 40", "version": "0.1.0"},
                {"began": "2026-11-30T11:30:00Z", "ended": "2026-11-30T12:22:03Z", "end": "finished", "last": "", "version": "0.1.0"}]
    return {"format": "nibblecast.run/1", "version": "0.1.0", "finished": "2026-11-30T12:22:03Z", "seconds": 3123.4, "identity": "0",
            "command": "quantize", "command_line": f"nibblecast quantize DeepSeek-V4-Pro pro --calib '{HOSTILE}'",
            "source": {"name": HOSTILE, "hub": "deepseek-ai/DeepSeek-V4-Pro", "identity": "0"},
            "options": {"recipe": "nvfp4_experts_only", "format": "modelopt-v4", "recipe_text": None, "engines": ["vllm", "sglang"]},
            "activations": {"kind": "calibration", "origin": HOSTILE, "rows": 128, "tokens": 65536, "longest_row": 512},
            "blocks": {"total": blocks, "lossless": blocks - outside, "zero": 12, "outside_window": outside},
            "outside_window": {"layers.3.ffn.experts.17.w1.weight": outside - 1, HOSTILE: 1},
            "relative_error": {f"layers.{layer}.attn.wq_b.weight": 0.08 + random.random() / 50 for layer in range(layers)},
            "perplexity": {"value": 6.21, "tokens": 65408}, "layers": entries, "stages": made_up_stages(layers), "attempts": attempts,
            "bytes": {"read": 864_704_792_696, "written": 913_100_000_000}, "tensors": 285660}


def made_up_evaluation(layers):
    """In the form of `evaluate --json`."""
    random.seed(2)

    def candidate(path, kl):
        errors = [{"layer": layer, "stream_error": kl * (1 + layer / 9), "stream_cosine": 1 - kl, "mixer_error": kl * random.uniform(0.8, 1.4),
                   "ffn_error": kl * random.uniform(1, 2), "routing_moved": kl / 2} for layer in range(layers)]
        worst = [{"row": index % 16, "place": 100 + index, "id": 4000 + index, "kl": kl * 200 / (index + 1), "logprob_delta": -1.0,
                  "ids_before": [11, 12, 13, 14], "ids_after": [15, 16]} for index in range(20)]
        scales = [{"input_scale": rule, "perplexity": 6.21 * (1 + kl * factor), "nll_mean": 1.8, "nll_stderr": 0.02, "rounded_blocks": 10**9,
                   "saturated_blocks": saturated, "against_source": {"kl_mean": kl * factor, "kl_stderr": kl * factor / 20, "top1_agreement": 0.93}}
                  for rule, factor, saturated in [("calibrated", 1, 0), ("p99.99", 1.02, 91000), ("1.0", 1.1, 0), ("x2", 0.99, 0), ("/2", 1.2, 61_000_000),
                                                  ("/4", 9, 627_000_000)]]
        return {"path": f"/secret/{path}", "input_scales": scales, "perplexity": 6.21 * (1 + kl), "nll_mean": 1.8, "nll_stderr": 0.02, "rows": [], "layers": errors, "worst_tokens": worst,
                "against_source": {"kl_mean": kl, "kl_stderr": kl / 20, "kl_median": 0.0, "kl_p90": kl * 2, "kl_p99": kl * 9, "kl_p999": kl * 30, "kl_max": kl * 200,
                                   "top1_agreement": 0.934, "top5_agreement": 0.9981, "logprob_delta_mean": -kl, "logprob_delta_rms": None}}

    return {"format": "nibblecast.evaluate/2", "tokens": 32752, "rows": 16, "models": [
        {"path": "/secret/source", "perplexity": 6.21, "nll_mean": 1.8, "nll_stderr": 0.02, "rows": [], "layers": []},
        candidate("pro", 0.0097), candidate("pro-max", 0.0213)]}


# ---- what must hold

def value_at(document, pointer):
    for key in pointer.split("/")[1:]:
        key = key.replace("~1", "/").replace("~0", "~")
        document = document[int(key)] if isinstance(document, list) else document.get(key) if document is not None else None
    return document


UNITS = {"": 1, "bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "million": 1e6, "billion": 1e9, "trillion": 1e12, "%": 0.01, "s": 1}


def shown_number(text):
    """Of "58.58 MB", "1,024", "12.3 %", "52 min 3 s"."""
    long = re.fullmatch(r"(\d+) (h|min) (\d+) (min|s)", text)
    if long:
        return int(long[1]) * {"h": 3600, "min": 60}[long[2]] + int(long[3]) * {"min": 60, "s": 1}[long[4]]
    parts = re.fullmatch(r"([-+0-9.,e]+) ?(.*)", text.replace("\u2212", "-").removeprefix("> ").removeprefix("< "))
    return float(parts[1].replace(",", "")) * UNITS[parts[2]]


def check_figures(browser, document):
    found = browser.run("Array.from(document.querySelectorAll('[data-figure]'), e => [e.dataset.figure, e.dataset.value, "
                        "e.classList.contains('figure') ? e.textContent : null])")
    for pointer, value, text in found:
        expected = value_at(document, pointer)
        assert value is not None and json.loads(value) == expected, f"{pointer}: page {value}, report.json {expected}"
        if text is None:
            continue
        if expected is None:
            assert text == "–", f"{pointer}: null, but the page says {text}"
            continue
        # Four digits, or the second decimal, or the smallest unit.
        close = max(abs(expected) * 6e-3, 1e-4 if text.endswith("%") else 0, 60 if " min" in text and " h" in text else 1 if " min" in text else 0)
        assert abs(shown_number(text) - expected) <= close, f"{pointer}: the page says {text}, report.json {expected}"
    shown = {pointer for pointer, _, _ in found}
    groups = ["figures/bytes", "figures/bits_per_weight", "blocks/lossless_share", "run/seconds"]
    groups += [f"run/times/{part}" for part in ["forward", "make", "read_wait", "write_wait", "save"] if (document["run"]["times"] or {}).get(part, 0) > 0]
    groups += ["block_scales/blocks", "block_scales/kinds/0/stored/0/blocks", "block_scales/kinds/0/exponents/0/blocks"] if document["block_scales"] else []
    for group in groups:
        assert "/" + group in shown, f"{group} is not on the page"
    return len(found)


def check_sections(browser, document):
    texts = browser.run("Object.fromEntries(Array.from(document.querySelectorAll('section'), s => [s.id, s.textContent.length]))")
    assert set(texts) == set(SECTIONS) and min(texts.values()) > 30, texts
    for chart in browser.run("Array.from(document.querySelectorAll('figure'), f => [f.dataset.chart, f.querySelectorAll('text.unit').length])"):
        assert chart[1] > 0, f"the chart {chart[0]} says no unit"
    experts = document["experts"]
    if experts and experts["without_tokens"] > 0:
        named = browser.run("document.querySelector('#starved tbody td:last-child').textContent")
        layer = next(layer for layer in experts["layers"] if layer["experts_without_tokens"])
        assert re.search(rf"\b{layer['experts_without_tokens'][0]}\b", named), "starved experts are not named"


def check_tip(browser):
    tip = browser.run("(() => { const m = document.querySelector('#sizes rect.mark'); const b = m.getBoundingClientRect(); "
                      "m.dispatchEvent(new MouseEvent('mousemove', {clientX: b.x + 1, clientY: b.y + 1, bubbles: true})); "
                      "const t = document.querySelector('#tip'); const text = t.hidden ? '' : t.textContent; "
                      "m.dispatchEvent(new MouseEvent('mouseleave')); return text; })()")
    assert "bytes" in tip, f"no tooltip with a number: {tip!r}"


def check_silence(browser, page):
    for event in browser.events:
        method, parameters = event.get("method"), event.get("params", {})
        assert method not in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Log.entryAdded"), event
        assert method != "Runtime.consoleAPICalled", event
        if method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            assert url == page.as_uri() or url.startswith("data:"), f"a request: {url}"


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def check_theme(browser, scheme):
    ink, soft, card = browser.run("(() => { const s = getComputedStyle; return [s(document.body).color, s(document.querySelector('.card .label')).color, "
                                  "s(document.querySelector('section')).backgroundColor]; })()")
    assert (luminance(card) > 0.5) == (scheme == "light"), f"{scheme}: {card}"
    for colour in (ink, soft):
        light, dark = sorted([luminance(colour), luminance(card)], reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{scheme}: {colour} on {card}"


def check_width(browser):
    wide = browser.run("(() => { document.querySelectorAll('details').forEach(d => d.open = true); const w = document.documentElement.clientWidth; "
                       "const out = Array.from(document.querySelectorAll('main *')).filter(e => e.getBoundingClientRect().right > w + 1 || e.getBoundingClientRect().left < -1 || "
                       "(e.matches('.scroll, pre, section') && e.scrollWidth > e.clientWidth + 1)); "
                       "return [document.documentElement.scrollWidth > w, ...out.slice(0, 5).map(e => e.tagName + ' ' + (e.className.baseVal ?? e.className) + ' ' + e.textContent.slice(0, 60))]; })()")
    assert wide == [False], f"wider than the screen: {wide}"


def check_page(browser, page, screenshots):
    document = json.loads(page.with_suffix(".json").read_text())
    assert page.stat().st_size < MOST_BYTES, f"{page.stat().st_size} bytes"
    text = page.read_text()
    assert text.count("<script") == 3 and "http://" not in re.sub(r"<!--.*?-->|<script.*?</script>", "", text, flags=re.S), "foreign markup"
    figures = 0
    for scheme in ["light", "dark"]:
        for width in [1100, 400]:
            browser.open(page, width, scheme)
            assert browser.run("document.documentElement.dataset.ready") == "yes", "the page's script has not ended"
            assert browser.run("document.querySelector('h1').textContent") == document["destination"]
            figures = check_figures(browser, document)
            check_sections(browser, document)
            check_theme(browser, scheme)
            check_tip(browser)
            if screenshots:
                browser.screenshot(screenshots / f"{page.parent.name}-{scheme}-{width}.png")
            if width == 400:
                check_width(browser)
            check_silence(browser, page)
    browser.open(page)
    paper = base64.b64decode(browser.call("Page.printToPDF", printBackground=False)["data"])
    assert paper.startswith(b"%PDF")
    if screenshots:
        (screenshots / f"{page.parent.name}.pdf").write_bytes(paper)
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nibblecast")
    parser.add_argument("outputs", nargs="*", type=pathlib.Path)
    parser.add_argument("--screenshots", type=pathlib.Path)
    arguments = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        print("skipped: there is no Chromium (apt-get install chromium, or name it in $CHROMIUM)")
        return
    if arguments.screenshots:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        made_up = work / "DeepSeek-V4-Pro-NVFP4"
        make_output(made_up)
        evaluation = work / "evaluation.json"
        evaluation.write_text(json.dumps(made_up_evaluation(61)))
        pages = []
        outputs = [output for output in arguments.outputs if output.suffix != ".html"]
        for output, more in [(made_up, []), (made_up, ["--evaluation", evaluation])] + [(output, []) for output in outputs]:
            page = work / f"{output.name}{'-evaluated' if more else ''}" / "page" / "report.html"
            page.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run([arguments.nibblecast, "report", output, "-o", page, *more], check=True, stdout=subprocess.DEVNULL)
            pages.append(page.rename(page.parent.parent / page.name))
            page.with_suffix(".json").rename(page.parent.parent / "report.json")
        assert "/secret" not in pages[1].read_text(), "a folder is on the page"
        pages += [page.resolve() for page in arguments.outputs if page.suffix == ".html"]
        browser = Browser(chromium, work / "profile")
        try:
            for page in pages:
                figures = check_page(browser, page, arguments.screenshots)
                print(f"{page.parent.name}: {page.stat().st_size:,} bytes, {figures:,} figures")
        finally:
            browser.close()


if __name__ == "__main__":
    sys.exit(main())
