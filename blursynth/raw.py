"""From linear light to a Bayer raw and back to a photo, as a camera does it; batched, any device.

After Brooks et al. 2019 ("Unprocessing Images for Learned Raw Denoising"): colours of the camera,
inverse white balance, mosaic, noise and saturation, and back. Light comes from a photo by
`inverse_tone_curve`, with the tone and contrast that `develop_raw` then applies.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from blursynth import sensor
from blursynth.bayer import demosaic, expect_image, mosaic
from freqdiff.tone import linear_to_srgb, srgb_to_linear

# Linear sRGB from white-balanced camera colours, rows of sum 1. Not profiles of real models: made
# to lie where normalised matrices of published DNG profiles do, from saturated to mild.
_COLOUR_MATRICES = np.array(
    [
        [[1.90, -0.76, -0.14], [-0.22, 1.66, -0.44], [0.04, -0.60, 1.56]],
        [[1.66, -0.55, -0.11], [-0.17, 1.49, -0.32], [0.03, -0.42, 1.39]],
        [[1.78, -0.84, 0.06], [-0.28, 1.52, -0.24], [0.02, -0.70, 1.68]],
        [[1.48, -0.30, -0.18], [-0.12, 1.38, -0.26], [0.01, -0.31, 1.30]],
    ]
)
_DAYLIGHT_GAINS, _TUNGSTEN_GAINS = np.array([2.4, 1.5]), np.array([1.5, 2.5])


@dataclasses.dataclass(frozen=True)
class Development:
    """How B samples of a batch are captured and developed, as tensors.

    Attributes:
        mosaic: (B,) 1 where the sensor sees one colour per pixel; 0: three full channels.
        pattern: (B, 2) row and column (0 or 1) of red in the mosaic, see `bayer.PATTERNS`.
        correction: (B,) share of the gradient correction in demosaicing, see `bayer.demosaic`.
        iso: (B,) sensitivity; 0: no noise.
        read_factor: (B,) variance of the read noise relative to `sensor.noise_levels`, >= 0.2.
        bits: (B,) of the raw values, 10 .. 16; 0: not quantised.
        gains: (B, 2) white-balance gains of red and blue relative to green, >= 1; 1: none.
        colour_matrix: (B, 3, 3) linear sRGB from white-balanced camera colours, rows of sum 1.
        tone: (B,) exponent of the tone curve beyond sRGB's, > 0; 1: plain sRGB.
        contrast: (B,) natural logarithm of the S-curve's slope at middle grey; 0: none.
    """

    mosaic: Tensor
    pattern: Tensor
    correction: Tensor
    iso: Tensor
    read_factor: Tensor
    bits: Tensor
    gains: Tensor
    colour_matrix: Tensor
    tone: Tensor
    contrast: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Development:
        """The same settings with every tensor replaced by `function(tensor)`."""
        names = [field.name for field in dataclasses.fields(self)]
        return Development(**{name: function(getattr(self, name)) for name in names})

    def select(self, rows: Tensor) -> Development:
        """The settings of some samples, by a mask (B,) or indices."""
        return self.map(lambda value: value[rows])

    @classmethod
    def plain(cls, count: int, device: torch.device | str = "cpu") -> Development:
        """`count` samples with every part switched off: what is left is sRGB on 256 levels."""
        zero, one = torch.zeros(count, device=device), torch.ones(count, device=device)
        return cls(
            mosaic=zero,
            pattern=zero[:, None].expand(count, 2),
            correction=one,
            iso=zero,
            read_factor=one,
            bits=zero,
            gains=one[:, None].expand(count, 2),
            colour_matrix=torch.eye(3, device=device).expand(count, 3, 3),
            tone=one,
            contrast=zero,
        )


def sample_development(rng: np.random.Generator, iso: float, tone: float = 1.0) -> Development:
    """Draw a camera with a Bayer mosaic and the white balance of a scene (a batch of one).

    Read noise scatters around its fit as Brooks et al. 2019 measured (0.26 in the logarithm of the
    variance). White balance lies between daylight and tungsten light, the colour matrix between
    plausible ones, the slope of the S-curve between 1 and 1.4. Half to all of the correction in
    demosaicing lies about its best in linear light, where the full one overshoots at dark edges.

    Args:
        rng: source of the settings.
        iso: sensitivity; 0: no noise.
        tone: exponent of the tone curve beyond sRGB's.
    """
    shares = rng.dirichlet(np.ones(len(_COLOUR_MATRICES)))
    warmth = rng.random()
    gains = _DAYLIGHT_GAINS ** (1 - warmth) * _TUNGSTEN_GAINS**warmth
    gains *= np.exp(rng.normal(0, 0.04, 2))

    def tensor(value: object) -> Tensor:
        return torch.as_tensor(np.asarray(value), dtype=torch.float32)[None]

    return Development(
        mosaic=tensor(1.0),
        pattern=tensor(rng.integers(0, 2, 2)),
        correction=tensor(rng.uniform(0.5, 1)),
        iso=tensor(iso),
        read_factor=tensor(np.exp(rng.normal(0, 0.26))),
        bits=tensor(rng.choice([12.0, 14.0])),
        gains=tensor(gains),
        colour_matrix=tensor(np.tensordot(shares, _COLOUR_MATRICES, 1)),
        tone=tensor(tone),
        contrast=tensor(rng.uniform(0, 0.34)),
    )


def add_noise(
    light: Tensor, iso: Tensor, generator: torch.Generator, read_factor: Tensor | None = None
) -> Tensor:
    """Sensor noise with the mean, variance and third moment of the Poisson-Gaussian model.

    y = x + s z + q (z^2 - 1) with one normal z per value, q and s from the moments (Cornish and
    Fisher 1938), instead of a Poisson and a normal number: 8 times as fast on a CPU at ISO 800.
    The steps of the Poisson numbers would not be seen: the fit of Brooks et al. 2019 puts the
    read noise at 0.8 electrons at ISO 100 and at 1.2 at ISO 12000, the ends of their range of
    shot gains, 1e-4 .. 1.2e-2.

    Args:
        light: (B, C, H, W) light on the sensor, 1 is its white level; below 0 it is taken as 0.
        iso: (B,) sensitivity; samples with ISO 0 stay as they are.
        generator: on the device of `light`.
        read_factor: (B,) variance of the read noise relative to `sensor.noise_levels`, 0.2 or
            more; 1 without.

    Returns:
        (B, C, H, W), not clipped.
    """

    def noisy(light: Tensor, iso: Tensor, factor: Tensor) -> Tensor:
        shot, read = sensor.noise_levels(iso)
        shot, read = shot[:, None, None, None], (read * factor)[:, None, None, None]
        light = light.clamp_min(0)
        shot_variance = light * shot
        variance = shot_variance + read
        skew = shot_variance.mul_(shot / 6).div_(variance)
        spread = variance.addcmul_(skew, skew, value=-2).sqrt_()
        z = torch.randn(light.shape, generator=generator, device=light.device, dtype=light.dtype)
        return light.sub_(skew).addcmul_(spread.addcmul_(skew, z), z)

    factor = torch.ones_like(iso) if read_factor is None else read_factor
    return _on(iso > 0, noisy, light, iso, factor)


def tone_curve(linear: Tensor, tone: Tensor, contrast: Tensor) -> Tensor:
    """Signal of linear light: x^(1 / tone), sRGB encoding, S-curve; monotone, 0 -> 0, 1 -> 1.

    The S-curve is Schlick's gain (Graphics Gems IV, 1994) around middle grey: slope e^contrast
    there and e^-contrast at black and white, and its inverse has the negative contrast.

    Args:
        linear: (B, 3, H, W) in [0, 1].
        tone: (B,) exponent beyond sRGB's, > 0; 1 is plain sRGB, more lifts the dark tones.
        contrast: (B,); 0 is none.
    """
    linear = _on(tone != 1, lambda x, t: x ** (1 / t[:, None, None, None]), linear, tone)
    return _on(contrast != 0, _s_curve, linear_to_srgb(linear), contrast)


def inverse_tone_curve(signal: Tensor, tone: Tensor, contrast: Tensor) -> Tensor:
    """Linear light of a signal (B, 3, H, W) in [0, 1]: the inverse of `tone_curve`."""
    signal = _on(contrast != 0, _s_curve, signal, -contrast)
    linear = srgb_to_linear(signal)
    return _on(tone != 1, lambda x, t: x ** t[:, None, None, None], linear, tone)


@torch.no_grad()
def capture(light: Tensor, settings: Development, generator: torch.Generator) -> Tensor:
    """Linear picture that a camera makes of light: mosaic, noise, saturation, white balance.

    A channel saturates where the light on the sensor passes its white level: red and blue, which
    get less light there, later than green; after the gains all are cut at green's white, so that
    overexposed areas are white. White balance comes before demosaicing, as in raw converters: the
    curvature of one colour corrects another only where both are on one scale. Noise may be
    negative up to the end, as above the black level of a raw file: dark areas keep their mean.

    Args:
        light: (B, 3, H, W) linear sRGB, float32 or float64; 1 is white, more is overexposed.
        settings: of the B samples, on the same device.
        generator: source of the noise, on the device of `light`.

    Returns:
        (B, 3, H, W) linear sRGB in [0, 1].

    Raises:
        ValueError: `light` is no batch of floating-point pictures that fits the settings.
    """
    expect_image(light, "light", (len(settings.iso), 3, None, None))
    red, blue = settings.gains[:, :1], settings.gains[:, 1:]
    gains = torch.cat((red, torch.ones_like(red), blue), 1)[..., None, None]
    from_srgb = torch.linalg.inv_ex(settings.colour_matrix).inverse
    seen = _transform(light, from_srgb / gains[..., 0])
    picture = torch.empty_like(seen)
    for bayer in (False, True):
        rows = (settings.mosaic > 0) == bayer
        if not bool(rows.any()):
            continue
        part = settings.select(rows)
        raw, gain = seen[rows], gains[rows]
        if bayer:
            gain = mosaic(gain.expand_as(raw), part.pattern)
            raw = mosaic(raw, part.pattern)
        raw = add_noise(raw, part.iso, generator, part.read_factor).clamp_max(1)
        raw = _on(part.bits > 0, _quantise, raw, part.bits).mul_(gain).clamp_max_(1)
        picture[rows] = demosaic(raw, part.pattern, part.correction) if bayer else raw
    return _transform(picture, settings.colour_matrix).clamp_(0, 1)


@torch.no_grad()
def develop_raw(light: Tensor, settings: Development, generator: torch.Generator) -> Tensor:
    """Photo that a camera makes of light: `capture`, `tone_curve`, 8 bit.

    Args:
        light: (B, 3, H, W) linear sRGB, float32 or float64; 1 is white, more is overexposed.
        settings: of the B samples, on the same device.
        generator: source of the noise, on the device of `light`.

    Returns:
        (B, 3, H, W) sRGB in [0, 1] on 256 levels.

    Raises:
        ValueError: `light` is no batch of floating-point pictures that fits the settings.
    """
    signal = tone_curve(capture(light, settings, generator), settings.tone, settings.contrast)
    return signal.mul(255).round_().div_(255)


def _transform(image: Tensor, matrix: Tensor) -> Tensor:
    """Colours (B, 3, H, W) times (B, 3, 3); not by matmul, which may round to TF32 on a GPU."""
    if torch.equal(
        matrix, torch.eye(3, device=matrix.device, dtype=matrix.dtype).expand_as(matrix)
    ):
        return image
    columns = matrix[..., None, None].to(image.dtype).unbind(2)
    red, green, blue = image[:, :1], image[:, 1:2], image[:, 2:]
    return (columns[0] * red).addcmul_(columns[1], green).addcmul_(columns[2], blue)


def _on(rows: Tensor, function: Callable[..., Tensor], values: Tensor, *settings: Tensor) -> Tensor:
    """`function(values, *settings)` for the chosen samples (B,); the others stay as they are."""
    if not bool(rows.any()):
        return values
    if bool(rows.all()):
        return function(values, *settings)
    result = values.clone()
    result[rows] = function(values[rows], *(setting[rows] for setting in settings))
    return result


def _quantise(raw: Tensor, bits: Tensor) -> Tensor:
    levels = (2**bits - 1)[:, None, None, None]
    return raw.mul(levels).round_().div_(levels)


def _s_curve(signal: Tensor, contrast: Tensor) -> Tensor:
    slope = contrast.exp()[:, None, None, None]
    offset = 2 * signal - 1
    distance = offset.abs()
    # The denominator in this order, so that black and white stay exactly 0 and 1.
    denominator = (1 - distance).addcmul_(slope, distance)
    return (slope * offset).div_(denominator).add_(1).div_(2)
