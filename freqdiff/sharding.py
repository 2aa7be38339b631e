"""Weights that are shared out over processes (FSDP2): sharding, and whole tensors from shards."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.export import register_dataclass

from freqdiff.anchor import Residual
from freqdiff.blur_filter import BlurField
from freqdiff.denoiser import Denoiser, Prediction
from freqdiff.model import Block

_registered = False


def shard(model: Denoiser, processes: int) -> None:
    """Share out the parameters, block by block; each process keeps its part of every tensor.

    What a block needs is gathered when it runs, and given back; `nn.Module.__call__` sees to it, so
    the model must be called as a whole.
    """
    global _registered
    if not _registered:
        # FSDP looks for the tensors in what a model returns, to know when its backward begins.
        for kind in (BlurField, Prediction):
            register_dataclass(kind)
        _registered = True
    # FSDP knows contiguous parameters alone, not those that lie channels-last.
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (processes,))
    for module in model.modules():
        if isinstance(module, Block | Residual):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(value: Tensor) -> Tensor:
    """A tensor in full, on the CPU; all processes have to ask for it together."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu().contiguous()


def local(value: Tensor) -> Tensor:
    """This process's part, in place; the tensor itself if it is not shared out."""
    return value.to_local() if isinstance(value, DTensor) else value


def shared_out(content: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, placed as another one is; all processes have to ask for it together."""
    content = content.to(like.device, like.dtype)
    if isinstance(like, DTensor):
        return distribute_tensor(content, like.device_mesh, like.placements)
    # Laid out in memory as the weights: fused steps on a GPU ask for it.
    return torch.empty_like(like).copy_(content)
