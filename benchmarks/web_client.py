"""Requests to `freqdiff web` as programs send them, well-behaved and other ones."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

_TIMEOUT_S = 120


@contextlib.contextmanager
def serving(*options: str, log: Path, environment: dict[str, str]) -> Iterator[WebServer]:
    """A server at a free port of this machine, started by the command line.

    Raises:
        RuntimeError: it did not start; the message is its log.
    """
    command = [sys.executable, "-m", "freqdiff", "web", "--port", "0", *options]
    with (
        open(log, "w", encoding="utf-8") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"The page is at (http://127\.0\.0\.1:\d+/)", line)
        try:
            if found is None:
                raise RuntimeError(line + log.read_text(encoding="utf-8"))
            yield WebServer(found.group(1), process)
        finally:
            process.kill()


class WebServer:
    """A running server.

    Attributes:
        address: of the page, with a slash at the end.
        process: the server's.
    """

    def __init__(self, address: str, process: subprocess.Popen[str]) -> None:
        self.address = address
        self.process = process

    def get(self, path: str) -> bytes:
        """What the server answers; raises urllib.error.HTTPError where it refuses."""
        with urllib.request.urlopen(self.address + path, timeout=_TIMEOUT_S) as answer:
            return bytes(answer.read())

    def post(self, path: str, content: bytes, kind: str = "application/json") -> Any:
        """Send bytes; returns the JSON that comes back."""
        request = urllib.request.Request(self.address + path, content, {"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return json.load(answer)

    def upload(self, name: str, content: bytes) -> str:
        """Send a file, as a form; returns its path at the server."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + b"\r\n--x--\r\n"
        (path,) = self.post("gradio_api/upload", body, "multipart/form-data; boundary=x")
        return str(path)

    @contextlib.contextmanager
    def visit(self, session: str) -> Iterator[None]:
        """A page that is open meanwhile."""
        address = f"{self.address}gradio_api/heartbeat/{session}"
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S):
            yield

    def join(self, data: list[Any], session: str) -> None:
        """Ask for the page's function, with its inputs: file, steps, ensemble, model."""
        functions = json.loads(self.get("config"))["dependencies"]
        (run,) = (each["id"] for each in functions if len(each["inputs"]) == 4)
        body = {"data": data, "fn_index": run, "session_hash": session}
        self.post("gradio_api/queue/join", json.dumps(body).encode())

    def events(self, session: str) -> Iterator[dict[str, Any]]:
        """What the server tells a session, as it comes."""
        stream = f"{self.address}gradio_api/queue/data?session_hash={session}"
        with urllib.request.urlopen(stream, timeout=_TIMEOUT_S) as lines:
            for line in lines:
                if line.startswith(b"data:"):
                    yield json.loads(line[5:])

    def ask(self, path: object, *settings: object, session: str) -> dict[str, Any]:
        """Run the page's function on a file that the server is told to have; its output."""
        self.join([uploaded(path), *(settings or (1, 1, "tiny"))], session)
        for event in self.events(session):
            if event["msg"] == "process_completed":
                return dict(event["output"])
        raise RuntimeError("The server closed the stream of events without an answer.")

    def download(self, output: dict[str, Any]) -> bytes:
        """The result behind the button of a function's output."""
        return self.get(f"gradio_api/file={quote(output['data'][2]['value']['path'])}")


def uploaded(path: object) -> dict[str, Any]:
    """A file as the page names it to the server."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}}
