"""What only a machine with a CUDA device can show; skipped elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from toys import TOY, photo, random_denoiser

from freqdiff.data import DataConfig
from freqdiff.deblurrer import Deblurrer
from freqdiff.images import open_image
from freqdiff.train import TrainConfig, Training

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    # What torch.compile says of spectra and of float32, and what has no kernel for a GPU.
    pytest.mark.filterwarnings("ignore:Torchinductor does not support:UserWarning"),
    pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*has no kernel for cuda:UserWarning"),
]


@pytest.mark.parametrize("steps", [1, 4])
def test_deblurring_on_a_gpu_agrees_with_the_cpu(steps: int) -> None:
    image = photo(200, 328)[None]
    denoiser = random_denoiser()
    expected = Deblurrer(denoiser, "toy").restore(image, steps=steps).image
    result = Deblurrer(denoiser.cuda(), "toy").restore(image, steps=steps).image
    # bf16 has 8 bits of precision, and every step rounds again.
    scale = float((expected - image).abs().max())
    assert float((result - expected).abs().max()) <= 2**-6 * scale * steps + 1e-3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("linear", [False, True])
def test_pictures_go_to_a_gpu_and_come_back(dtype: type, channels: int, linear: bool) -> None:
    samples = np.random.default_rng(0).random((37, 50, channels))
    whole = np.issubdtype(dtype, np.integer)
    array = (
        np.round(samples * np.iinfo(dtype).max).astype(dtype) if whole else samples.astype(dtype)
    )
    opened = open_image(array, linear=linear)
    frame = opened.frame(0, torch.device("cuda"))
    torch.testing.assert_close(frame.cpu(), opened.rgb, rtol=0, atol=1e-6)
    same = opened.restore(frame)
    assert isinstance(same, np.ndarray)
    assert same.dtype == array.dtype
    assert same.flags.c_contiguous
    if dtype == np.uint8 or not linear:
        np.testing.assert_allclose(same, array, rtol=0, atol=0 if whole else 1e-6)
    else:  # the curves of GPU and CPU round differently
        step = 2 if whole else 1e-5
        np.testing.assert_allclose(same.astype(float), array.astype(float), rtol=0, atol=step)


def test_training_on_a_gpu_resumes_exactly(tmp_path: Path) -> None:
    from PIL import Image

    for index in range(2):
        array = (photo(160, 160) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(array).save(tmp_path / f"{index}.png")
    data = DataConfig(crop=32, pairs_per_block=16)

    def run(folder: str, steps: int) -> Training:
        training = Training(
            tmp_path / folder, tmp_path, TOY, TrainConfig(steps=steps, batch=4), data
        )
        training.resume()
        training.run(progress=False)
        return training

    assert run("once", 4).model.unet.output.weight.device.type == "cuda"
    run("twice", 2)
    resumed = run("twice", 4)
    assert resumed.step == 4


def test_the_graph_of_the_loop_gives_what_its_launches_give() -> None:
    model = Deblurrer(random_denoiser().cuda(), "toy")
    images = [photo(200, 328)[None], photo(200, 328)[None].flip(-1), photo(136, 200)[None]]
    expected = [model.restore(image, steps=3).image for image in images]
    model.compile()
    for image, known in zip(images, expected, strict=True):
        result = model.restore(image, steps=3).image
        # Compiled kernels round to bf16 elsewhere.
        assert float((result - known).abs().max()) <= 2**-5
        assert torch.equal(model.restore(image, steps=3).image, result)
