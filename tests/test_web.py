"""The web page in a real browser, and requests that no browser sends.

One server for all tests, started by the command line in a process of its own.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import commands
import pytest
import toys
from PIL import Image, ImageCms

from benchmarks.web_client import WebServer, serving, uploaded
from freqdiff.batch import Settings

if importlib.util.find_spec("gradio") is None:
    pytest.skip("the web page needs gradio", allow_module_level=True)
pytestmark = pytest.mark.slow
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
MEGAPIXELS = 1


@dataclasses.dataclass
class Server:
    """A running `freqdiff web`, and the folder for its temporary files."""

    web: WebServer
    folder: Path

    def temporary_files(self) -> list[Path]:
        # Unlike rglob, walk bears folders that the server removes meanwhile.
        return [Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("temporary")
    environment = {**ENVIRONMENT, "TMPDIR": str(folder)}
    options = ("--max-megapixels", str(MEGAPIXELS))
    with serving(*options, log=folder.parent / "log", environment=environment) as web:
        running = Server(web, folder)
        yield running
        web.process.send_signal(signal.SIGINT)
        assert web.process.wait(timeout=30) == 130
        assert running.temporary_files() == []


def photo(blur: int = 5, kind: str = "JPEG", size: tuple[int, int] = (240, 320)) -> bytes:
    """A blurred photo with metadata."""
    from PIL import ImageFilter

    picture = Image.fromarray(toys.picture(*size)).filter(ImageFilter.BoxBlur(blur // 2))
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=92, exif=exif, icc_profile=icc)
    return buffer.getvalue()


def refusal(call: Callable[[], object]) -> int:
    """The status with which a request is refused."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        call()
    refused.value.close()
    return refused.value.code


