"""How a tensor may lie in memory: `LAYOUTS` of a current `[T, B, N]`; `CUDA_LAYOUTS`, where alignment counts."""

from __future__ import annotations

import torch


def strided(tensor, dim: int, step: int = 2):
    """The same values in memory that has other values between them along a dimension."""
    shape = list(tensor.shape)
    shape[dim] *= step
    wide = torch.full(shape, 7.0, dtype=tensor.dtype, device=tensor.device)
    view = wide.movedim(dim, 0)[::step].movedim(0, dim)
    view.copy_(tensor)
    return view


def transposed(tensor, first: int, second: int):
    """The same values with two dimensions swapped in memory."""
    return tensor.transpose(first, second).contiguous().transpose(first, second)


LAYOUTS = {
    "strided-T": lambda current: strided(current, 0),
    "strided-B": lambda current: strided(current, 1),
    "strided-N": lambda current: strided(current, 2),
    "strided-T-and-B": lambda current: strided(strided(current, 0), 1, 3),
    "transposed-T-B": lambda current: transposed(current, 0, 1),
    "transposed-B-N": lambda current: transposed(current, 1, 2),
    "transposed-T-N": lambda current: transposed(current, 0, 2),
    "same-for-all-T": lambda current: current[:1].expand_as(current),
    "same-for-all-B": lambda current: current[:, :1].expand_as(current),
    "same-for-all-N": lambda current: current[:, :, :1].expand_as(current),
    "one-number": lambda current: current[0, 0, 0].expand_as(current),
    "not-at-the-start-of-memory": lambda current: torch.cat([torch.full_like(current[:1], 7.0), current])[1:],
}


def unaligned(tensor: torch.Tensor) -> torch.Tensor:
    """The same values one number past a boundary of memory."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].reshape(tensor.shape)


CUDA_LAYOUTS = {
    "every-other-T": lambda current: current.repeat_interleave(2, dim=0)[::2],
    "every-third-B": lambda current: current.repeat_interleave(3, dim=1)[:, ::3],
    "transposed-T-B": lambda current: current.transpose(0, 1).contiguous().transpose(0, 1),
    "transposed-B-N": lambda current: current.transpose(1, 2).contiguous().transpose(1, 2),
    "same-for-all-T": lambda current: current[:1].expand_as(current),
    "same-for-all-B": lambda current: current[:, :1].expand_as(current),
    "odd-distance-of-steps": lambda current: torch.nn.functional.pad(current.flatten(1), (0, 1))[:, :-1].unflatten(
        1, current.shape[1:]
    ),
    "odd-distance-of-rows": lambda current: torch.nn.functional.pad(current, (0, 1))[..., :-1],
    "unaligned": unaligned,
}
