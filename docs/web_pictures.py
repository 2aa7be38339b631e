"""Takes the pictures of docs/web.md with Chromium, while `freqdiff web` runs.

The photo is `skimage.data.coffee` (CC0), blurred by simulated hand shake.
"""

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from benchmarks.demo import PHOTOS, SEED, SHAKE, picture, tensor
from blursynth.camera import Camera
from blursynth.physics import synthesize

TARGET = Path(__file__).resolve().parent / "pictures"
SIZE = {"width": 1180, "height": 840}


def blurred_photo() -> bytes:
    """A JPEG file."""
    camera = Camera(iso=400, exposure_s=1 / 8, focal_mm=50)
    sharp = tensor(Image.open(PHOTOS / "coffee.png"))
    buffer = io.BytesIO()
    blurred = synthesize(sharp, camera, seed=SEED, recipe=SHAKE).blurred
    picture(blurred).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def save(page: Page, name: str) -> None:
    """The window as a JPEG."""
    page.wait_for_timeout(800)  # for what is animated
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        shot.convert("RGB").save(TARGET / name, quality=82, optimize=True, progressive=True)


def main() -> None:
    """Use the page as a visitor does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", default="http://127.0.0.1:7860/")
    address = parser.parse_args().address
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.goto(address)
        page.wait_for_selector("#status p")
        file = {"name": "coffee.jpg", "mimeType": "image/jpeg", "buffer": blurred_photo()}
        page.set_input_files("#photo input[type=file]", file)
        page.wait_for_selector("#download")
        page.wait_for_selector("#whole img")
        save(page, "web_result.jpg")
        page.get_by_role("tab", name="Blur and trust").click()
        page.wait_for_selector("#maps img")
        save(page, "web_trust.jpg")
        browser.close()


if __name__ == "__main__":
    main()
