"""Hours of mixed use: `python -m benchmarks.load --minutes 240`.

One program uses `freqdiff web` at this machine and the Python API in turn, at random: photos with
harmless and with hostile names, damaged files, visitors who leave in the middle, requests that no
browser sends, arrays of all kinds. Half of the visitors keep no page open, so that nothing tells
the server when they are gone. Each result has to be the one of the first time, each refusal a
sentence; the memory of both processes and the server's files are watched. Writes
benchmarks/results/load.json; the exit code is 1 if there is a finding or the memory grew.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import re
import statistics
import sys
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import freqdiff
from benchmarks.fuzz_corpus import corpus, damaged
from benchmarks.harness import RESULTS, provenance
from benchmarks.web_client import WebServer, serving, uploaded
from freqdiff.errors import FreqDiffError
from freqdiff.memory import used_memory

GROWTH = 0.05
"""The most by which the last fifth of the time may need more memory than the second."""
_SAMPLES = 200
_NAMES = ("photo", "../../escaped", "$(touch pwned)", "a%00b", "\u202egpj.exe", " .", "x" * 300)
_SENTENCE = re.compile(r'<p class="(done|error)">([^<]+\.)</p>')
_REFUSED = (400, 403, 404, 413, 422)
"""Statuses of requests that the server does not understand."""


class Finding(Exception):
    """Behaviour that users should not see."""


class Load:
    """What is done at random, each by a method that raises `Finding`.

    Args:
        server: to be used.
        seed: of everything random.
    """

    def __init__(self, server: WebServer, seed: int = 0) -> None:
        self.server = server
        self.rng = np.random.default_rng(seed)
        self.files = corpus()
        self.expected: dict[object, str] = {}
        self.visits = 0
        self.kinds: dict[str, tuple[float, Callable[[], None]]] = {
            "photos sharpened": (0.4, self.photo),
            "damaged files": (0.25, self.damage),
            "visitors who left": (0.1, self.leave),
            "crafted requests": (0.15, self.crafted),
            "arrays": (0.1, self.array),
        }

    def step(self) -> str:
        """Do one thing; returns its kind."""
        shares = [share for share, _ in self.kinds.values()]
        kind = list(self.kinds)[int(self.rng.choice(len(shares), p=shares))]
        try:
            self.kinds[kind][1]()
        except Finding:
            raise
        except Exception as error:
            raise Finding(f"{kind}: {error!r}") from error
        return kind

    def photo(self) -> None:
        """A whole photo gives the result that it gave before."""
        name = self.choice(sorted(self.files))
        settings = (int(self.rng.integers(1, 3)), int(self.choice([1, 2])), "tiny")
        suffix = Path(name).suffix
        sent = self.server.upload(f"{self.choice(_NAMES)}{suffix}", self.files[name])
        with self.visit() as session:
            output = self.server.ask(sent, *settings, session=session)
            shown = self.told(output)[0]
            if 'class="done"' not in shown:
                raise Finding(f"{name}: {shown}")
            result = self.server.download(output)
        self.same((name, settings), result)

    def damage(self) -> None:
        """A damaged file gives one sentence or a result."""
        name, content = damaged(self.rng, self.files)
        sent = self.server.upload(f"{self.choice(_NAMES)}{Path(name).suffix}", content)
        with self.visit() as session:
            output = self.server.ask(sent, session=session)
        self.told(output)

    def leave(self) -> None:
        """Closes the page while its photo is worked on."""
        name = self.choice(sorted(self.files))
        sent = self.server.upload(name, self.files[name])
        session = self.session()
        with self.server.visit(session):
            self.server.join([uploaded(sent), 4, 4, "tiny"], session)
            time.sleep(float(self.rng.random()) / 2)

    def crafted(self) -> None:
        """Requests with anything in the place of a file, a setting or the whole body."""
        anything: list[Any] = [None, -1, 1e300, "tiny", "../../etc/passwd", [], {}, "x" * 10000]
        session = self.session()
        with self.refused():
            if self.rng.random() < 0.3:
                self.server.post("gradio_api/queue/join", self.rng.bytes(50))
            elif self.rng.random() < 0.3:
                kind = "multipart/form-data; boundary=x"
                self.server.post("gradio_api/upload", b"--x" + self.rng.bytes(200), kind)
            else:
                values = [self.choice(anything) for _ in range(4)]
                output = self.server.ask(values[0], *values[1:], session=session)
                if "error" not in output and "/etc" in json.dumps(output):
                    raise Finding(f"{values} led to {output}")

    def array(self) -> None:
        """The API in this process, with one of a few shapes and types."""
        kind = int(self.rng.integers(6))
        rng = np.random.default_rng(kind)
        shape = tuple(int(side) for side in rng.integers(33, 300, 2))
        image = rng.random((*shape, 3)[: 2 + kind % 2], np.float32)
        if kind >= 3:
            image = (255 * image).astype(np.uint8)
        self.same(kind, freqdiff.deblur(image, steps=1 + kind % 2).tobytes())
        with contextlib.suppress(FreqDiffError):
            freqdiff.deblur(image.ravel())
            raise Finding("a flat array was taken for a photo")

    def choice(self, values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def session(self) -> str:
        self.visits += 1
        return f"visit{self.visits}"

    @contextlib.contextmanager
    def visit(self) -> Any:
        """A visit, half of them with an open page."""
        session = self.session()
        with contextlib.ExitStack() as stack:
            if self.rng.random() < 0.5:
                stack.enter_context(self.server.visit(session))
            yield session

    def told(self, output: dict[str, Any]) -> list[Any]:
        """What a run tells the page: sentences, and no error of the server's."""
        if "data" not in output:
            raise Finding(f"the run failed: {output}")
        data: list[Any] = output["data"]
        if not _SENTENCE.match(data[0]) or "Something went wrong" in data[0]:
            raise Finding(f"not a sentence: {data[0]!r}")
        return data

    def same(self, what: object, result: bytes) -> None:
        digest = hashlib.sha256(result).hexdigest()
        if self.expected.setdefault(what, digest) != digest:
            raise Finding(f"{what} has another result than the first time")

    @contextlib.contextmanager
    def refused(self) -> Any:
        """Refusals are fine, failures of the server are not."""
        try:
            yield
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in _REFUSED:
                raise Finding(f"the server answered with {error.code}") from error


