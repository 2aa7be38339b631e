"""The compared architectures: each as it was published, and at the size of the model `base`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers.airnet import AirNet, AirNetConfig
from benchmarks.peers.dgunet import DGUNet, DGUNetConfig
from benchmarks.peers.mprnet import MPRNet, MPRNetConfig
from benchmarks.peers.nafnet import NAFNet, NAFNetConfig
from benchmarks.peers.peer import Peer
from benchmarks.peers.restormer import Restormer, RestormerConfig
from benchmarks.peers.rrdb import RRDBConfig, RRDBNet
from benchmarks.peers.uformer import Uformer, UformerConfig


@dataclasses.dataclass(frozen=True)
class Entry:
    """An architecture.

    Attributes:
        title: its usual name.
        network: makes it from a configuration.
        config: of the size of `base`: as many parameters, within a tenth.
        published: of the size that the paper compares, for deblurring where it does that.
    """

    title: str
    network: Callable[[Any], Peer]
    config: Any
    published: Any


PEERS = {
    "rrdb": Entry("RRDBNet (Real-ESRGAN)", RRDBNet, RRDBConfig(), RRDBConfig(blocks=23)),
    "airnet": Entry("AirNet", AirNet, AirNetConfig(), AirNetConfig(width=64)),
    "dgunet": Entry("DGUNet", DGUNet, DGUNetConfig(), DGUNetConfig(80, 48, 32)),
    "mprnet": Entry("MPRNet", MPRNet, MPRNetConfig(), MPRNetConfig(96, 48, 32)),
    "nafnet": Entry("NAFNet", NAFNet, NAFNetConfig(), NAFNetConfig(width=32)),
    "uformer": Entry(
        "Uformer",
        Uformer,
        UformerConfig(),
        UformerConfig(width=32, blocks=(1, 2, 8, 8, 2, 8, 8, 2, 1)),
    ),
    "restormer": Entry("Restormer", Restormer, RestormerConfig(), RestormerConfig(width=48)),
}


def count_parameters(entry: Entry, config: Any) -> int:
    """Numbers that training changes."""
    with torch.device("meta"):
        return sum(value.numel() for value in entry.network(config).parameters())


def count_flops_per_pixel(entry: Entry, config: Any, size: int = 256) -> float:
    """Floating-point operations (2 per multiply-add) per photo pixel, as for `base`."""
    with FakeTensorMode(), torch.no_grad():
        network = entry.network(config).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, size, size))
    return float(counter.get_total_flops()) / size**2
