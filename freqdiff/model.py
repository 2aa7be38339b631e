"""The denoising network: a time-conditional U-Net of local operators on 4x4 pixel blocks."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from freqdiff import diffusion, spectral
from freqdiff.blur_filter import CELL, BlurField
from freqdiff.layers import ChannelNorm, add_residual, add_to, zero_layer
from freqdiff.photo_settings import VECTOR_SIZE
from freqdiff_kernels import ops

Condition = Literal["freq+spatial", "freq", "spatial"]
Anchor = Literal["wiener", "input"]
PITCH = 4
"""Pixels per position of the finest level: the network works on PixelUnshuffle(4) of the photo."""
LARGEST = 4096
"""Of the widths and numbers of a configuration, which may come from a file of anyone."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Architecture and objective of a network; saved with its weights.

    Attributes:
        name: for messages and reports.
        channels: width of the levels at pitch 4, 8, 16, ... pixels.
        encoder_blocks, decoder_blocks: residual blocks of each level on the way down (the last
            one is the middle) and on the way up (one entry fewer).
        attention: levels (0 = finest) whose blocks end with halo attention.
        condition: what the network sees of the blurred photo: its spectra, itself, or both.
        taper, phase: of the spectra, see `spectral.window_features`.
        objective: what the network's output means, see `diffusion.coefficients`.
        anchor: what the diffusion starts from: the blurred photo ("input"), or the Wiener filter of
            it with an estimated blur ("wiener").
        blur_channels, blur_blocks: width and residual blocks of the blur estimator at pitch 4, 8,
            16 and 32 pixels.
        residual_std: r of the anchored objective.
        embedding: width of the time embedding.
        camera: whether the network may be told the settings of the camera.
        default_steps: sampling steps when the user does not choose.
    """

    name: str
    channels: tuple[int, ...] = (48, 64)
    encoder_blocks: tuple[int, ...] = (3, 4)
    decoder_blocks: tuple[int, ...] = (3,)
    attention: tuple[int, ...] = ()
    condition: Condition = "freq+spatial"
    taper: Literal["hann", "none"] = "hann"
    phase: bool = True
    objective: diffusion.Objective = "anchored"
    anchor: Anchor = "wiener"
    blur_channels: tuple[int, ...] = (32, 48, 64, 96)
    blur_blocks: tuple[int, ...] = (0, 1, 1, 1)
    residual_std: float = 0.1
    embedding: int = 64
    camera: bool = False
    default_steps: int = 1

    def __post_init__(self) -> None:
        levels = len(self.channels)
        if len(self.encoder_blocks) != levels or len(self.decoder_blocks) != levels - 1:
            raise ValueError(
                f"{levels} levels need {levels} encoder_blocks and {levels - 1} decoder_blocks, "
                f"got {self.encoder_blocks} and {self.decoder_blocks}."
            )
        if self.condition not in ("freq+spatial", "freq", "spatial"):
            raise ValueError(f"condition is {self.condition!r}, not a known one.")
        if self.taper not in ("hann", "none"):
            raise ValueError(f"taper is {self.taper!r}, expected 'hann' or 'none'.")
        if self.objective not in diffusion.OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}, not one of {diffusion.OBJECTIVES}.")
        if self.anchor not in ("wiener", "input"):
            raise ValueError(f"anchor is {self.anchor!r}, expected 'wiener' or 'input'.")
        if len(self.blur_channels) != 4 or len(self.blur_blocks) != 4 or min(self.blur_blocks) < 0:
            raise ValueError(
                "blur_channels and blur_blocks need 4 levels each, "
                f"got {self.blur_channels} and {self.blur_blocks}."
            )
        blocks = (*self.encoder_blocks, *self.decoder_blocks)
        widths = (*self.channels, *self.blur_channels)
        whole = (*widths, *blocks, self.embedding, self.default_steps)
        if not all(isinstance(number, int) and 0 < number <= LARGEST for number in whole):
            raise ValueError(
                f"channels, blocks, embedding and steps must be 1 to {LARGEST}, got {whole}."
            )
        if not 1 <= levels <= 4 or self.embedding % 2 or not 0 < self.residual_std < math.inf:
            raise ValueError(
                "expected 1 to 4 levels, an even embedding and a finite residual_std above 0."
            )
        if any(not 0 <= i < levels or self.channels[i] % HEAD for i in self.attention):
            raise ValueError(f"attention needs levels whose channels are multiples of {HEAD}.")

    @property
    def alignment(self) -> int:
        """Pixels that frame sizes and tile starts must be multiples of."""
        return max(PITCH << (len(self.channels) - 1), CELL if self.anchor == "wiener" else 0)

    @property
    def receptive_radius(self) -> int:
        """Pixels that an output pixel sees in each direction, rounded up to `alignment`."""
        radius = 2 * PITCH  # input and output convolutions
        for level in range(len(self.channels)):
            pitch = PITCH * 2**level
            blocks = self.encoder_blocks[level]
            if level < len(self.decoder_blocks):
                blocks += self.decoder_blocks[level]
            radius += 2 * blocks * pitch + pitch
            if level in self.attention:
                radius += blocks * (WINDOW + HALO) * pitch
        return -(-radius // self.alignment) * self.alignment


WINDOW, HALO, HEAD = 8, 4, 32

CONFIGS = {
    "tiny": ModelConfig("tiny"),
    "base": ModelConfig(
        "base",
        channels=(72, 128, 160),
        encoder_blocks=(3, 3, 2),
        decoder_blocks=(3, 2),
        embedding=128,
        default_steps=4,
    ),
    "adv": ModelConfig(
        "adv",
        channels=(160, 160, 192),
        encoder_blocks=(4, 2, 1),
        decoder_blocks=(4, 2),
        attention=(1, 2),
        embedding=128,
        camera=True,
        default_steps=8,
    ),
}


def as_in_paper(config: ModelConfig) -> ModelConfig:
    """The same network as the paper trains it: predicts the noise, from the spectra alone."""
    return dataclasses.replace(
        config,
        name=f"{config.name}-paper",
        objective="epsilon",
        condition="freq",
        anchor="input",
        camera=False,
        default_steps=10,
    )


class HaloAttention(nn.Module):
    """Self-attention of 8x8 windows that see 4 positions around, on an absolute grid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD
        self.norm = ChannelNorm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        span = 2 * (WINDOW + HALO) - 1
        self.bias = nn.Parameter(torch.zeros(self.heads, span, span))
        zero_layer(self.out)

    def forward(self, x: Tensor, origin: tuple[int, int]) -> Tensor:
        """(B, C, H, W) -> the same shape; `origin` is the position of (0, 0) in the frame."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1)
        q, k, v = qkv.reshape(batch, height, width, 3, self.heads, HEAD).unbind(3)
        y = ops.halo_attention(q, k, v, WINDOW, HALO, bias=self.bias, origin=origin)
        result: Tensor = self.out(y.reshape(batch, height, width, channels).permute(0, 3, 1, 2))
        return add_to(result, x)


class Block(nn.Module):
    """Residual block: norm, FiLM by the time embedding, two 3x3 convolutions (second from zero)."""

    def __init__(self, channels: int, embedding: int, attention: bool) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.film = nn.Linear(embedding, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.attention = HaloAttention(channels) if attention else None
        zero_layer(self.film)
        zero_layer(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor, origin: tuple[int, int]) -> Tensor:
        """(B, C, H, W) and (B, E) -> (B, C, H, W)."""
        scale, shift = self.film(embedding).chunk(2, 1)
        x = add_residual(x, self.norm(x, 1 + scale, shift), self.conv1, self.conv2)
        return x if self.attention is None else self.attention(x, origin)


class CameraEmbedding(nn.Module):
    """Settings of the camera -> their share of the embedding.

    A setting enters as its value and a one, or as two zeros where it is not known; so what is
    learned for the zeros is what it means not to know it.
    """

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.input = nn.Linear(2 * VECTOR_SIZE, embedding)
        self.output = nn.Linear(embedding, embedding)
        zero_layer(self.output)

    def forward(self, settings: Tensor) -> Tensor:
        """(B, 6) of `photo_settings.camera_vector` -> (B, E)."""
        known = torch.isfinite(settings)
        values = torch.where(known, settings, 0).clamp(-2, 2)
        both = torch.cat((values, known), 1).to(self.input.weight.dtype)
        result: Tensor = self.output(F.silu(self.input(both)))
        return result


@dataclasses.dataclass(frozen=True)
class ConditionMaps:
    """What depends on the blurred photo only: computed once per frame, cut for tiles, reused.

    Attributes:
        anchor: (B, 3, H, W) what the diffusion starts from.
        levels: one (B, C_l, H / p_l, W / p_l) per encoder level of pitch p_l.
        embedding: (B, E) share of global spectrum and camera in the time embedding.
        blur: what the anchor undid, of the whole frame; None for the photo itself.
    """

    anchor: Tensor
    levels: tuple[Tensor, ...]
    embedding: Tensor
    blur: BlurField | None = None

    def crop(self, y: int, x: int, height: int, width: int) -> ConditionMaps:
        """The maps of the tile at pixel (y, x); all four multiples of the model's alignment."""
        cut = tuple(
            level[:, :, y // p : (y + height) // p, x // p : (x + width) // p]
            for level, p in ((level, PITCH * 2**i) for i, level in enumerate(self.levels))
        )
        anchor = self.anchor[:, :, y : y + height, x : x + width]
        return ConditionMaps(anchor, cut, self.embedding)


class FreqDiffUNet(nn.Module):
    """F(z, t, c_freq, y) of model equation x0^ = mu + tau F; see `diffusion.coefficients`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        widths, embedding = config.channels, config.embedding
        self.input_z = nn.Conv2d(3 * PITCH**2, widths[0], 3, padding=1, bias=False)
        self.input_y = nn.Conv2d(3 * PITCH**2, widths[0], 3, padding=1)
        self.input_anchor = None
        if config.anchor == "wiener":
            self.input_anchor = nn.Conv2d(3 * PITCH**2, widths[0], 3, padding=1, bias=False)
        self.project = nn.ModuleList(
            nn.Conv2d(6 * (PITCH * 2**level) ** 2, width, 1) for level, width in enumerate(widths)
        )
        self.time = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU())
        self.time_out = nn.Linear(embedding, embedding)
        self.spectrum = nn.Linear(spectral.GLOBAL_FEATURES, embedding)
        self.camera = CameraEmbedding(embedding) if config.camera else None
        self.gate = nn.Linear(embedding, 1)
        self.encoder = nn.ModuleList(
            nn.ModuleList(Block(w, embedding, level in config.attention) for _ in range(count))
            for level, (w, count) in enumerate(zip(widths, config.encoder_blocks, strict=True))
        )
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(
            nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in itertools.pairwise(widths)
        )
        self.decoder = nn.ModuleList(
            nn.ModuleList(Block(w, embedding, level in config.attention) for _ in range(count))
            for level, (w, count) in enumerate(zip(widths, config.decoder_blocks, strict=False))
        )
        self.output = nn.Conv2d(widths[0], 3 * PITCH**2, 3, padding=1)
        for layer in (self.output, self.gate, self.spectrum):
            zero_layer(layer)

    def condition(
        self,
        y: Tensor,
        grey: Tensor,
        anchor: Tensor,
        camera: Tensor | None = None,
        spectrum: Tensor | None = None,
    ) -> ConditionMaps:
        """Maps of a blurred photo.

        Args:
            y: (B, 3, H, W) in [-1, 1]; H and W are multiples of the alignment.
            grey: `spectral.grey` of it, in float32.
            anchor: where the diffusion starts, (B, 3, H, W) in [-1, 1].
            camera: (B, 6) as of `photo_settings.camera_vector`; None: nothing is known of it.
            spectrum: `spectral.global_features` of the whole photo, if y is a part of it.
        """
        dtype = self.input_y.weight.dtype
        spatial, frequency = (part in self.config.condition for part in ("spatial", "freq"))
        levels = []
        for level, project in enumerate(self.project):
            pitch = PITCH * 2**level
            if frequency:
                features = spectral.window_features(
                    grey, pitch, self.config.taper, self.config.phase
                )
                maps = project(features.to(dtype))
            else:
                rows, columns = y.shape[2] // pitch, y.shape[3] // pitch
                maps = y.new_zeros((len(y), self.config.channels[level], rows, columns))
                maps = maps.to(dtype)
            if level == 0 and spatial:
                maps = add_to(self.input_y(F.pixel_unshuffle(y.to(dtype), PITCH)), maps)
            if level == 0 and self.input_anchor is not None:
                change = F.pixel_unshuffle((anchor - y).to(dtype), PITCH)
                maps = add_to(self.input_anchor(change), maps)
            levels.append(maps)
        spectrum = spectral.global_features(grey) if spectrum is None else spectrum
        embedding = self.spectrum(spectrum.to(dtype)) * float(frequency)
        if self.camera is not None:
            unknown = y.new_full((len(y), VECTOR_SIZE), math.nan)
            embedding = embedding + self.camera(unknown if camera is None else camera)
        return ConditionMaps(anchor, tuple(levels), embedding)

    def forward(
        self, z: Tensor, t: Tensor, maps: ConditionMaps, origin: tuple[int, int] = (0, 0)
    ) -> tuple[Tensor, Tensor]:
        """One evaluation of the network.

        Args:
            z: (B, 3, H, W) preconditioned noisy photo.
            t: (B,) time step in [0, 999].
            maps: of `condition`, cut to the same pixels.
            origin: pixel position of the tile in its frame.

        Returns:
            F (B, 3, H, W) and the gate (B, 1, 1, 1).
        """
        embedding = diffusion.time_embedding(t, self.config.embedding).to(z.dtype)
        embedding = F.silu(self.time_out(self.time(embedding)) + maps.embedding)
        h = self.input_z(F.pixel_unshuffle(z, PITCH))
        skips: list[Tensor] = []
        for level, blocks in enumerate(self.encoder):
            if level:
                h = self.down[level - 1](h)
            h = add_to(h, maps.levels[level])
            h = _run(blocks, h, embedding, origin, level)
            skips.append(h)
        for level in reversed(range(len(self.decoder))):
            h = add_to(F.pixel_shuffle(self.up[level](h), 2), skips[level])
            h = _run(self.decoder[level], h, embedding, origin, level)
        raw = F.pixel_shuffle(self.output(h), PITCH)
        return raw, self.gate(embedding)[..., None, None]


def _run(
    blocks: nn.Module, h: Tensor, embedding: Tensor, origin: tuple[int, int], level: int
) -> Tensor:
    assert isinstance(blocks, nn.ModuleList)
    pitch = PITCH * 2**level
    for block in blocks:
        h = block(h, embedding, (origin[0] // pitch, origin[1] // pitch))
    return h


def count_flops_per_pixel(config: ModelConfig, size: int = 256) -> float:
    """Floating-point operations (2 per multiply-add) per photo pixel of one `forward`."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = FreqDiffUNet(config)
        z = torch.empty(1, 3, size, size)
        levels = tuple(
            torch.empty(1, width, size // (PITCH * 2**i), size // (PITCH * 2**i))
            for i, width in enumerate(config.channels)
        )
        maps = ConditionMaps(z, levels, torch.empty(1, config.embedding))
        with FlopCounterMode(display=False) as counter:
            model(z, torch.zeros(1), maps)
    return float(counter.get_total_flops()) / size**2
