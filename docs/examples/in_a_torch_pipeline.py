"""The model as a frozen `nn.Module` inside a network: `python in_a_torch_pipeline.py photo.jpg`."""

import sys

import torch
from torch import Tensor, nn

import freqdiff
from freqdiff.images import open_image


class EdgesOfSharpPhotos(nn.Module):
    """Strength of the edges of photos, deblurred first."""

    def __init__(self) -> None:
        super().__init__()
        self.deblur = freqdiff.load("tiny", device="cpu").requires_grad_(False)
        kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]) / 4
        self.register_buffer("kernels", torch.stack((kernel, kernel.T))[:, None])

    def forward(self, photos: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, H - 2, W - 2)."""
        grey = self.deblur(photos).mean(1, keepdim=True)
        return torch.conv2d(grey, self.kernels).norm(dim=1)


photos = open_image(sys.argv[1]).rgb
print(f"edges {EdgesOfSharpPhotos()(photos).mean():.4f}")
