"""The node: IMAGE in, IMAGE out; the settings of `freqdiff.deblur` as widgets."""

import functools

import freqdiff
from freqdiff.checkpoint import shipped_models

# What ComfyUI's random seeds reach; those of FreqDiff are as large.
_LARGEST_SEED = 2**64 - 1


class FreqDiffDeblur:
    """Makes blurred photos sharp. Photos are (B, H, W, C) float tensors in [0, 1]."""

    CATEGORY = "image/upscaling"
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "deblur"
    DESCRIPTION = "Makes blurred photos sharp; large ones are tiled by themselves."

    @classmethod
    def INPUT_TYPES(cls):
        """The inputs and widgets, in the form that ComfyUI asks for."""
        return {
            "required": {
                "image": ("IMAGE",),
                "model": (list(shipped_models()),),
                "steps": ("INT", {"default": 1, "min": 1, "max": 64}),
                "seed": ("INT", {"default": 0, "min": 0, "max": _LARGEST_SEED}),
            }
        }

    def deblur(self, image, model, steps, seed):
        """What ComfyUI calls; an exception is shown at the node."""
        photos = image.clamp(0, 1).permute(0, 3, 1, 2)
        sharp = freqdiff.deblur(
            photos, model=_model(model), steps=steps, seed=seed, callback=_progress()
        )
        return (sharp.permute(0, 2, 3, 1).contiguous(),)


@functools.cache
def _model(name):
    return freqdiff.load(name)


def _progress():
    """The bar of the node; outside ComfyUI there is none."""
    try:
        from comfy.utils import ProgressBar
    except ImportError:
        return None
    bar = ProgressBar(1)
    return lambda done, total: bar.update_absolute(done, total)
