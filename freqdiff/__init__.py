"""FreqDiff: makes blurred photos sharp with a diffusion model conditioned on Fourier features.

`freqdiff.deblur(image)` is the whole product for most people; `freqdiff.load(name)` gives the
model for embedding.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from freqdiff.errors import (
    FreqDiffError,
    InputError,
    ModelError,
    OutputError,
    PhotoError,
    TrainingError,
)

if TYPE_CHECKING:
    from freqdiff.api import Details, deblur
    from freqdiff.deblurrer import Deblurrer, load
    from freqdiff.pipeline import FreqDiffModel as FreqDiffModel
    from freqdiff.pipeline import FreqDiffPipeline as FreqDiffPipeline

__version__ = "0.1.0"
__all__ = [
    "Deblurrer",
    "Details",
    "FreqDiffError",
    "InputError",
    "ModelError",
    "OutputError",
    "PhotoError",
    "TrainingError",
    "deblur",
    "load",
]

# Loaded when they are first used: torch and the image formats take seconds, which the command
# line's help and programs that only catch our errors should not pay.
_HOMES = {
    "Deblurrer": "freqdiff.deblurrer",
    "Details": "freqdiff.api",
    "deblur": "freqdiff.api",
    "load": "freqdiff.deblurrer",
}
# Public as well, but not in __all__: they need diffusers, which `import *` must not.
_OPTIONAL = {
    "FreqDiffModel": "freqdiff.pipeline",
    "FreqDiffPipeline": "freqdiff.pipeline",
}

if not TYPE_CHECKING:

    def __getattr__(name):
        home = _HOMES.get(name) or _OPTIONAL.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
