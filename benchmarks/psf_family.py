"""How near the physics engine comes to kernels that others measured.

`python -m benchmarks.psf_family --shake FOLDER_OR_MAT [...] --lens FOLDER`

Camera shakes, such as those of Levin et al. 2009: pictures of kernels, or a MATLAB 7.3 file with a
cell array `kernels`. Point spread functions of lenses: .npz files with an array `psf`. The engine
draws the most similar member of its family (`benchmarks.psf_fit`). A row tells the relative error
of the kernels, ||fit - measured||^2 / ||measured||^2, and the PSNR between a photo under the
measured and under the fitted kernel, beside the best Gaussian and the best disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks import psf_fit
from benchmarks.harness import RESULTS, provenance
from freqdiff import tone
from freqdiff.metrics import psnr
from freqdiff_kernels import ops

PHOTO = Path(__file__).parent / "demo" / "coffee.png"
ROOM = 3
"""Empty pixels around a measured shake, so that a fit may err outwards too."""


def read_shakes(source: Path) -> Iterator[tuple[str, Tensor]]:
    """Names and kernels (n, n), n odd, of a folder of pictures or a MATLAB file.

    Raises:
        ImportError: a MATLAB file, and h5py is not installed.
    """
    if source.is_dir():
        for path in sorted(source.glob("*.png")):
            with Image.open(path) as picture:
                yield path.stem, torch.from_numpy(np.asarray(picture.convert("L"), np.float64))
        return
    import h5py

    with h5py.File(source) as file:
        for number, reference in enumerate(file["kernels"][:].ravel(), start=1):
            # MATLAB stores columns first.
            kernel = np.asarray(file[reference], np.float64).T
            yield f"{source.stem} {number}", torch.from_numpy(kernel.copy())


def read_lenses(folder: Path, group: int) -> Iterator[tuple[str, Tensor]]:
    """Names and kernels (n, n), n odd, with groups of `group` x `group` samples as pixels."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            if "psf" in file:
                yield path.stem, F.avg_pool2d(torch.from_numpy(file["psf"])[None], group)[0]


def normal(kernel: Tensor, room: int = 0) -> Tensor:
    """A kernel with sum 1, an odd side, and `room` empty pixels around."""
    height, width = kernel.shape
    side = max(height, width) | 1
    kernel = F.pad(kernel, (room, side - width + room, room, side - height + room))
    return kernel / kernel.sum()


def fit_shake(kernel: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What the engine draws as camera shake, and how."""
    path, softness = psf_fit.fit_path(kernel)
    drawn = psf_fit.draw(path, softness_px=softness, radius=len(kernel) // 2)
    facts = {"softness_px": round(softness, 3), "extent_px": _round(path.amax(0) - path.amin(0))}
    return {"engine": drawn}, facts


def fit_lens(kernel: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What the engine draws as a lens, perfect and with aberrations."""
    drawn, facts = {}, {}
    for name, aberrations in (("engine", True), ("engine without aberrations", False)):
        lens = psf_fit.fit_lens(kernel, aberrations=aberrations)
        shift = torch.tensor([lens.shift], dtype=torch.float64)
        drawn[name] = psf_fit.draw(shift, lens, radius=len(kernel) // 2)
        values = dataclasses.asdict(lens)
        facts[name] = {k: v if k in ("shift", "down") else round(v, 3) for k, v in values.items()}
        facts[name]["shift"] = _round(torch.tensor(lens.shift))
    return drawn, facts


def row(
    kind: str, name: str, kernel: Tensor, drawn: dict[str, Tensor], photo: Tensor
) -> dict[str, Any]:
    """Errors and PSNR of the engine's kernels, of the best Gaussian and of the best disk."""
    gaussian, disk = psf_fit.fit_gaussian(kernel), psf_fit.fit_disk(kernel)
    contestants = {**drawn, "gaussian": gaussian, "disk": disk}
    measured = under(kernel, photo)
    return {
        "kind": kind,
        "name": name,
        "side": len(kernel),
        "relative_error": {
            title: round(float(psf_fit.relative_error(made, kernel)), 5)
            for title, made in contestants.items()
        },
        "psnr_db": {
            title: round(psnr(under(made, photo), measured), 2)
            for title, made in contestants.items()
        },
    }


def under(kernel: Tensor, photo: Tensor) -> Tensor:
    """A photo (3, H, W) of linear light blurred by a kernel, as sRGB."""
    light = ops.filter_grid(photo, kernel[None, None].to(photo.dtype))
    return tone.linear_to_srgb(light.clamp(0, 1))


def _round(values: Tensor) -> list[float]:
    return [round(value, 2) for value in values.tolist()]


def measure(
    shakes: list[Path], lenses: list[Path], photo: Path, group: int, limit: int | None
) -> list[dict[str, Any]]:
    """The rows of all kernels, or of the first `limit` of each source."""
    with Image.open(photo) as picture:
        pixels = torch.from_numpy(np.asarray(picture.convert("RGB")).copy())
    light = tone.srgb_to_linear(pixels.permute(2, 0, 1) / 255)
    facts = {**provenance(), "photo": photo.name}
    rows = []

    def add(kind: str, source: Path, name: str, kernel: Tensor) -> None:
        kernel = normal(kernel, ROOM if kind == "shake" else 0)
        drawn, how = fit_shake(kernel) if kind == "shake" else fit_lens(kernel)
        made = row(kind, name, kernel, drawn, light)
        rows.append({**made, "source": source.name, "fit": how, "provenance": facts})
        told = ", ".join(
            f"{title} {made['relative_error'][title]:.4f} {value:.1f} dB"
            for title, value in made["psnr_db"].items()
        )
        print(f"{source.name} {name}: {told}", file=sys.stderr, flush=True)

    for source in shakes:
        try:
            for name, kernel in list(read_shakes(source))[:limit]:
                add("shake", source, name, kernel)
        except ImportError:
            print(f"{source.name} needs h5py, which is not installed: left out", file=sys.stderr)
    for source in lenses:
        for name, kernel in list(read_lenses(source, group))[:limit]:
            add("lens", source, name, kernel)
    return rows


def main() -> None:
    """Measure what the command line names and write benchmarks/results/psf_family.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shake", type=Path, action="append", default=[], metavar="FOLDER_OR_MAT")
    parser.add_argument("--lens", type=Path, action="append", default=[], metavar="FOLDER")
    parser.add_argument("--group", type=int, default=2, help="samples of a lens's PSF per pixel")
    parser.add_argument("--photo", type=Path, default=PHOTO)
    parser.add_argument("--limit", type=int, help="kernels of each source, to try it out")
    parser.add_argument("--output", type=Path, default=RESULTS / "psf_family.json")
    options = parser.parse_args()
    if not options.shake and not options.lens:
        parser.error("name kernels with --shake or --lens")
    # The tensors of a fit are too small to share between threads.
    torch.set_num_threads(1)
    rows = measure(options.shake, options.lens, options.photo, options.group, options.limit)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {options.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
