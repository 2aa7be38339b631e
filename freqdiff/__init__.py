"""FreqDiff: makes blurred photos sharp with a diffusion model conditioned on Fourier features.

`freqdiff.deblur(image)` is the whole product for most people; `freqdiff.load(name)` gives the
model for embedding.
"""

from freqdiff.api import Details, deblur
from freqdiff.deblurrer import Deblurrer, load
from freqdiff.errors import (
    FreqDiffError,
    InputError,
    ModelError,
    OutputError,
    PhotoError,
    TrainingError,
)

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
