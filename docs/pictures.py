"""Draws the pictures of the documentation by the code itself: `python docs/pictures.py`."""

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import pyplot
from matplotlib.axes import Axes
from PIL import Image, ImageDraw
from torch import Tensor

import freqdiff
from blursynth import Camera, Conditions, DiffusionConfig, Hand, shot, synthesize
from blursynth.psf_picture import draw_kernels
from freqdiff.blur_filter import CELL, kernels_of
from freqdiff.check_picture import draw_check
from freqdiff.sampling import ddim, frame_noise
from freqdiff_kernels import ops

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "pictures"


def photo() -> Tensor:
    """(3, 384, 576) in [0, 1]."""
    with Image.open(ROOT / "benchmarks" / "demo" / "coffee.png") as image:
        pixels = np.asarray(image.convert("RGB"))[:384, :576]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255


def show(axes: Axes, image: Tensor, title: str, **options: object) -> None:
    """(3, H, W) or (H, W) without axes."""
    values = image.permute(1, 2, 0) if image.dim() == 3 else image
    axes.imshow(values.numpy(), **options)  # type: ignore[arg-type]
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()


def save(name: str) -> None:
    """The figure as a picture of few colours, which is enough here and a third of the size."""
    pyplot.savefig(TARGET / name, dpi=64)
    pyplot.close()
    with Image.open(TARGET / name) as picture:
        small = picture.convert("RGB").quantize(128)
    small.save(TARGET / name, optimize=True)


