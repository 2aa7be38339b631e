"""The small base of the diffusion engine that comes with the package."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import pytest
from toys import photo

import blursynth
from blursynth.certificate import Certificate, certify
from blursynth.checksums import SUMS
from blursynth.diffusion_config import SHIPPED, DiffusionConfig
from blursynth.diffusion_load import load_pipeline
from blursynth.motion import Hand
from blursynth.physics import Synthesis
from blursynth.statistics import measure
from freqdiff.errors import ModelError

FOLDER = Path(blursynth.__file__).with_name("weights") / SHIPPED
ENGINE = DiffusionConfig(output="pixels", steps=6)
STILL = blursynth.Conditions(hand=None, diffraction=False)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(
        importlib.util.find_spec("open_clip") is None, reason="needs the words of open-clip-torch"
    ),
]


def taken(
    camera: blursynth.Camera, conditions: blursynth.Conditions
) -> tuple[Synthesis, Certificate]:
    sharp = photo(256, 256, "coffee")
    frame = {"frame_size": (960, 1280), "origin": (352, 512)}
    made = blursynth.synthesize(
        sharp, camera, engine=ENGINE, conditions=conditions, seed=3, **frame
    )
    return made, certify(sharp, made.blurred)


def test_its_size() -> None:
    """12 MB, and no words of CLIP, which are others'."""
    files = [file for file in FOLDER.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 12_000_000
    assert not (FOLDER / "tokenizer").exists()
    weights = [str(file.relative_to(FOLDER)) for file in files if file.suffix == ".safetensors"]
    sums = (FOLDER / SUMS).read_text().splitlines()
    assert sorted(line.split("  ")[1] for line in sums) == sorted(weights)


def test_longer_exposures_blur_more() -> None:
    shaken = blursynth.Conditions(hand=Hand(), diffraction=False)
    camera = blursynth.Camera(iso=100, f_number=8, focal_mm=85, focus_distance_m=1.5)
    widths = []
    for exposure in (1 / 500, 1 / 30, 1 / 4):
        made, certificate = taken(dataclasses.replace(camera, exposure_s=exposure), shaken)
        assert certificate.low_band_psnr_db >= 30
        widths.append(measure(made.blurred).blur_width_px)
    assert widths == sorted(widths)
    assert widths[-1] > 1.5 * widths[0]


def test_wider_apertures_blur_more() -> None:
    camera = blursynth.Camera(
        exposure_s=1 / 1000, iso=100, f_number=8, focal_mm=50, focus_distance_m=1.5
    )
    far = dataclasses.replace(STILL, distance_m=3)
    widths = []
    for f_number in (11, 4, 1.4):
        made, _ = taken(dataclasses.replace(camera, f_number=f_number), far)
        widths.append(measure(made.blurred).blur_width_px)
    assert widths == sorted(widths)
    assert widths[-1] > 3 * widths[0]


def test_higher_sensitivity_is_noisier() -> None:
    camera = blursynth.Camera(exposure_s=1 / 1000, f_number=8, focal_mm=50, focus_distance_m=1.5)
    noise = [
        measure(taken(dataclasses.replace(camera, iso=iso), STILL)[0].blurred).noise
        for iso in (100, 1600, 12800)
    ]
    assert noise == sorted(noise)
    assert noise[-1] > 2 * noise[0]


def test_damage_is_found(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "base")
    file = tmp_path / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ModelError, match="not the ones that were saved") as caught:
        load_pipeline(str(tmp_path / "base"))
    assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(ModelError, match="are missing or"):
        load_pipeline(str(tmp_path / "base"))
