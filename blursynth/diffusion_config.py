"""Settings of the diffusion engine, and their one word: `diffusion[:BASE][,key=value...]`."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

from freqdiff.errors import InputError

NAME = "diffusion"
SHIPPED = "small"
"""The base that comes with the package."""

Output = Literal["attributes", "pixels"]
OUTPUTS: tuple[Output, ...] = ("attributes", "pixels")
DTYPES = ("float32", "float16", "bfloat16")


@dataclasses.dataclass(frozen=True)
class DiffusionConfig:
    """How the diffusion engine blurs.

    Attributes:
        base: "small", the shipped one; folder of a pipeline of this project or of Stable Diffusion
            1.x or 2.x; or the name of one on the hub, from where it is downloaded.
        controlnet: the same for the ControlNet, for a base that has none.
        lora: folder or file of LoRA weights.
        output: "attributes" moves the blur of the generated photo to the true one; "pixels" is the
            generated photo, as in the paper, with what the VAE loses.
        steps: of DDIM.
        guidance: scale of classifier-free guidance by the camera, above 1 stronger than it was
            learned, at twice the time; 1 is without.
        control: scale of what the ControlNet adds; 0 is without.
        tile: side of the tiles in pixels; None: as large as the memory allows.
        device: "cpu" or "cuda"; None: a GPU if there is one.
        dtype: of weights and activations.
    """

    base: str = SHIPPED
    controlnet: str | None = None
    lora: str | None = None
    output: Output = "attributes"
    steps: int = 10
    guidance: float = 1.0
    control: float = 1.0
    tile: int | None = None
    device: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name, known in (("output", OUTPUTS), ("dtype", DTYPES)):
            if (value := getattr(self, name)) not in known:
                raise InputError(
                    f"Expected {name} of the diffusion engine to be one of {', '.join(known)}, "
                    f"got {value!r}."
                )
        for name, low, high in (
            ("steps", 1, 1000),
            ("guidance", 1, 50),
            ("control", 0, 10),
            ("tile", 64, 65536),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(
                    f"Expected {name} of the diffusion engine from {low} to {high}, got {value}."
                )

    def __str__(self) -> str:
        """The engine as one word; `parse_engine` reads it."""
        changed = [
            f",{field.name}={value}"
            for field in dataclasses.fields(self)
            if field.name != "base" and (value := getattr(self, field.name)) != field.default
        ]
        return f"{NAME}:{self.base}" + "".join(changed)


_TYPES: dict[str, type] = {"steps": int, "guidance": float, "control": float, "tile": int}


def parse_engine(text: str) -> DiffusionConfig:
    """Settings from `diffusion[:BASE][,key=value...]`; the keys are the fields of the settings.

    Raises:
        InputError: a key or a value that cannot be used.
    """
    _, _, rest = text.partition(":")
    keys = [field.name for field in dataclasses.fields(DiffusionConfig) if field.name != "base"]
    base, *options = re.split(r",(?=\w+=)", rest)
    values: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        if key not in keys:
            raise InputError(
                f"Expected an option of the diffusion engine ({', '.join(keys)}), got {key!r}."
            )
        try:
            values[key] = _TYPES.get(key, str)(value)
        except ValueError as error:
            raise InputError(
                f"Expected a number for {key} of the diffusion engine, got {value!r}."
            ) from error
    return DiffusionConfig(base or SHIPPED, **values)
