"""Fits of the engine's family to kernels: what it made is found again, other things are not."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import psf_family, psf_fit
from benchmarks.psf_fit import Lens
from blursynth import optics
from blursynth.motion import Hand

LENS = Lens(16.0, 0.5, 0.6, -2.0, 1.5, (0.7, -1.2), down=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors of a fit are too small to share between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def shake(radius: int = 12) -> Tensor:
    path = Hand(20.0, 8.0).path(np.random.default_rng(1), 0.3, 400)[:, :2]
    path *= 0.7 * radius / np.abs(path).max()
    return psf_fit.draw(torch.from_numpy(path), softness_px=0.4, radius=radius)


def lens_kernel(lens: Lens) -> Tensor:
    return psf_fit.draw(torch.tensor([lens.shift]).double(), lens, radius=16)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a shake as a picture and a lens as an array of half the pitch."""
    folder = tmp_path_factory.mktemp("kernels")
    drawn = shake()
    picture = (drawn / drawn.max() * 255).round().byte().numpy()
    Image.fromarray(picture).save(folder / "shake.png")
    fine = lens_kernel(LENS).repeat_interleave(2, 0).repeat_interleave(2, 1)
    np.savez(folder / "lens.npz", psf=fine.numpy())
    np.savez(folder / "other.npz", values=np.ones(3))
    return folder


@pytest.fixture(scope="module")
def rows(kernels: Path) -> dict[str, dict[str, Any]]:
    found = psf_family.measure([kernels], [kernels], psf_family.PHOTO, 2, None)
    return {row["kind"]: row for row in found}


def test_the_engine_finds_its_own_shake(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["shake"]
    assert row["name"] == "shake"
    assert row["relative_error"]["engine"] < 0.02
    assert row["relative_error"]["gaussian"] > 0.3
    assert row["psnr_db"]["engine"] > 45
    assert row["psnr_db"]["engine"] > row["psnr_db"]["disk"] + 10


def test_the_engine_finds_its_own_lens(rows: dict[str, dict[str, Any]]) -> None:
    row = rows["lens"]
    errors = row["relative_error"]
    assert errors["engine"] < 0.03
    assert errors["engine"] < 0.2 * errors["engine without aberrations"]
    assert errors["engine without aberrations"] < errors["disk"]
    assert row["psnr_db"]["engine"] > 45
    fitted = row["fit"]["engine"]
    assert abs(fitted["defocus_px"]) == pytest.approx(16, rel=0.1)
    assert fitted["cat_eye"] == pytest.approx(0.6, abs=0.2)


def test_rows_are_json_with_provenance(rows: dict[str, dict[str, Any]]) -> None:
    text = json.loads(json.dumps(list(rows.values())))
    assert {row["provenance"]["torch"] for row in text} == {torch.__version__}
    assert [row["source"] for row in text] == [row["source"] for row in rows.values()]


def test_noise_is_no_shake() -> None:
    noise = torch.rand(21, 21, generator=torch.Generator().manual_seed(0)).double() ** 6
    noise /= noise.sum()
    path, softness = psf_fit.fit_path(noise, starts=3)
    drawn = psf_fit.draw(path, softness_px=softness, radius=10)
    assert float(psf_fit.relative_error(drawn, noise)) > 0.3


def test_two_points_are_no_lens() -> None:
    points = torch.zeros(33, 33, dtype=torch.float64)
    points[8, 10] = points[24, 22] = 0.5
    lens = psf_fit.fit_lens(points, aberrations=True)
    drawn = psf_fit.draw(torch.tensor([lens.shift]).double(), lens, radius=16)
    assert float(psf_fit.relative_error(drawn, points)) > 0.5


def test_gaussians_and_disks_are_found() -> None:
    gaussian = optics.softness_kernel(torch.tensor(2.3).double(), 12)
    disk = optics.aperture_kernel(torch.tensor(11.0).double(), 12)
    for expected, find, other in (
        (gaussian, psf_fit.fit_gaussian, psf_fit.fit_disk),
        (disk, psf_fit.fit_disk, psf_fit.fit_gaussian),
    ):
        moved = expected.roll((3, -2), (0, 1))
        assert float(psf_fit.relative_error(find(moved), moved)) < 1e-3
        assert float(psf_fit.relative_error(other(moved), moved)) > 0.02


def test_kernels_get_an_odd_side() -> None:
    made = psf_family.normal(torch.ones(4, 6).double(), room=2)
    assert made.shape == (11, 11)
    assert float(made.sum()) == pytest.approx(1)
    assert float(made[2:6, 2:8].sum()) == pytest.approx(1)


def test_matlab_files_need_h5py(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    assert psf_family.measure([tmp_path / "k.mat"], [], psf_family.PHOTO, 2, None) == []
    assert "k.mat needs h5py, which is not installed: left out" in capsys.readouterr().err