def mosaic(features: Tensor, part: int, window: int) -> Tensor:
    """One block of the features, the spectrum of each token drawn at its place."""
    rows, columns, channels = features.shape[1:]
    slots = features.reshape(rows, columns, 3, window, window // 2)[:, :, part]
    assert channels == 3 * window**2 // 2
    return slots.roll(window // 2, 2).permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)


def fft_features(image: Tensor) -> None:
    window = 32
    features = ops.fft_features(image[None], window, window)
    _, axes = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    show(axes[0], image, "photo")
    show(
        axes[1],
        mosaic(features, 0, window),
        "log magnitude of 32 px windows",
        cmap="magma",
        aspect=0.5,
    )
    show(axes[2], mosaic(features, 1, window), "cosine of the phase", cmap="coolwarm", aspect=0.5)
    save("fft_features.png")


def fft_bands(image: Tensor) -> None:
    bands = ops.fft_bands(image[None], 16, 8, 4, 4)
    _, axes = pyplot.subplots(1, 4, figsize=(16, 3.2), layout="constrained")
    for ring in range(4):
        title = f"{ring / 8:.3f} to {(ring + 1) / 8:.3f} cycles per pixel"
        show(axes[ring], bands[0, ..., 4 * ring : 4 * ring + 4].mean(-1), title, cmap="magma")
    save("fft_bands.png")


def halo_attention() -> None:
    window, halo, size = 8, 4, 40
    query = torch.zeros(1, size, size, 1, 16)
    position = (19, 21)
    key = torch.randn(1, size, size, 1, 16, generator=torch.Generator().manual_seed(2))
    query[0, position[0], position[1], 0] = key[0, position[0] + 2, position[1] - 3, 0]
    # The weight of a key is how much the result changes with its value.
    value = torch.zeros(1, size, size, 1, 16, requires_grad=True)
    out = ops.halo_attention(query, key, value, window, halo)
    (grad,) = torch.autograd.grad(out[0, position[0], position[1], 0, 0], value)
    weights = grad[0, :, :, 0, 0]
    _, axes = pyplot.subplots(figsize=(5, 5), layout="constrained")
    show(axes, weights, "weights of one query (circle)", cmap="viridis")
    top, left = position[0] // window * window, position[1] // window * window
    for extra, style in ((0, "solid"), (halo, "dashed")):
        side = window + 2 * extra
        corner = (left - extra - 0.5, top - extra - 0.5)
        axes.add_patch(
            pyplot.Rectangle(corner, side, side, fill=False, edgecolor="white", linestyle=style)
        )
    axes.plot(position[1], position[0], "o", color="none", markeredgecolor="red", markersize=9)
    save("halo_attention.png")


def stitch_tiles(image: Tensor) -> None:
    starts = ([0, 160], [0, 176, 352])
    tiles = ops.extract_tiles(image, (224, 224), starts)
    shades = torch.linspace(0.6, 1.3, len(tiles))[:, None, None, None]
    hard = image.clone()
    for tile, y, x in zip(tiles * shades, [0, 0, 0, 160, 160, 160], [0, 176, 352] * 2, strict=True):
        hard[:, y : y + 224, x : x + 224] = tile[:, :, : 576 - x]
    size = (image.shape[1], image.shape[2])
    blended = ops.stitch_tiles(tiles * shades, starts, size)
    _, axes = pyplot.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    show(axes[0], hard.clamp(0, 1), "six tiles of different brightness, pasted")
    show(axes[1], blended.clamp(0, 1), "stitch_tiles")
    show(axes[2], ops.stitch_tiles(tiles, starts, size), "equal tiles: the photo, bit for bit")
    save("stitch_tiles.png")


def ddim_step(image: Tensor) -> None:
    states: list[Tensor] = []

    def denoise(x: Tensor, t: int) -> Tensor:
        states.append(x[0])
        return (image * 2 - 1)[None].clone()

    ddim(denoise, frame_noise(0, *image.shape[1:]), 4)
    _, axes = pyplot.subplots(1, 4, figsize=(16, 3.2), layout="constrained")
    for axis, state, t in zip(axes, states, (999, 749, 499, 249), strict=True):
        show(axis, (state * 0.5 + 0.5).clamp(0, 1), f"x at t = {t}")
    save("ddim_step.png")


def filter_grid(image: Tensor) -> None:
    radius, step = 24, 96
    size = (image.shape[1], image.shape[2])
    y, x = torch.meshgrid(
        *(torch.arange(0, length + 1, step) - length / 2 for length in size), indexing="ij"
    )
    time = torch.linspace(-0.5, 0.5, 128)
    roll = 0.08 * time[:, None] * torch.stack((x, -y), -1)[:, :, None]
    shake = torch.stack((9 * time, 3 * torch.sin(9 * time)), -1)
    paths = roll + shake
    kernels = ops.rasterize_paths(paths, torch.full(paths.shape[:-1], 1 / 128), radius)
    padded = F.pad(image[None], (radius,) * 4, mode="reflect")[0]
    _, axes = pyplot.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    show(
        axes[0],
        kernels.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1).sqrt(),
        "kernels of a roll and a tremor, at the nodes",
        cmap="magma",
    )
    show(axes[1], ops.filter_grid(padded, kernels, step), "filter_grid")
    save("filter_grid.png")


def blursynth_settings(image: Tensor, engine: str | DiffusionConfig, name: str) -> None:
    """The photo as a part of a 4K frame, taken with several settings."""
    frame, origin = (2160, 3840), (888, 1632)
    camera = Camera(focal_mm=50, focus_distance_m=2, f_number=4)
    # A table: near at the lower edge, far at the upper one.
    depth = torch.linspace(2.6, 1.8, image.shape[1])[:, None].expand(image.shape[1:])
    shaken: dict[str, Any] = {"conditions": Conditions(hand=Hand())}
    tripod: dict[str, Any] = {"conditions": Conditions(hand=None)}
    shots = {
        "1/500 s": (dataclasses.replace(camera, exposure_s=1 / 500), shaken),
        "1/60 s": (dataclasses.replace(camera, exposure_s=1 / 60), shaken),
        "1/15 s": (dataclasses.replace(camera, exposure_s=1 / 15), shaken),
        "1/4 s": (dataclasses.replace(camera, exposure_s=1 / 4), shaken),
        "f/1.8, tripod": (dataclasses.replace(camera, f_number=1.8), tripod | {"depth_m": depth}),
        "f/8, tripod": (dataclasses.replace(camera, f_number=8), tripod | {"depth_m": depth}),
        "ISO 100, tripod": (dataclasses.replace(camera, iso=100), tripod),
        "ISO 6400, tripod": (dataclasses.replace(camera, iso=6400), tripod),
    }
    width, height, gap, line = 288, 256, 6, 20
    sheet = Image.new("RGB", (4 * (width + gap) - gap, 2 * (height + line)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (title, (settings, options)) in enumerate(shots.items()):
        result = synthesize(
            image, settings, engine=engine, seed=3, frame_size=frame, origin=origin, **options
        )
        pixels = (result.blurred * 255).byte().permute(1, 2, 0).numpy()[64 : 64 + height, 180:468]
        left, top = index % 4 * (width + gap), index // 4 * (height + line)
        draw.text((left + 2, top + 2), title, fill="black", font_size=14)
        sheet.paste(Image.fromarray(np.ascontiguousarray(pixels)), (left, top + line))
    sheet.save(TARGET / name, quality=85)


def blursynth_kernels() -> None:
    """Half a second with a wide lens, out of focus, and a rolling shutter."""
    camera = Camera(focal_mm=20, exposure_s=1 / 2, f_number=2, focus_distance_m=1, blades=6)
    conditions = Conditions(distance_m=3, readout_s=1 / 15, cat_eye=0.8)
    size = (2400, 3600)
    scene = shot.take(np.random.default_rng(5), camera, size, conditions)
    draw_kernels(scene, size).save(TARGET / "blursynth_kernels.png", optimize=True)


def self_check(image: Tensor) -> None:
    """The photo as a part of a frame whose camera shook, out of focus, as the model sees it."""
    camera = Camera(focal_mm=50, exposure_s=1 / 6, focus_distance_m=2, f_number=5.6)
    scene = {"frame_size": (2160, 3840), "origin": (888, 1632)}
    hand = Conditions(hand=Hand(drift_deg_s=1.5))
    blurred = synthesize(image, camera, seed=4, conditions=hand, **scene).blurred  # type: ignore[arg-type]
    result = freqdiff.load("tiny", "cpu").restore(blurred[None], check=True)
    assert result.check is not None
    draw_check(blurred, result.check).save(TARGET / "self_check.jpg", quality=85)


def how_it_works(image: Tensor) -> None:
    """The photo shaken along a line, the kernels that were estimated, their filter, the result."""
    scene = {"frame_size": (2160, 3840), "origin": (888, 1632)}
    camera = Camera(focal_mm=50, exposure_s=1 / 4, focus_distance_m=2, f_number=5.6)
    hand = Conditions(hand=Hand(drift_deg_s=1.5))
    blurred = synthesize(image, camera, seed=4, conditions=hand, **scene).blurred  # type: ignore[arg-type]
    model = freqdiff.load("tiny", "cpu")
    with torch.inference_mode():
        maps = model.denoiser.condition(blurred[None] * 2 - 1)
    assert maps.blur is not None
    top, left, rows, columns = 7, 5, 4, 6  # in cells
    kernels = kernels_of(maps.blur.log_psf)[0, top : top + rows, left : left + columns]
    filtered = (maps.anchor[0] * 0.5 + 0.5).clamp(0, 1)
    pictures = {
        "blurred photo": blurred,
        "Wiener filter: where diffusion starts": filtered,
        "result of one step": model(blurred[None])[0],
    }
    _, axes = pyplot.subplots(2, 2, figsize=(12, 8.4), layout="constrained")
    places = (axes[0, 0], axes[1, 0], axes[1, 1])
    for place, (title, picture) in zip(places, pictures.items(), strict=True):
        part = picture[:, CELL * top :, CELL * left :][:, : CELL * rows, : CELL * columns]
        show(place, part, title)
    cells = kernels.permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)
    show(axes[0, 1], cells.sqrt(), "estimated kernel of each 32 px", cmap="magma")
    save("how_it_works.png")


def main() -> None:
    """Draw all of them."""
    matplotlib.use("Agg")
    TARGET.mkdir(exist_ok=True)
    image = photo()
    fft_features(image)
    fft_bands(image)
    halo_attention()
    stitch_tiles(image)
    ddim_step(image)
    filter_grid(image)
    blursynth_settings(image, "physics", "blursynth_settings.jpg")
    generated = DiffusionConfig(output="pixels")
    blursynth_settings(image, generated, "blursynth_settings_diffusion.jpg")
    blursynth_kernels()
    self_check(image)
    how_it_works(image)


if __name__ == "__main__":
    main()
