"""`blursynth build`: what a data set holds, and that the same call always makes the same one."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import shutil
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import contents
from PIL import Image
from test_colour_profiles import LINEAR
from toys import picture

from blursynth import engines
from blursynth.camera import Camera
from blursynth.dataset import Summary, build
from blursynth.exif import read_camera
from blursynth.photo_scale import read_at_scale
from freqdiff.errors import InputError, OutputError
from freqdiff.photo import Metadata, Photo, read_photo, write_photo
from freqdiff.tone import srgb_to_linear

CROP = 64


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos: one in a sub-folder, one in grey."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "harbour").mkdir()
    Image.fromarray(picture(150, 200, "coffee")).save(folder / "b.png")
    Image.fromarray(picture(200, 180)).save(folder / "harbour" / "a.jpg", quality=95)
    Image.fromarray(picture(130, 130, "chelsea")).convert("L").save(folder / "c.png")
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture(scope="module")
def made(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Summary]:
    """A data set of seven pairs with shards."""
    output = tmp_path_factory.mktemp("made") / "deep" / "set"
    return output, make(photos, output)


def make(photos: Path, output: Path, **options: Any) -> Summary:
    given = {"count": 7, "crop": CROP, "seed": 3, "shard_size": 3} | options
    return build(photos, output, **given, progress=False)


def rows(output: Path) -> list[dict[str, Any]]:
    lines = (output / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_layout_and_metadata(photos: Path, made: tuple[Path, Summary]) -> None:
    output, summary = made
    assert (summary.pairs, summary.written, summary.kept, summary.failed) == (7, 7, 0, 0)
    found = rows(output)
    assert [row["index"] for row in found] == list(range(7))
    assert [row["source"] for row in found[:4]] == ["b.png", "c.png", "harbour/a.jpg", "b.png"]
    assert len({tuple(row["crop"]) for row in found}) > 1
    for row in found:
        name = f"{row['index']:06d}.png"
        assert row["blur_file_name"] == f"blur/{name}"
        assert row["sharp_file_name"] == f"sharp/{name}"
        for side in ("blur", "sharp"):
            data = (output / row[f"{side}_file_name"]).read_bytes()
            assert len(data) == row[f"{side}_bytes"]
            assert hashlib.sha256(data).hexdigest() == row[f"{side}_sha256"]
        source = (photos / row["source"]).read_bytes()
        assert row["source_sha256"] == hashlib.sha256(source).hexdigest()
        Camera(**row["camera"])
        assert {"seed", "engine", "version", "shift_px", "low_band_psnr_db"} <= set(row)
        assert (row["category"] == "harbour") == (row["source"] == "harbour/a.jpg")
    assert {path.name for path in output.iterdir()} == {
        ".build.lock", "blur", "build.json", "contact_sheet.jpg", "metadata.jsonl", "records",
        "sharp", "shards", "statistics.json",
    }  # fmt: skip


def test_pairs_are_the_photo_and_blurred(photos: Path, made: tuple[Path, Summary]) -> None:
    output, _ = made
    for row in rows(output):
        left, top, width, height = row["crop"]
        whole = read_photo(photos / row["source"]).pixels
        expected = np.broadcast_to(whole[top : top + height, left : left + width], (CROP, CROP, 3))
        sharp = read_photo(output / row["sharp_file_name"]).pixels
        blurred = read_photo(output / row["blur_file_name"]).pixels
        np.testing.assert_array_equal(sharp, expected)
        assert blurred.shape == sharp.shape
        # Each the same scene: the averages of squares of 8 pixels, which noise hardly moves.
        squares = [x.reshape(CROP // 8, 8, CROP // 8, 8, 3).mean((1, 3)) for x in (sharp, blurred)]
        assert np.corrcoef(squares[0].ravel(), squares[1].ravel())[0, 1] > 0.8
        camera, told = Camera(**row["camera"]), read_camera(output / row["blur_file_name"]).camera
        assert told.exposure_s == pytest.approx(camera.exposure_s, rel=1e-6)
        assert told.f_number == pytest.approx(camera.f_number, rel=1e-6)


def test_a_pair_depends_on_seed_and_index_alone(
    photos: Path, made: tuple[Path, Summary], tmp_path: Path
) -> None:
    make(photos, tmp_path / "fewer", count=4, shard_size=None)
    make(photos, tmp_path / "other", count=4, shard_size=None, seed=4)
    for index in range(4):
        name = f"blur/{index:06d}.png"
        assert (tmp_path / "fewer" / name).read_bytes() == (made[0] / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (made[0] / name).read_bytes()


def test_the_same_call_keeps_what_is_whole(
    photos: Path, made: tuple[Path, Summary], tmp_path: Path
) -> None:
    output = tmp_path / "copy"
    shutil.copytree(made[0], output)
    before = {path: path.stat().st_mtime_ns for path in output.glob("*/*.*")}
    summary = make(photos, output)
    assert (summary.written, summary.kept) == (0, 7)
    assert {path: path.stat().st_mtime_ns for path in output.glob("*/*.*")} == before
    assert contents(output) == contents(made[0])


def test_damage_is_mended(photos: Path, made: tuple[Path, Summary], tmp_path: Path) -> None:
    output = tmp_path / "copy"
    shutil.copytree(made[0], output)
    (output / "blur" / "000000.png").unlink()
    flipped = bytearray((output / "sharp" / "000001.png").read_bytes())
    flipped[-20] ^= 1
    (output / "sharp" / "000001.png").write_bytes(flipped)
    (output / "records" / "000002.json").write_text('{"index": 2, "sou')
    (output / "records" / "000003.json").write_text("[1]")
    (output / "shards" / "000001.tar").write_bytes(b"short")
    (output / "metadata.jsonl").unlink()
    (output / "blur" / ".freqdiff-0123.tmp").write_bytes(b"half")
    summary = make(photos, output)
    assert (summary.written, summary.kept) == (4, 3)
    assert contents(output) == contents(made[0])


def test_other_settings_and_other_photos_are_refused(
    photos: Path, made: tuple[Path, Summary], tmp_path: Path
) -> None:
    output = tmp_path / "copy"
    shutil.copytree(made[0], output)
    for options in ({"seed": 4}, {"count": 8}, {"crop": 80}, {"shard_size": None}):
        with pytest.raises(InputError, match=r"holds another data set .* was .* and is"):
            make(photos, output, **options)
    with pytest.raises(InputError, match="prior was None"):
        make(photos, output, prior=[Camera()])
    more = tmp_path / "more"
    shutil.copytree(photos, more)
    shutil.copy(more / "b.png", more / "d.png")
    with pytest.raises(InputError, match="holds another data set"):
        make(more, output)
    (output / "build.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        make(photos, output)


def test_a_folder_with_other_files_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(OutputError, match="not empty"):
        make(photos, tmp_path)
    with pytest.raises(OutputError, match="not empty"):
        make(photos, photos)
    with pytest.raises(OutputError, match="Cannot make the folder"):
        make(photos, tmp_path / "mine.txt" / "deeper")


def test_results_inside_the_sharp_folder_are_no_photos(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    for _ in range(2):
        assert make(folder, folder / "out", count=3, shard_size=None).failed == 0
    assert {row["source"] for row in rows(folder / "out")} == {"b.png", "c.png", "harbour/a.jpg"}


def test_bad_photos_stop_nothing(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    (folder / "broken.png").write_bytes((folder / "b.png").read_bytes()[:900])
    Image.fromarray(picture(63, 300)).save(folder / "small.png")
    summary = make(folder, tmp_path / "out", count=10)
    assert (summary.written, summary.failed) == (6, 4)
    assert [problem.source for problem in summary.problems] == ["broken.png", "small.png"]
    assert "damaged" in summary.problems[0].error
    assert "300 x 63" in summary.problems[1].error
    assert len(rows(tmp_path / "out")) == 6
    # A photo that was mended since is used by the next call, and one that was changed is done anew.
    shutil.copy(folder / "b.png", folder / "broken.png")
    Image.fromarray(picture(140, 150)).save(folder / "c.png")
    summary = make(folder, tmp_path / "out", count=10)
    assert (summary.written, summary.kept, summary.failed) == (4, 4, 2)
    assert len(rows(tmp_path / "out")) == 8


def test_a_pair_that_can_no_longer_be_made_is_in_no_list(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    make(folder, tmp_path / "out", count=3)
    (folder / "c.png").write_bytes(b"gone")
    summary = make(folder, tmp_path / "out", count=3)
    assert (summary.kept, summary.failed) == (2, 1)
    assert [row["index"] for row in rows(tmp_path / "out")] == [0, 2]
    with tarfile.open(tmp_path / "out" / "shards" / "000000.tar") as tar:
        assert not [name for name in tar.getnames() if name.startswith("000001")]


def test_pairs_out_of_line_are_drawn_again_and_then_rejected(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, calls = engines.ENGINES["physics"], []

    def black(sharp: torch.Tensor, camera: Camera, *, seed: int, **options: Any) -> Any:
        calls.append(seed)
        result = genuine(sharp, camera, seed=seed, **options)
        return dataclasses.replace(result, blurred=0 * sharp)

    monkeypatch.setitem(engines.ENGINES, "physics", black)
    summary = make(photos, tmp_path / "out", count=3)
    assert (summary.written, summary.rejected, summary.shards) == (0, 3, 0)
    assert len(calls) == len(set(calls)) == 12
    assert rows(tmp_path / "out") == []
    assert make(photos, tmp_path / "out", count=3).rejected == 3
    assert len(calls) == 12


def test_whole_photos_and_jpeg(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = build(photos, output, per_photo=2, format="jpeg", progress=False)
    assert summary.written == 6
    for row in rows(output):
        assert row["blur_file_name"].endswith(".jpg")
        whole = read_photo(photos / row["source"])
        blurred = read_photo(output / row["blur_file_name"])
        assert blurred.format == "JPEG"
        assert blurred.pixels.shape[:2] == whole.pixels.shape[:2]
        assert (row["height"], row["width"]) == whole.pixels.shape[:2]
        # Also for the upright photo, whose width is the short side of the sensor.
        told = read_camera(output / row["blur_file_name"]).camera
        assert told.sensor_width_mm == pytest.approx(row["camera"]["sensor_width_mm"], rel=1e-6)


def test_colour_profile_stays_and_position_does_not(tmp_path: Path) -> None:
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x9286] = "private"
    (tmp_path / "in").mkdir()
    metadata = Metadata(icc=icc, exif=exif.tobytes()[6:])
    write_photo(tmp_path / "in" / "a.png", Photo(picture(100, 100), metadata=metadata))
    build(tmp_path / "in", tmp_path / "out", progress=False)
    for side in ("blur", "sharp"):
        photo = read_photo(tmp_path / "out" / side / "000000.png")
        assert photo.metadata.icc == icc
        assert b"private" not in (photo.metadata.exif or b"")


def test_linear_light_is_blurred_like_srgb(tmp_path: Path) -> None:
    pixels = np.asarray(picture(100, 120), np.float32) / 255
    light = (srgb_to_linear(torch.from_numpy(pixels)) * 65535).round().numpy().astype(np.uint16)
    for name in ("linear", "curved"):
        (tmp_path / name).mkdir()
    write_photo(tmp_path / "linear" / "a.tif", Photo(light, metadata=Metadata(icc=LINEAR)))
    write_photo(tmp_path / "curved" / "a.tif", Photo((pixels * 65535).round().astype(np.uint16)))
    for name in ("linear", "curved"):
        build(tmp_path / name, tmp_path / f"{name}_pairs", progress=False)
    for side in ("blur", "sharp"):
        linear, curved = (
            read_photo(tmp_path / f"{name}_pairs" / side / "000000.png")
            for name in ("linear", "curved")
        )
        assert linear.metadata.icc is None
        assert np.abs(linear.pixels.astype(int) - curved.pixels).max() <= 1
    scaled = (read_at_scale(tmp_path / name / "a.tif", 64) for name in ("linear", "curved"))
    torch.testing.assert_close(*scaled, rtol=0, atol=1.01 / 255)


def test_prior(photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "prior.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["iso", "f_number", "exposure_s", "focal_mm"], [400, 2.8, 0.02, 85]])
    make(photos, tmp_path / "out", prior=table, count=2)
    assert {row["camera"]["focal_mm"] for row in rows(tmp_path / "out")} == {85.0}
    table.write_text("iso\n3\n")
    for path in (table, tmp_path / "none.csv"):
        with pytest.raises(InputError, match="table of exposures"):
            make(photos, tmp_path / "out2", prior=path)


@pytest.mark.parametrize(
    "options",
    [{"count": 0}, {"seed": -1}, {"crop": 32}, {"workers": 0}, {"engine": "x"}, {"format": "gif"}],
)
def test_bad_options(photos: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        make(photos, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_shards_are_grouped_by_name(made: tuple[Path, Summary]) -> None:
    output, summary = made
    assert summary.shards == 3
    found = []
    for path in sorted((output / "shards").iterdir()):
        samples: dict[str, dict[str, bytes]] = defaultdict(dict)
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                name, _, kind = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                samples[name][kind] = file.read()
        for sample in samples.values():
            assert set(sample) == {"blur.png", "sharp.png", "json"}
            row = json.loads(sample["json"])
            assert hashlib.sha256(sample["blur.png"]).hexdigest() == row["blur_sha256"]
            assert Image.open(io.BytesIO(sample["sharp.png"])).size == (CROP, CROP)
            found.append(row["index"])
    assert found == list(range(7))


def test_statistics_contact_sheet_and_distances(
    photos: Path, made: tuple[Path, Summary], tmp_path: Path
) -> None:
    output, summary = made
    known = json.loads((output / "statistics.json").read_text())
    assert known == {"blur": summary.statistics}
    assert summary.statistics["blur_width_px"]["count"] == 7
    assert read_photo(output / "contact_sheet.jpg").pixels.shape[1] > 3 * 2 * CROP
    compared = make(photos, tmp_path / "out", count=2, compare=output / "blur")
    assert set(compared.distances) == set(summary.statistics)
    known = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert known["distances"] == compared.distances
    assert known["compared"]["noise"]["count"] == 7
    (tmp_path / "tiny").mkdir()
    Image.fromarray(picture(20, 20)).save(tmp_path / "tiny" / "a.png")
    with pytest.raises(InputError, match="none of its photos"):
        make(photos, tmp_path / "out", count=2, compare=tmp_path / "tiny")
