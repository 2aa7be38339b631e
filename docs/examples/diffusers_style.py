"""A pipeline of diffusers with a callback: `python diffusers_style.py blurred.jpg sharp.png`.

It needs `pip install "freqdiff-deblur[synth]"`.
"""

import sys

import torch

from freqdiff import FreqDiffPipeline

pipe = FreqDiffPipeline.from_pretrained("tiny")  # or a folder of save_pretrained
pipe = pipe.to("cuda" if torch.cuda.is_available() else "cpu")


def preview(pipe, step, timestep, tensors):
    """Called after each step; what it returns replaces the tensors."""
    spread = tensors["denoised"].std()
    print(f"step {step} (t = {int(timestep)}): contrast of the estimate {spread:.4f}")
    return {}


result = pipe(
    sys.argv[1],
    num_inference_steps=4,
    generator=torch.Generator().manual_seed(7),
    callback_on_step_end=preview,
    callback_on_step_end_tensor_inputs=["denoised"],
)
result.images[0].save(sys.argv[2])
