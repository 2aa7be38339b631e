"""The compared architectures are those of their papers, and do what a restorer has to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toys import photo

from benchmarks.peers import uformer
from benchmarks.peers.airnet import EncoderBlock, _DeformableConvolution
from benchmarks.peers.catalog import PEERS, count_flops_per_pixel, count_parameters
from benchmarks.peers.dgunet import DGUNetConfig, _Merge
from benchmarks.peers.mprnet import MPRNetConfig
from benchmarks.peers.nafnet import NAFNetConfig
from benchmarks.peers.restormer import RestormerConfig
from benchmarks.peers.rrdb import UPSCALED, RRDBConfig
from benchmarks.peers.uformer import UformerConfig
from freqdiff.denoiser import Denoiser
from freqdiff.model import CONFIGS

SMALL = {
    "rrdb": RRDBConfig(8, 1, 4),
    "airnet": PEERS["airnet"].config.__class__(8, 1, 1),
    "dgunet": DGUNetConfig(8, 4, 4, 2),
    "mprnet": MPRNetConfig(8, 4, 4, 1),
    "nafnet": NAFNetConfig(8, (1, 1), 1, (1, 1)),
    "uformer": UformerConfig(8, (2, 1, 1, 1, 1, 1, 1, 1, 2), (1,) * 9),
    "restormer": RestormerConfig(8, (1, 1, 1, 1), (1, 2, 2, 4), refinement=1),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def count(*modules: nn.Module) -> int:
    return sum(value.numel() for module in modules for value in module.parameters())


@pytest.mark.parametrize(
    ("name", "config", "millions"),
    [
        ("nafnet", NAFNetConfig(width=32), 17.11),
        ("nafnet", NAFNetConfig(width=64), 67.89),
        ("restormer", PEERS["restormer"].published, 26.13),
        ("uformer", PEERS["uformer"].published, 50.88),
        ("uformer", UformerConfig(32, modulators=False), 20.63),
        ("uformer", UformerConfig(16, modulators=False), 5.23),
        ("mprnet", PEERS["mprnet"].published, 20.13),
    ],
)
def test_published_numbers_of_parameters(name: str, config: object, millions: float) -> None:
    """As the papers give them, in the size that they call -32, -64, -B, -S and -T."""
    assert count_parameters(PEERS[name], config) / 1e6 == pytest.approx(millions, abs=0.005)


def test_published_numbers_of_parameters_with_what_only_their_code_holds() -> None:
    """RRDBNet is published for super-resolution, which reads 3 channels instead of 48; AirNet
    counts both encoders of its contrastive loss; DGUNet's code declares a convolution for nothing.
    """
    rrdb = PEERS["rrdb"]
    extra = 3 * (UPSCALED**2 - 1) * 64 * 9
    assert count_parameters(rrdb, rrdb.published) - extra == 16_697_987
    airnet = PEERS["airnet"]
    deeper = count(
        EncoderBlock(64, 128, 2),
        EncoderBlock(128, 256, 2),
        nn.Linear(256, 256),
        nn.Linear(256, 256),
    )
    encoders = 2 * deeper + count(EncoderBlock(3, 64))
    whole = count_parameters(airnet, airnet.published) + encoders
    assert whole / 1e6 == pytest.approx(8.93, abs=0.005)
    dgunet = PEERS["dgunet"]
    unused = 2 * 80 * 80 * 9
    whole = count_parameters(dgunet, dgunet.published) + unused
    assert whole / 1e6 == pytest.approx(17.33, abs=0.005)


@pytest.mark.parametrize("name", PEERS)
def test_the_compared_size_is_that_of_base(name: str) -> None:
    base = count(Denoiser(CONFIGS["base"]))
    parameters = count_parameters(PEERS[name], PEERS[name].config)
    assert parameters == pytest.approx(base, rel=0.1)
    assert parameters <= 5e6


@pytest.mark.parametrize(("width", "megaflops"), [(32, 0.49), (16, 0.125)])
def test_arithmetic_per_pixel(width: int, megaflops: float) -> None:
    """NAFNet-32: 16 billion multiply-adds for 256 x 256 pixels in the paper."""
    flops = count_flops_per_pixel(PEERS["nafnet"], NAFNetConfig(width=width))
    assert flops / 1e6 == pytest.approx(megaflops, rel=0.01)


@pytest.mark.parametrize("name", PEERS)
def test_any_size_in_the_same_size_out_and_all_weights_learn(name: str) -> None:
    torch.manual_seed(0)
    network = PEERS[name].network(SMALL[name])
    image = torch.stack([photo(45, 62), photo(45, 62, "coffee")])
    with torch.no_grad():
        for value in network.parameters():  # some begin at zero, and let nothing through
            value.add_(0.02 * torch.randn_like(value))
    result = network(image)
    assert result.shape == image.shape
    height, width = (-(-side // network.multiple) * network.multiple for side in (45, 62))
    stages = network.stages(torch.nn.functional.interpolate(image, (height, width)))
    assert all(stage.shape == (2, 3, height, width) for stage in stages)
    sum(stage.square().mean() for stage in stages).backward()
    gradients = {key: value.grad for key, value in network.named_parameters()}
    assert [key for key, grad in gradients.items() if grad is None] == []
    # Both hidden units of a small channel attention may be at rest.
    still = [key for key, grad in gradients.items() if not grad.any() and "factors" not in key]
    assert still == []
    # Photos of a batch do not mix, in evaluation.
    network.eval()
    with torch.no_grad():
        alone = network(image[1:])
        assert torch.allclose(network(image)[1:], alone, atol=1e-4)


@pytest.mark.parametrize("name", ["mprnet", "dgunet"])
def test_stages(name: str) -> None:
    network = PEERS[name].network(SMALL[name])
    stages = network.stages(torch.rand(1, 3, 32, 32))
    assert len(stages) == {"mprnet": 3, "dgunet": 2 + SMALL["dgunet"].shared}[name]


def test_windows_of_uformer() -> None:
    x = torch.rand(2, 16, 24, 3)
    windows = uformer._windows(x)
    assert windows.shape == (2, 6, 64, 3)
    assert torch.equal(windows[0, 1].reshape(8, 8, 3), x[0, :8, 8:16])
    assert torch.equal(uformer._frame(windows, 16, 24), x)


@pytest.mark.parametrize("shift", [0, 4])
def test_attention_of_uformer_stays_within_its_windows(shift: int) -> None:
    """Also where shifting brings opposite edges of the frame together."""
    torch.manual_seed(0)
    block = uformer._Block(4, 2, shift, modulator=True)
    x = torch.rand(1, 24, 24, 4)
    changed = x.clone()
    changed[0, 1, 1, 0] += 1
    attended = [
        block.attention(
            uformer._windows(block.norm1(v).roll((-shift, -shift), (1, 2))),
            uformer._strangers(24, 24, shift, v.device) if shift else None,
        )
        for v in (x, changed)
    ]
    frames = [uformer._frame(v, 24, 24).roll((shift, shift), (1, 2)) for v in attended]
    touched = (frames[0] - frames[1]).abs().sum(-1)[0] > 1e-6
    expected = torch.zeros(24, 24, dtype=torch.bool)
    expected[: shift or 8, : shift or 8] = True
    assert torch.equal(touched, expected)


def test_deformable_convolution() -> None:
    """At rest it is half of an ordinary one; a constant offset moves what it sees."""
    torch.manual_seed(0)
    layer = _DeformableConvolution(4)
    x = torch.rand(2, 4, 12, 15)
    plain = layer.conv(x) - layer.conv.bias[:, None, None]
    seen = layer(x, x) - layer.conv.bias[:, None, None]
    assert torch.allclose(seen, plain / 2, atol=1e-5)
    with torch.no_grad():
        layer.moves.bias[9:18] = 2.0  # across
    moved = layer(x, x) - layer.conv.bias[:, None, None]
    assert torch.allclose(moved[..., 1:-1, 1:-3], plain[..., 1:-1, 3:-1] / 2, atol=1e-5)


def test_projection_of_dgunet_keeps_what_lies_in_the_subspace() -> None:
    torch.manual_seed(0)
    merge = _Merge(3)
    x, bridge = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    basis = merge.basis(torch.cat((x, bridge), 1)).flatten(2)[0]
    inside = (torch.rand(3, 16) @ basis).reshape(1, 3, 8, 8)
    seen = []
    merge.join.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0][:, 3:]))
    torch.manual_seed(0)
    merge.basis.register_forward_hook(lambda *_: basis.reshape(1, 16, 8, 8))
    merge(x, inside)
    assert torch.allclose(seen[0], inside, rtol=0.05, atol=0.05)
