"""How long a visitor of `freqdiff web` waits: `python -m benchmarks.web_speed`.

A server is started, gets a JPEG as a browser sends it, and is asked for one step of the shipped
model: for the first photo after its start, which loads the model, and for a second one. Times count
from the beginning of the upload; the result is downloaded in the end. Writes
benchmarks/results/web_speed.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness import RESULTS, provenance
from benchmarks.web_client import WebServer, serving, uploaded


def drawn_photo(width: int, height: int, seed: int) -> bytes:
    """A JPEG of coarse random colours, which is blurred everywhere."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (-(-height // 16), -(-width // 16), 3), np.uint8
    )
    photo = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def wait(server: WebServer, content: bytes, session: str) -> dict[str, float]:
    """Seconds until the upload, the first sign of progress, the result and the download are there.

    Raises:
        RuntimeError: the server has no result.
    """
    begun, times = time.monotonic(), dict[str, float]()

    def note(what: str) -> None:
        times.setdefault(what, round(time.monotonic() - begun, 3))

    path = server.upload("photo.jpg", content)
    note("upload_s")
    server.join([uploaded(path), 1, 1, "tiny"], session)
    output: dict[str, Any] = {}
    for event in server.events(session):
        if event["msg"] == "progress":
            note("progress_s")
        if event["msg"] == "process_completed":
            note("result_s")
            output = event["output"]
            break
    if 'class="done"' not in str(output.get("data", [""])[0]):
        raise RuntimeError(f"The server made no result: {output}")
    server.download(output)
    note("download_s")
    return times


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", nargs=2, type=int, default=(4000, 3000), metavar=("W", "H"))
    parser.add_argument("--output", type=Path, default=RESULTS / "web_speed.json")
    options = parser.parse_args()
    width, height = options.size
    rows = []
    with TemporaryDirectory() as name:
        environment = {**os.environ, "TMPDIR": name}
        with serving(log=Path(name) / "log", environment=environment) as server:
            for number in range(2):
                times = wait(server, drawn_photo(width, height, number), f"visit{number}")
                rows.append({"width": width, "height": height, "photo": number + 1, **times})
                print(json.dumps(rows[-1]), flush=True)
    result = {"rows": rows, "provenance": provenance()}
    options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
