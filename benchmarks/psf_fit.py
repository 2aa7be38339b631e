"""Finds the member of a family of kernels that is most like a given kernel.

A family is a differentiable function from parameters to kernels. The search starts from several
points at once and goes from coarse to fine: kernel and target are first blurred alike, so that
light that lies pixels away still pulls.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from blursynth import optics, psf
from blursynth.camera import Camera
from blursynth.shot import Conditions, take
from freqdiff_kernels import reference_filter

Family = Callable[[Tensor], Tensor]
"""Kernels (S, n, n) with sum 1 of parameters (S, P)."""

RAYS, FRAME = 1500, 1000


def relative_error(kernels: Tensor, target: Tensor) -> Tensor:
    """||k - t||^2 / ||t||^2 of kernels (..., n, n)."""
    return (kernels - target).square().sum((-2, -1)) / target.square().sum()


def fit(
    family: Family,
    starts: Tensor,
    target: Tensor,
    rates: Tensor,
    scales: tuple[float, ...] = (2.0, 1.0, 0.5, 0.0),
    steps: int = 120,
) -> Tensor:
    """Parameters (P,) of the member that is most like a kernel.

    Args:
        family: see there.
        starts: (S, P) parameters to start from.
        target: (n, n) with sum 1.
        rates: (P,) by how much to change each parameter in one step at first.
        scales: sigma in pixels of the blur under which both are compared, one after the other.
        steps: for each scale.
    """
    values = starts.clone().requires_grad_()
    for scale in scales:
        blur = optics.softness_kernel(starts.new_tensor(scale), math.ceil(3 * scale))[None, None]
        goal = F.conv2d(target[None, None], blur, padding="same")[:, 0]
        # Adam moves every parameter by about its rate, whatever the size of its gradient.
        scaled = (values.detach() / rates).requires_grad_()
        adam = torch.optim.Adam([scaled], lr=1.0)
        schedule = torch.optim.lr_scheduler.LinearLR(adam, max(scale, 0.5) / 2, 0.05, steps)
        for _ in range(steps):
            made = F.conv2d(family(scaled * rates)[:, None], blur, padding="same")[:, 0]
            adam.zero_grad()
            relative_error(made, goal[0]).sum().backward()
            adam.step()
            schedule.step()
        values = (scaled * rates).detach()
    with torch.no_grad():
        return values[relative_error(family(values), target).argmin()]


def softened(kernels: Tensor, sigma_px: Tensor) -> Tensor:
    """Kernels (S, n, n) after a blur by Gaussians (S,)."""
    soft = optics.softness_kernel(sigma_px.abs(), 4)
    padded = F.pad(kernels, (4,) * 4)
    return F.conv2d(padded[None], soft[:, None], groups=len(kernels))[0]


def spline(points: int, controls: int) -> Tensor:
    """Weights (points, controls) of a uniform cubic B-spline."""
    at = torch.linspace(0, controls - 3, points, dtype=torch.float64)
    first = at.floor().clamp(max=controls - 4)
    t = at - first
    weights = (1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3
    result = torch.zeros(points, controls, dtype=torch.float64)
    return result.scatter_(1, first.long()[:, None] + torch.arange(4), torch.stack(weights, 1) / 6)


def fit_path(
    target: Tensor, controls: int = 24, points: int = 256, starts: int = 8, seed: int = 0
) -> tuple[Tensor, float]:
    """The smooth path of a camera that draws a kernel most alike while it collects light evenly.

    Args:
        target: (n, n) in float64 with sum 1, n odd.
        controls: of the spline that the path is.
        points: of the path, evenly spaced in time.
        starts: random paths over the lit pixels to start from.
        seed: of these.

    Returns:
        Displacements (points, 2) in pixels, and the sigma of the softness in pixels.
    """
    radius = target.shape[-1] // 2
    curve = spline(points, controls)
    weights = torch.full((starts, points), 1 / points, dtype=torch.float64)

    def path(values: Tensor) -> Tensor:
        return curve @ values[:, :-1].view(-1, controls, 2)

    def family(values: Tensor) -> Tensor:
        drawn = reference_filter.rasterize_paths(path(values), weights[: len(values)], radius)
        return softened(drawn, values[:, -1])

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([_tour(target, controls, generator) for _ in range(starts)])
    first = torch.cat((drawn.flatten(1), torch.full((starts, 1), 0.4).double()), 1)
    rates = torch.full((first.shape[1],), 0.3, dtype=torch.float64)
    rates[-1] = 0.03
    best = fit(family, first, target, rates)
    return path(best[None])[0], float(best[-1].abs())


def _tour(target: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random places (count, 2) where the kernel has light, each followed by its nearest."""
    side = target.shape[-1]
    chosen = torch.multinomial(target.flatten(), count, replacement=True, generator=generator)
    places = torch.stack((chosen // side, chosen % side), -1).double() - side // 2
    places += 0.3 * torch.randn(count, 2, generator=generator, dtype=torch.float64)
    order, left = [0], list(range(1, count))
    while left:
        away = (places[left] - places[order[-1]]).norm(dim=-1)
        order.append(left.pop(int(away.argmin())))
    return places[order]


@dataclasses.dataclass(frozen=True)
class Lens:
    """A point seen through a lens; its own coordinates run outwards from the middle of the frame.

    Attributes:
        defocus_px, softness_px, cat_eye, spherical_px, coma_px: see `blursynth.scene.Scene`.
        shift: (dy, dx) of the whole kernel in pixels.
        down: whether the point lies below the middle of the frame or above.
    """

    defocus_px: float
    softness_px: float
    cat_eye: float
    spherical_px: float
    coma_px: float
    shift: tuple[float, float]
    down: bool


def fit_lens(target: Tensor, *, aberrations: bool) -> Lens:
    """The lens that draws a kernel most alike, of a point above or below the middle of the frame.

    Fine structure counts little: kernel and target are compared as a photo that is softer by a
    pixel would show them.

    Args:
        target: (n, n) with sum 1, n odd.
        aberrations: whether the lens may have spherical aberration and coma.
    """
    radius = target.shape[-1] // 2
    centre, spread = moments(target)
    number = torch.arange(RAYS) + 0.5
    angle, distance = number * (math.pi * (3 - 5**0.5)), (number / RAYS).sqrt()
    y, x = distance * angle.sin(), distance * angle.cos()
    square = distance**2

    def family(values: Tensor) -> Tensor:
        defocus, cat_eye, dy, dx, softness, spherical, coma = values.T[..., None]
        if not aberrations:
            spherical, coma = 0 * spherical, 0 * coma
        focus = defocus.sign() * (defocus**2 / 4 - 2 / 3).clamp_min(1e-3).sqrt()
        along = focus + spherical * square + 2 * coma * y
        landing = torch.stack((along * y + coma * square + dy, along * x + dx), -1)
        # The barrel gets a soft edge, or no gradient would move it.
        passes = (1 + 40 * (1 - torch.hypot(y - cat_eye, x))).clamp(0, 1)
        weights = passes / passes.sum(1, keepdim=True)
        return softened(reference_filter.rasterize_paths(landing, weights, radius), softness[:, 0])

    starts = [
        [4 * side * max(spread), cat_eye, *centre, 0.6, side * bend * max(spread), 0.01]
        for side in (1, -1)
        for cat_eye in (0.4, -0.4, 1, -1)
        for bend in ((0.2, -0.2) if aberrations else (0.0,))
    ]
    rates = torch.tensor([0.6, 0.03, 0.3, 0.3, 0.03, 0.3, 0.2])
    best = fit(family, torch.tensor(starts), target.float(), rates, (2.0, 1.5, 1.0), 60)
    defocus, cat_eye, dy, dx, softness, spherical, coma = best.tolist()
    down = cat_eye >= 0
    return Lens(
        defocus_px=defocus,
        softness_px=abs(softness),
        cat_eye=abs(cat_eye),
        spherical_px=spherical if aberrations else 0.0,
        coma_px=(coma if down else -coma) if aberrations else 0.0,
        shift=(dy, dx),
        down=down,
    )


def fit_gaussian(target: Tensor) -> Tensor:
    """The Gaussian kernel (n, n) most like a kernel, anywhere in it."""
    edge = torch.arange(target.shape[-1] + 1, dtype=torch.float64) - target.shape[-1] / 2

    def family(values: Tensor) -> Tensor:
        sigma, *middle = values.T[..., None]
        rows, columns = (((edge - m) / (2**0.5 * sigma.abs())).erf().diff() for m in middle)
        return _normal(rows[:, :, None] * columns[:, None])

    return _fit_simple(family, target, 1.0)


def fit_disk(target: Tensor) -> Tensor:
    """The disk (n, n) with an edge of one pixel most like a kernel, anywhere in it."""
    line = torch.arange(target.shape[-1], dtype=torch.float64) - target.shape[-1] // 2

    def family(values: Tensor) -> Tensor:
        diameter, dy, dx = values.T[..., None, None]
        distance = torch.hypot(line[:, None] - dy, line - dx)
        return _normal((0.5 + diameter.abs() / 2 - distance).clamp(0, 1))

    return _fit_simple(family, target, 4.0)


def _fit_simple(family: Family, target: Tensor, width: float) -> Tensor:
    centre, spread = moments(target)
    lines = [[width * part * max(spread), *centre] for part in (0.4, 0.7, 1.0)]
    starts = torch.tensor(lines, dtype=torch.float64)
    rates = torch.tensor([0.3, 0.2, 0.2], dtype=torch.float64)
    best = fit(family, starts, target, rates)
    return family(best[None])[0]


def _normal(kernels: Tensor) -> Tensor:
    return kernels / kernels.sum((-2, -1), keepdim=True)


def moments(kernel: Tensor) -> tuple[list[float], list[float]]:
    """Centroid (y, x) from the middle and standard deviation along y and x, in pixels."""
    line = torch.arange(len(kernel), dtype=kernel.dtype) - len(kernel) // 2
    shares = (kernel.sum(1), kernel.sum(0))
    centre = [float(share @ line) for share in shares]
    spread = [float(s @ (line - c) ** 2) ** 0.5 for s, c in zip(shares, centre, strict=True)]
    return centre, spread


def draw(
    path: Tensor, lens: Lens | None = None, *, softness_px: float = 0.0, radius: int
) -> Tensor:
    """The kernel (2 radius + 1, 2 radius + 1) that the physics engine draws of a fit.

    Args:
        path: (N, 2) displacements of the picture by the camera in pixels.
        lens: see there; None: a perfect one in focus, with this softness.
        softness_px: without a lens.
        radius: of the kernel.
    """
    still = Conditions(hand=None, diffraction=False)
    if lens is not None:
        softness_px = lens.softness_px
        still = dataclasses.replace(
            still,
            cat_eye=min(lens.cat_eye, 1.5),
            spherical_px=lens.spherical_px,
            coma_px=lens.coma_px,
        )
    scene = take(np.random.default_rng(0), Camera(), (FRAME, FRAME), still)
    # Far behind the lens, so that small turns shift the whole frame alike.
    focal_px = 1e6
    turns = torch.stack((-path[:, 0], path[:, 1], 0 * path[:, 0]), -1) / focal_px
    scene = dataclasses.replace(
        scene,
        rotations=turns[None].double(),
        weights=torch.full((1, len(path)), 1 / len(path), dtype=torch.float64),
        defocus_px=torch.full((1, 2), 0.0 if lens is None else lens.defocus_px),
        softness_px=torch.tensor([softness_px]),
        focal_px=torch.tensor([focal_px], dtype=torch.float64),
    )
    scene = scene.map(lambda value: value.double())
    middle = FRAME / 2
    outward = 0.0 if lens is None else (1 if lens.down else -1) * FRAME / 2**0.5
    node = torch.tensor([[[middle + outward, middle]]], dtype=torch.float64)
    return psf.kernels_at(scene, node, radius)[0, 0]
