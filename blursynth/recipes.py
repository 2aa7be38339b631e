"""Distributions of blur by name: what the physics engine draws, and the simpler engines of others
that it is compared with (Figure 3 and the first claim of the paper)."""

from __future__ import annotations

import dataclasses

from blursynth.scene import Recipe

_IDEAL = Recipe(
    shake=0,
    defocus=0,
    mixed=0,
    video=0,
    layer=0,
    softness=0,
    signal_domain=1,
    tone=0,
    highlights=0,
    noise=0,
    jpeg=0,
)

RECIPES = {
    "gaussian": dataclasses.replace(_IDEAL, gaussian=0.93),
    "frame_average": dataclasses.replace(_IDEAL, video=0.93, layer=0.5),
    "physics_clean": Recipe(tone=0, noise=0, jpeg=0),
    "physics_full": Recipe(),
}
"""`gaussian`: one Gaussian kernel. `frame_average`: the mean of a video's frames, in which the
camera and things in front of it move, as the data sets GoPro and REDS were made. Both blur the
photo's own values without noise, as is usual. `physics_clean`: the blur of `physics_full` without
what sensor and development add: noise, tone curve, compression."""
