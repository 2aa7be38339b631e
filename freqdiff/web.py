"""The web page for others to open: drop a photo, watch the progress, compare, download.

`freqdiff web` serves it, and `mount` puts it into an application.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import fastapi
import gradio as gr
import uvicorn

from freqdiff.errors import InputError
from freqdiff.web_page import CSS, THEME, build_page

__all__ = ["build_page", "mount", "serve"]

_BYTES_PER_PIXEL = 8
"""A TIFF of 16 bit with alpha, not compressed; a photo in another format is smaller."""
# What the page may load: itself alone. Gradio's scripts stand in the page and build functions.
_POLICY = (
    b"default-src 'self' data: blob:; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; "
    b"style-src 'self' 'unsafe-inline'; frame-ancestors 'self'"
)


def mount(
    app: fastapi.FastAPI,
    path: str = "/",
    *,
    model: str = "tiny",
    device: str = "auto",
    max_megapixels: float = 50,
) -> fastapi.FastAPI:
    """Put the page into a FastAPI application.

    Args:
        app: the application.
        path: where in it.
        model, device, max_megapixels: see `build_page`. Files of more than 8 bytes a pixel are
            refused before they are read.

    Returns:
        The application.
    """
    page = build_page(model, device=device, max_megapixels=max_megapixels)
    return gr.mount_gradio_app(
        app,
        page,
        path,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=round(max_megapixels * 1e6 * _BYTES_PER_PIXEL),
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=THEME,
        css=CSS,
    )


def serve(
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    model: str = "tiny",
    device: str = "auto",
    max_megapixels: float = 50,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve the page until the process is interrupted; its temporary files go with it.

    Args:
        host: address to listen at.
        port: to listen at; 0 takes one that is free.
        model, device, max_megapixels: see `build_page`.
        started: called with the address when the page can be opened.

    Raises:
        InputError: the address or port cannot be used.
    """
    with _listen(host, port) as sock, _temporary_folder():
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{sock.getsockname()[1]}/"

        @contextlib.asynccontextmanager
        async def tell(_: fastapi.FastAPI) -> AsyncIterator[None]:
            started(address)
            yield

        app = fastapi.FastAPI(lifespan=tell, openapi_url=None)
        mount(app, model=model, device=device, max_megapixels=max_megapixels)
        config = uvicorn.Config(
            _Guarded(app), log_level="warning", server_header=False, timeout_graceful_shutdown=1
        )
        uvicorn.Server(config).run([sock])


class _Guarded:
    """An application whose pages may load nothing from elsewhere."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", _POLICY),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, send_guarded)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise InputError(
            f"Cannot listen at {host}, port {port}: {error.strerror or error}, so choose another "
            "address or port."
        ) from error


@contextlib.contextmanager
def _temporary_folder() -> Iterator[None]:
    """A folder of its own for all that Gradio and the page write, removed at the end."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="freqdiff-web-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before