def growth(samples: list[float]) -> float:
    """By which share the last fifth of the samples lies above the second."""
    fifth = len(samples) // 5
    if fifth == 0:
        return 0.0
    first, last = (statistics.median(samples[at : at + fifth]) for at in (fifth, 4 * fifth))
    return last / first - 1


def put_to_load(minutes: float, log: Path, seed: int = 0) -> dict[str, Any]:
    """Use the server, whose log is kept, and the API; what happened, as written to the results."""
    counts: collections.Counter[str] = collections.Counter()
    findings: list[str] = []
    memory: dict[str, list[float]] = {"server": [], "api": []}
    files: list[int] = []
    with TemporaryDirectory() as name:
        environment = {**os.environ, "TMPDIR": name}
        with serving("--max-megapixels", "1", log=log, environment=environment) as server:
            load = Load(server, seed)
            began = time.monotonic()
            while (gone := (time.monotonic() - began) / 60) < minutes:
                if gone >= len(files) * minutes / _SAMPLES:
                    memory["server"].append(used_memory(server.process.pid) / 1e6)
                    memory["api"].append(used_memory() / 1e6)
                    files.append(sum(len(names) for _, _, names in os.walk(name)))
                    server_mb, api_mb = (values[-1] for values in memory.values())
                    told = f"server {server_mb:.0f} MB, API {api_mb:.0f} MB, {files[-1]} files"
                    print(f"{gone:.1f} of {minutes:g} min: {told}", flush=True)
                try:
                    counts[load.step()] += 1
                except Finding as finding:
                    findings.append(str(finding)[:2000])
                    print(finding, file=sys.stderr)
                    if server.process.poll() is not None or len(findings) > 20:
                        break
            # Gradio writes of requests that it does not understand; this is what the page writes.
            if "A photo led to an error" in log.read_text(encoding="utf-8"):
                findings.append("a photo led to an error that is in the server's log")
    return {
        "minutes": round((time.monotonic() - began) / 60, 1),
        "counts": dict(counts),
        "findings": findings,
        "growth": {name: round(growth(values), 4) for name, values in memory.items()},
        "memory_mb": {name: [round(v, 1) for v in values] for name, values in memory.items()},
        "files": files,
    }


def main() -> int:
    """Put to load and write what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=240)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "load.json")
    options = parser.parse_args()
    row = put_to_load(options.minutes, options.output.with_suffix(".log"), options.seed)
    line = json.dumps(row | {"provenance": provenance()})
    options.output.write_text(line + "\n", encoding="utf-8")
    print(json.dumps({key: row[key] for key in ("minutes", "counts", "findings", "growth")}))
    return int(bool(row["findings"]) or max(row["growth"].values()) > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
