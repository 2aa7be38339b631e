"""The web page as Gradio blocks, and what happens when somebody uses it."""

from __future__ import annotations

import dataclasses
import html
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

# Read by Gradio when it is imported and when a page is built: it would look for a newer version of
# itself on the network.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from freqdiff.batch import Settings
from freqdiff.checkpoint import shipped_models
from freqdiff.deblurrer import ENSEMBLES, Deblurrer, load
from freqdiff.errors import FreqDiffError
from freqdiff.photo import INPUT_SUFFIXES
from freqdiff.web_job import Cancelled, Sharpened, sharpen

MAX_STEPS = 16
KEPT_S = 3600
"""How long files are kept for a page that stays open, in seconds."""
_SWEEP_S = 60
_QUEUE = 20
_SESSIONS = 100
"""Visits of which Gradio remembers what the page shows, each in a quarter of a megabyte."""
_LOG = logging.getLogger(__name__)

THEME = gr.themes.Soft(
    primary_hue="amber",
    neutral_hue="stone",
    font=["system-ui", "sans-serif"],
    font_mono=["ui-monospace", "monospace"],
).set(
    block_label_background_fill="*background_fill_primary",
    block_label_text_color="*body_text_color",
    block_title_background_fill="none",
    block_title_padding="0",
    block_title_text_color="*body_text_color",
)
CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; }
#title h1 { margin-bottom: 0; }
#status { min-height: 5.5em; }
#status p { margin: 0.15em 0; }
#status .error { color: #b42318; font-weight: 600; }
.dark #status .error { color: #fda29b; }
"""
_TITLE = """# FreqDiff
Makes blurred photos sharp. Your photo stays on the computer that serves this page, and is deleted
when you leave."""
_BEGIN = "Drop a photo to begin."
_MAPS = """Left: lines along the blur, as long as it is. Right: green where the result is likely to
be right, red where you should look closely."""


@dataclasses.dataclass
class _Visit:
    """One open page: its job, the files that it sent, and the folders of its results.

    `used` is when it was last worked for, in seconds of the monotonic clock.
    """

    used: float = dataclasses.field(default_factory=time.monotonic)
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)
    uploads: set[Path] = dataclasses.field(default_factory=set)
    folders: list[Path] = dataclasses.field(default_factory=list)


class _Work:
    """What the functions behind the page share: the visits, and one job at a time."""

    def __init__(self, device: str, max_pixels: int) -> None:
        self.device, self.max_pixels = device, max_pixels
        self.visits: dict[str, _Visit] = {}
        self.models: dict[str, Deblurrer] = {}
        self.busy = threading.Lock()

    def model(self, name: str) -> Deblurrer:
        """Load a model when it is first used."""
        if name not in self.models:
            self.models[name] = load(name, self.device)
        return self.models[name]

    def visit(self, session: str | None) -> _Visit:
        """The visit, perhaps a new one; those whose files are too old to be kept end.

        Programs open no page, so that nothing tells when they are gone.
        """
        oldest = time.monotonic() - KEPT_S
        for name, visit in list(self.visits.items()):
            if visit.used < oldest:
                self.leave(name)
        return self.visits.setdefault(session or "", _Visit())

    def cancel(self, session: str | None) -> None:
        """Stop the job of a visit after the tile that it is at; the next one is a new job."""
        if visit := self.visits.get(session or ""):
            visit.cancelled.set()
            visit.cancelled = threading.Event()

    def leave(self, session: str | None) -> None:
        """Stop the job of a visit and delete its files."""
        self.cancel(session)
        visit = self.visits.pop(session or "", _Visit())
        # Equal photos of two visitors are one file.
        for upload in visit.uploads.difference(*(other.uploads for other in self.visits.values())):
            upload.unlink(missing_ok=True)
        for folder in visit.folders:
            shutil.rmtree(folder, ignore_errors=True)

    def sharpen(
        self,
        photo: Path,
        cache: Path,
        session: str | None,
        model: str,
        settings: Settings,
        report: Callable[[float, str], None],
    ) -> Sharpened:
        """Deblur a photo into a new folder of the visit, whose earlier ones go.

        Raises:
            Cancelled: the visitor left, or wanted it no more.
            FreqDiffError: the photo cannot be used.
        """
        visit = self.visit(session)
        visit.uploads.add(photo)
        cancelled = visit.cancelled

        def go_on(share: float, what: str) -> None:
            if cancelled.is_set():
                raise Cancelled
            visit.used = time.monotonic()
            report(share, what)

        go_on(0.0, "Waiting for its turn")
        with self.busy:
            while visit.folders:
                shutil.rmtree(visit.folders.pop(), ignore_errors=True)
            folder = cache / secrets.token_hex(16)
            folder.mkdir(parents=True)
            visit.folders.append(folder)
            try:
                return sharpen(photo, folder, self.model(model), settings, self.max_pixels, go_on)
            except Exception as error:
                # A visitor who leaves takes the folder along while it is written to.
                if cancelled.is_set():
                    raise Cancelled from error
                raise
            finally:
                # What was written after the visitor left is in no list any more.
                if cancelled.is_set():
                    shutil.rmtree(folder, ignore_errors=True)


def build_page(
    model: str = "tiny", *, device: str = "auto", max_megapixels: float = 50
) -> gr.Blocks:
    """The page as Gradio blocks, to be launched or mounted.

    Args:
        model: name of a shipped model or model folder, offered beside the shipped ones.
        device: "auto", "cpu", "cuda", ...
        max_megapixels: limit for the size of photos, in millions of pixels.

    Raises:
        ModelError: no such model.
        InputError: no such device.
    """
    work = _Work(device, round(max_megapixels * 1e6))
    steps_of_model = work.model(model).denoiser.config.default_steps
    page = gr.Blocks(title="FreqDiff", analytics_enabled=False, delete_cache=(_SWEEP_S, KEPT_S))
    page.state_session_capacity = _SESSIONS
    cache = Path(page.GRADIO_CACHE)
    with page:
        gr.Markdown(_TITLE, elem_id="title")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo, steps, ensemble, name, start, stop = _controls(
                    [model, *shipped_models()], steps_of_model, max_megapixels
                )
            with gr.Column(scale=2, min_width=320):
                status, shown, download, whole, detail, maps = _results()

        def prepare(request: gr.Request) -> tuple[str, Any]:
            work.cancel(request.session_hash)
            return "", gr.Column(visible=False)

        def run(
            path: str | None,
            steps: int,
            ensemble: int,
            model: str,
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008  how Gradio hands it over
        ) -> tuple[Any, ...]:
            nothing = (gr.Column(visible=False), None, None, None, None)
            if path is None:
                return (_paragraphs([_BEGIN]), *nothing)
            settings = Settings(steps=min(max(int(steps), 1), MAX_STEPS), ensemble=ensemble)
            session = request.session_hash
            try:
                made = work.sharpen(Path(path), cache, session, model, settings, progress)
            except Cancelled:
                return (_paragraphs(["Cancelled."]), *nothing)
            except FreqDiffError as error:
                return (_paragraphs([str(error)], "error"), *nothing)
            # The visitor gets a sentence whatever happens, and the log of the server the details.
            except Exception:
                _LOG.exception("A photo led to an error.")
                sentence = "Something went wrong on the server; its log tells what."
                return (_paragraphs([sentence], "error"), *nothing)
            button = gr.DownloadButton(f"Download {made.result.name}", value=made.result)
            return (
                *(_paragraphs(made.lines), gr.Column(visible=True), button),
                *(made.whole, made.detail, made.maps),
            )

        outputs = [status, shown, download, whole, detail, maps]
        begun = gr.on(
            [photo.upload, start.click],
            prepare,
            outputs=[status, shown],
            queue=False,
            show_progress="hidden",
            trigger_mode="multiple",
            api_visibility="private",
        )
        ran = begun.then(
            run,
            [photo, steps, ensemble, name],
            outputs,
            show_progress_on=status,
            concurrency_limit=1,
            api_visibility="private",
        )

        def cancel(request: gr.Request) -> tuple[str, Any]:
            return _paragraphs(["Cancelled."]), prepare(request)[1]

        def begin_again(request: gr.Request) -> tuple[str, Any]:
            return _paragraphs([_BEGIN]), prepare(request)[1]

        for trigger, function in ((stop.click, cancel), (photo.clear, begin_again)):
            trigger(
                function,
                outputs=[status, shown],
                cancels=[ran],
                queue=False,
                show_progress="hidden",
                api_visibility="private",
            )

        def leave(request: gr.Request) -> None:
            work.leave(request.session_hash)

        page.unload(leave)
    page.queue(max_size=_QUEUE, api_open=False)
    _take_uploads_alone(page, cache)
    return page


def _controls(models: list[str], default_steps: int, max_megapixels: float) -> tuple[Any, ...]:
    """Photo, steps, ensemble, model, and the buttons that start and stop."""
    photo = gr.File(
        label=f"Photo of up to {max_megapixels:g} megapixels",
        file_types=sorted(INPUT_SUFFIXES),
        height=180,
        elem_id="photo",
    )
    photo.preprocess = _path_of
    steps = gr.Slider(
        1,
        MAX_STEPS,
        value=min(default_steps, MAX_STEPS),
        step=1,
        label="Steps",
        info="1 stays closest to what was there. More steps are slower and add "
        "texture as it could have been.",
        elem_id="steps",
    )
    ensemble = gr.Radio(
        [(f"{count}x" if count > 1 else "off", count) for count in ENSEMBLES],
        value=1,
        label="Average of mirrored and turned versions",
        info="A little better, and as many times as slow.",
        elem_id="ensemble",
    )
    name = gr.Dropdown(list(dict.fromkeys(models)), value=models[0], label="Model", elem_id="model")
    with gr.Row():
        start = gr.Button("Sharpen", variant="primary", elem_id="start")
        stop = gr.Button("Cancel", variant="stop", elem_id="stop")
    return photo, steps, ensemble, name, start, stop


def _results() -> tuple[Any, ...]:
    """Status, and the column of download, sliders and maps, which is hidden at first."""
    status = gr.HTML(_paragraphs([_BEGIN]), elem_id="status", padding=True)
    with gr.Column(visible=False) as shown:
        download = gr.DownloadButton(
            "Download the sharp photo", variant="primary", elem_id="download"
        )
        with gr.Tab("Whole photo"):
            whole = _slider("Before and after: drag the line", "whole")
        with gr.Tab("Detail in full size"):
            detail = _slider("The place that changed most, pixel by pixel", "detail")
        with gr.Tab("Blur and trust"):
            maps = gr.Image(show_label=False, buttons=["fullscreen"], format="png", elem_id="maps")
            gr.Markdown(_MAPS)
    return status, shown, download, whole, detail, maps


def _path_of(upload: Any) -> str | None:
    """The path of an upload; Gradio's own function leaves an empty file behind for each."""
    return None if upload is None else str(upload.path)


def _slider(label: str, name: str) -> gr.ImageSlider:
    return gr.ImageSlider(
        label=label, type="filepath", buttons=["fullscreen"], max_height=640, elem_id=name
    )


def _paragraphs(lines: Iterable[str], kind: str = "done") -> str:
    """Sentences as HTML, in which nothing of a photo's name counts as code."""
    return "".join(f'<p class="{kind}">{html.escape(line)}</p>' for line in lines)


def _take_uploads_alone(page: gr.Blocks, cache: Path) -> None:
    """Refuse what a crafted request may name in place of an upload: Gradio would fetch an address
    from the network, and in a mounted page read any file."""
    for block in page.blocks.values():
        move = block.async_move_resource_to_block_cache
        block.async_move_resource_to_block_cache = _from_cache_only(move, cache)


def _from_cache_only(
    move: Callable[[Any], Awaitable[str | None]], cache: Path
) -> Callable[..., Any]:
    async def moved(path: Any) -> str | None:
        inside = path is None or Path(path).resolve().is_relative_to(cache.resolve())
        if not inside or "://" in str(path):
            raise gr.Error("Expected a photo that was sent to this page.", print_exception=False)
        return await move(path)

    return moved
