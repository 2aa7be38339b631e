"""What a subject hides of the scene behind it, guessed from what is seen around."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def uncover(light: Tensor, mask: Tensor, reach: int) -> Tensor:
    """Light behind a layer, smooth from its edges inwards (push-pull, Gortler et al. 1996).

    Args:
        light: (B, C, H, W) of the layer and of what is seen around it.
        mask: (B, 1, H, W) opacity of the layer in [0, 1].
        reach: pixels from the edges that have to be filled; what is farther inside may stay.

    Returns:
        (B, C, H, W); that of `light` where `mask` is 0.
    """
    if reach <= 1:
        return light
    seen = 1 - mask
    planes = F.avg_pool2d(torch.cat((light, light * seen, seen), 1), 2, ceil_mode=True)
    colours = light.shape[1]
    small, weighted, share = torch.tensor_split(planes, (colours, 2 * colours), 1)
    small = torch.where(share > 0, weighted / share.clamp_min(1e-6), small)
    # One seen pixel of the four is enough.
    around = uncover(small, (1 - 4 * share).clamp_min(0), -(-reach // 2))
    large = F.interpolate(around, scale_factor=2, mode="bilinear", align_corners=False)
    return light * seen + large[..., : light.shape[-2], : light.shape[-1]] * mask