def test_crafted_requests_reach_no_other_file(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.fromarray(toys.picture(32, 32)).save(secret)
    for number, path in enumerate((secret, "/etc/hostname", "http://127.0.0.1:9/a.png")):
        output = server.web.ask(str(path), session=f"crafted{number}")
        assert output["error"] == "Expected a photo that was sent to this page."
    file = uploaded(str(secret))
    sent = server.web.upload("a.jpg", photo())
    assert "error" in server.web.ask(sent, file, 1, "tiny", session="crafted3")
    assert (
        "not in the list" in server.web.ask(sent, 1, 1, str(tmp_path), session="crafted4")["error"]
    )
    assert "less than" in server.web.ask(sent, -1, 1, "tiny", session="crafted5")["error"]
    assert not any(path.name == "secret.png" for path in server.temporary_files())
    for path in (secret, "/etc/hostname", Path(__file__)):
        assert refusal(lambda p=path: server.web.get(f"gradio_api/file={p}")) == 403


def test_hostile_names_of_uploads(server: Server) -> None:
    names = ("../../../escaped.jpg", "$(touch pwned).jpg", "a%00b.jpg", "\u202egpj.exe.jpg")
    for number, name in enumerate(names):
        path = Path(server.web.upload(name, photo()))
        assert path.is_relative_to(server.folder)
        output = server.web.ask(str(path), session=f"hostile{number}")
        result = Path(output["data"][2]["value"]["path"])
        assert result.is_relative_to(server.folder)
        assert re.fullmatch(r"[\w .()+-]+_sharp\.jpg", result.name)


def test_too_large_an_upload_is_refused_while_it_comes(server: Server) -> None:
    before = server.temporary_files()
    content = b"\xff" * (8 * 10**6 * MEGAPIXELS + 1000)
    assert refusal(lambda: server.web.upload("a.jpg", content)) == 413
    assert server.temporary_files() == before


def test_the_page_allows_nothing_from_elsewhere(server: Server) -> None:
    with urllib.request.urlopen(server.web.address, timeout=60) as answer:
        policy = answer.headers["Content-Security-Policy"]
        config = json.loads(
            re.search(rb"window\.gradio_config = (\{.*?\});</script>", answer.read()).group(1)
        )
    assert policy.startswith("default-src 'self'")
    assert "http" not in policy
    assert config["analytics_enabled"] is False
    assert config["footer_links"] == []


def test_visits_without_an_open_page_end_with_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from freqdiff import web_page

    work = web_page._Work("cpu", 10**6)

    def run(session: str) -> Path:
        sent = tmp_path / f"{session}.jpg"
        sent.write_bytes(photo())
        arguments = (tmp_path / "cache", session, "tiny", Settings(), lambda *told: None)
        return work.sharpen(sent, *arguments).result

    first = run("first")
    second = run("second")
    clock = time.monotonic() + web_page.KEPT_S
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    work.visits["second"].used = clock
    third = run("third")
    assert set(work.visits) == {"second", "third"}
    assert second.is_file()
    assert third.is_file()
    assert not first.parent.exists()
    assert not (tmp_path / "first.jpg").exists()
    work.cancel("unknown")
    work.leave("unknown")
    assert len(work.visits) == 2


def test_who_leaves_while_the_result_is_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from freqdiff import web_job, web_page

    work = web_page._Work("cpu", 10**6)
    (tmp_path / "a.jpg").write_bytes(photo())
    arguments = (tmp_path / "a.jpg", tmp_path / "cache", "a", "tiny", Settings())

    def told(share: float, what: str) -> None:
        if what == "Drawing the pictures":
            monkeypatch.setattr(web_job, "draw_check", leaving)

    def leaving(*given: Any) -> Any:
        work.leave("a")
        return Image.new("RGB", (8, 8))

    with pytest.raises(web_job.Cancelled):
        work.sharpen(*arguments, told)
    assert list((tmp_path / "cache").iterdir()) == []


def test_servers_that_cannot_start() -> None:
    """In a process of its own, because Gradio leaves event loops open."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        lines = [["--port", port], ["--host", "192.0.2.1"], ["--port", "0", "--model", "huge"]]
        program = (
            "from freqdiff.cli import main\n"
            f"print([main(['web', *line]) for line in {lines}], flush=True)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT
        )
    assert done.stdout == "[1, 1, 1]\n"
    first, second, third = done.stderr.splitlines(keepends=True)
    commands.sentence(first, "127.0.0.1", f"port {port}", "another")
    commands.sentence(second, "192.0.2.1", "another")
    commands.sentence(third, "'huge'", "shipped")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs the browser chromium")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("needs the package playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page, freshly opened; it loads nothing from elsewhere, and no script shows an error."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
    page = context.new_page()
    elsewhere: list[str] = []
    errors: list[str] = []
    page.on(
        "request",
        lambda request: (
            request.url.startswith((server.web.address, "data:", "blob:"))
            or elsewhere.append(request.url)
        ),
    )
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(server.web.address)
    for part in ("#photo input[type=file]", "#status p", "#stop"):
        page.wait_for_selector(part, state="attached")
    yield page
    context.close()
    assert elsewhere == []
    assert errors == []


def send(page: Any, name: str, content: bytes) -> None:
    page.set_input_files(
        "#photo input[type=file]", {"name": name, "mimeType": "image/jpeg", "buffer": content}
    )


def status(page: Any, words: str) -> str:
    """Wait until the status says something; returns all of it."""
    page.wait_for_function(
        "words => document.querySelector('#status').innerText.includes(words)",
        arg=words,
        timeout=60_000,
    )
    return str(page.inner_text("#status"))


def test_from_upload_to_download(page: Any, server: Server, tmp_path: Path) -> None:
    content = photo()
    send(page, "Grüße <b>.jpg", content)
    said = status(page, "of the photo changed")
    assert "320 x 240 pixels in" in said
    assert "green in the map" in said
    with page.expect_download() as waiting:
        page.click("#download")
    download = waiting.value
    assert download.suggested_filename == "Grüße b_sharp.jpg"
    (tmp_path / "a.jpg").write_bytes(content)
    command = [sys.executable, "-m", "freqdiff", "deblur", "a.jpg", "-o", "b.jpg"]
    subprocess.run(command, check=True, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    assert Path(download.path()).read_bytes() == (tmp_path / "b.jpg").read_bytes()
    with Image.open(tmp_path / "b.jpg") as result:
        assert result.getexif()[0x010F] == "A camera"
        assert result.info["icc_profile"]

    for tab, name in (("Detail in full size", "#detail"), ("Whole photo", "#whole")):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_function(
            "name => [...document.querySelectorAll(name + ' img')].filter("
            "img => img.complete && img.naturalWidth === 320).length === 2",
            arg=name,
        )
    page.get_by_role("tab", name="Blur and trust").click()
    page.wait_for_function("document.querySelector('#maps img').naturalWidth === 648")


def test_the_slider_moves(page: Any) -> None:
    send(page, "a.jpg", photo())
    status(page, "of the photo changed")
    after = page.locator("#whole img").nth(1)
    after.scroll_into_view_if_needed()
    page.wait_for_function(
        "document.querySelectorAll('#whole img')[1].style.clipPath.includes('50%')"
    )
    box = after.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, middle, steps=4)
    page.mouse.up()
    shares = re.findall(r"([\d.]+)%", after.get_attribute("style"))
    assert 70 < float(shares[0]) < 90


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"Dear diary", "'a.jpg': it is not a picture; expected a JPEG"),
        (photo()[:4000], "damaged or cut off"),
        (photo(size=(1200, 1000)), "it has 1000 x 1200 pixels; expected at most 1,000,000"),
    ],
    ids=["text", "cut off", "too many pixels"],
)
def test_what_is_no_photo(page: Any, server: Server, content: bytes, words: str) -> None:
    send(page, "a.jpg", content)
    said = status(page, "Cannot read 'a.jpg'")
    assert words in said
    assert str(server.folder) not in said
    assert page.locator("#download").is_hidden()


def test_too_large_a_file(page: Any) -> None:
    send(page, "a.jpg", b"\xff" * (8 * 10**6 * MEGAPIXELS + 1000))
    page.wait_for_selector("text=/exceed the maximum allowed size of 7.6 Mb/", timeout=60_000)


def test_cancel_stops_the_work(page: Any, server: Server) -> None:
    page.fill("#steps input[type=number]", "16")
    page.press("#steps input[type=number]", "Enter")
    page.get_by_label("8x").check()
    began = time.monotonic()
    send(page, "a.jpg", photo(size=(900, 1000)))
    said = status(page, "Sharpening part 3 of 128")
    each = (time.monotonic() - began) / 3
    page.click("#stop")
    status(page, "Cancelled.")
    page.get_by_label("off").check()
    page.fill("#steps input[type=number]", "1")
    page.press("#steps input[type=number]", "Enter")
    began = time.monotonic()
    page.click("#start")
    status(page, "of the photo changed")
    # The first job has 124 parts left, and only one job works at a time.
    assert time.monotonic() - began < 40 * each, said


def test_a_visitor_who_leaves_takes_the_files_along(page: Any, server: Server) -> None:
    before = set(server.temporary_files())
    send(page, "leaving.jpg", photo(blur=9))
    status(page, "of the photo changed")
    assert {path.name for path in server.temporary_files()} >= {"leaving.jpg", "leaving_sharp.jpg"}
    page.close()
    deadline = time.monotonic() + 30
    while set(server.temporary_files()) - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert set(server.temporary_files()) <= before
