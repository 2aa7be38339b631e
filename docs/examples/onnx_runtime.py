"""Deblurs in ONNX Runtime, without torch: `python onnx_runtime.py MODEL blurred.jpg sharp.png`.

`freqdiff export --format onnx -o freqdiff.onnx` writes the model. Photos have at
least 160 px a side. One of 1920x1080 takes 1.2 GB of memory, others in proportion; for large ones
there is `freqdiff.deblur`, which tiles.
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image

model, source, target = sys.argv[1:4]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
with Image.open(source) as image:
    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
photo = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
inputs = {"photo": photo}
if any(node.name == "noise" for node in session.get_inputs()):
    inputs["noise"] = np.random.default_rng(0).standard_normal(photo.shape, np.float32)
(sharp,) = session.run(["sharp"], inputs)
result = np.rint(sharp[0].transpose(1, 2, 0) * 255).astype(np.uint8)
Image.fromarray(result).save(target)
