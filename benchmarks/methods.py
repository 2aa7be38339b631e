"""Anything that deblurs, behind one call: our models, the compared networks, files of others.

What others have trained comes as a file (a checkpoint that spandrel knows, TorchScript, ONNX) or as
a folder of their results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.catalog import PEERS, count_flops_per_pixel
from benchmarks.peers.training import load_peer
from freqdiff.checkpoint import shipped_models
from freqdiff.deblurrer import Deblurrer, load
from freqdiff.errors import FreqDiffError, InputError, ModelError
from freqdiff.images import open_image
from freqdiff.pairs import key, photos_in
from freqdiff.tiling import plan_tiles
from freqdiff_kernels import ops

MULTIPLE = 128
"""Files of others get photos whose sides are multiples of it."""
_SEEN_AROUND = 32
"""Pixels around the middle of a tile that are not used where networks must work by tiles."""


@dataclasses.dataclass(frozen=True)
class Method:
    """Something that deblurs.

    Attributes:
        title: for the table.
        way: "ours", "peer" (trained by us on our data) or "official" (trained by others).
        restore: name of a photo and the photo (1, 3, H, W) in [0, 1] on the CPU -> the result.
        facts: what a row says of it: parameters, mflop_per_pixel, sha256, steps, tile, training;
            None where it is not known.
    """

    title: str
    way: str
    restore: Callable[[str, Tensor], Tensor]
    facts: dict[str, Any]


def ours(name: str, steps: int | None, device: str) -> Method:
    """A shipped model of this package, or a model folder."""
    model = load(name, device)
    taken = steps or model.denoiser.config.default_steps
    folder = shipped_models().get(name, Path(name))
    facts = {
        **_file_facts(sorted(folder.glob("*.safetensors"))),
        "parameters": sum(value.numel() for value in model.parameters()),
        "mflop_per_pixel": _our_mflop_per_pixel(model, taken),
        "steps": taken,
        "tile": "auto",
        "training": _training(folder),
    }
    title = f"FreqDiff {model.denoiser.config.name}"
    return Method(title, "ours", lambda _, photo: model.restore(photo, steps=taken).image, facts)


def peer(folder: str, tile: int | None, device: str) -> Method:
    """A network that `benchmarks.peers.training` has trained."""
    name, network = load_peer(Path(folder))
    entry = PEERS[name]
    facts = {
        **_file_facts(sorted(Path(folder).glob("*.safetensors"))),
        "parameters": sum(value.numel() for value in network.parameters()),
        "mflop_per_pixel": round(count_flops_per_pixel(entry, network.config) / 1e6, 3),
        "steps": 1,
        "tile": tile,
        "training": _training(Path(folder)),
    }
    network.to(device)
    return Method(entry.title, "peer", _network(network, tile, 1, device), facts)


def official(title: str, path: str, tile: int | None, device: str) -> Method:
    """A file that others have trained, by its suffix, or a folder of their results.

    Raises:
        InputError: the package that reads it is missing.
        ModelError: it cannot be read.
    """
    file = Path(path)
    facts: dict[str, Any] = {"parameters": None, "mflop_per_pixel": None, "tile": tile}
    facts |= {"steps": None, "training": None}
    if file.is_dir():
        return Method(title, "official", _results(file), {**facts, "sha256": None, "tile": None})
    if not file.is_file():
        raise InputError(f"{path} is neither a file nor a folder: name a checkpoint or results.")
    facts |= _file_facts([file])
    try:
        if file.suffix == ".onnx":
            restore = _network(_onnx(file), tile, MULTIPLE, "cpu")
        else:
            network = (
                _torchscript(file, device) if file.suffix in (".pt", ".ts") else _spandrel(file)
            )
            network.to(device)
            facts["parameters"] = sum(value.numel() for value in network.parameters())
            restore = _network(network, tile, MULTIPLE, device)
    except FreqDiffError:
        raise
    # The readers of others raise whatever they like.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"{path} cannot be read as a network: {reason}.") from error
    return Method(title, "official", restore, facts)


def _torchscript(file: Path, device: str) -> Any:
    with warnings.catch_warnings():
        # Others go on publishing it; nothing else holds a network and its code.
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(file), map_location=device).eval()


def _onnx(file: Path) -> Callable[[Tensor], Tensor]:
    with _needed("onnxruntime"):
        import onnxruntime
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return lambda photo: torch.from_numpy(session.run(None, {name: photo.numpy()})[0])


def _spandrel(file: Path) -> Any:
    with _needed("spandrel"):
        from spandrel import ImageModelDescriptor, ModelLoader
    loaded = ModelLoader(device="cpu").load_from_file(file)
    if not isinstance(loaded, ImageModelDescriptor) or loaded.scale != 1:
        raise ModelError(f"{file} is no network that keeps the size of a photo.")
    return loaded.model.eval()


@contextlib.contextmanager
def _needed(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise InputError(
            f"This file needs the package {package} ({error}): install it with "
            f"'pip install {package}', or give a folder of results."
        ) from error


def _results(folder: Path) -> Callable[[str, Tensor], Tensor]:
    """Results of others: the photo of the same name, with its folders or without them."""
    by_name = {key(path, folder): path for path in photos_in(folder)}

    def restore(name: str, photo: Tensor) -> Tensor:
        wanted = Path(name).with_suffix("").as_posix()
        path = by_name.get(wanted) or by_name.get(wanted.replace("/", "_"))
        path = path or by_name.get(Path(wanted).name)
        if path is None:
            raise InputError(
                f"{folder} holds no result for {name!r}: expected {wanted} with any suffix."
            )
        result = open_image(path).rgb
        if result.shape != photo.shape:
            raise InputError(
                f"{path} has {result.shape[3]}x{result.shape[2]} pixels, expected "
                f"{photo.shape[3]}x{photo.shape[2]}: it is of another photo."
            )
        return result

    return restore


def _network(
    network: Callable[[Tensor], Tensor], tile: int | None, multiple: int, device: str
) -> Callable[[str, Tensor], Tensor]:
    """A network on whole photos, or on tiles of at most `tile` pixels that are cross-faded."""

    def padded(photo: Tensor) -> Tensor:
        height, width = photo.shape[2:]
        seen = F.pad(photo, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        return network(seen)[..., :height, :width]

    @torch.inference_mode()
    def restore(_: str, photo: Tensor) -> Tensor:
        photo = photo.to(device)
        size = (photo.shape[2], photo.shape[3])
        if tile is None or max(size) <= tile:
            return padded(photo).float().cpu()
        plan = plan_tiles(size, tile, _SEEN_AROUND)
        tiles = ops.extract_tiles(photo[0], plan.tile, plan.starts)
        results = torch.cat([padded(part[None]).float() for part in tiles])
        return ops.stitch_tiles(results, plan.starts, plan.size, plan.margin)[None].cpu()

    return restore


def _our_mflop_per_pixel(model: Deblurrer, steps: int, size: int = 256) -> float:
    """Of convolutions and matrix products for one photo: its condition, and all steps."""
    denoiser, device = model.denoiser, model.device
    y = torch.zeros(1, 3, size, size, device=device)
    t = torch.full((1,), 999, device=device)
    with torch.no_grad(), FlopCounterMode(display=False) as condition:
        maps = denoiser.condition(y)
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        denoiser.denoise(y, t, maps)
    flops = condition.get_total_flops() + steps * step.get_total_flops()
    return round(flops / size**2 / 1e6, 3)


def _file_facts(files: list[Path]) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()}


def _training(folder: Path) -> dict[str, Any] | None:
    """Steps and seconds of the training, and on what and how many crops."""
    facts = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("training") or {}
    if not facts:
        return None
    settings = facts["settings"]
    return {
        # Weights that were trained before this was written do not say on what.
        **{name: facts.get(name) for name in ("steps", "seconds", "device")},
        "batch": settings["train"]["batch"],
        "crop": settings["data"]["crop"],
    }
