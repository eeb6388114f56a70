"""What a tensor must be before native code or a module gets it, and memory that nobody can take away."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.dlpack import from_dlpack, to_dlpack  # type: ignore[attr-defined]

from snnkern.errors import InputError

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # what there is arithmetic for


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Refuses what there is no arithmetic for.

    Raises:
        InputError: names what has the dtype.
    """
    if dtype not in DTYPES:
        bits = " of 16, 32 or 64 bits" if dtype.is_floating_point else ""
        raise InputError(f"{name} must be a floating-point tensor{bits}, got {dtype}")


def check_tensor(
    name: str, value: object, shape: Sequence[int], dtype: torch.dtype, device: torch.device, symbols: str = ""
) -> Tensor:
    """A dense tensor of this shape, dtype and device whose memory is there; anything else is refused.

    An error names the tensor, and its shape in `symbols`, such as "[B, N]".

    Raises:
        InputError: names what was given and what was wanted.
    """
    if not (
        isinstance(value, Tensor)
        and value.dtype == dtype
        and value.device == device
        and value.shape == tuple(shape)
        and value.layout is torch.strided
        and dtype in DTYPES
        and not value.is_meta
        and not stands_for_others(value)
    ):
        raise InputError(_what_does_not_fit(name, value, shape, dtype, device, symbols))
    check_memory(name, value)
    return value


def _what_does_not_fit(
    name: str, value: object, shape: Sequence[int], dtype: torch.dtype, device: torch.device, symbols: str
) -> str:
    check_dtype(name, dtype)
    form = f"{symbols} = {list(shape)}" if symbols else str(list(shape))
    wanted = f"{name} must be {dtype} {form} on {device}"
    if not isinstance(value, Tensor):
        return f"{wanted}, got {type(value).__name__}"
    if stands_for_others(value):
        return f"{wanted} with memory of its own, got {type(value).__name__}"
    if value.layout is not torch.strided:
        return f"{wanted} and dense, got layout {value.layout}"
    if value.is_meta and value.device == device:
        return f"{wanted}, where a tensor has no numbers"
    return f"{wanted}, got {value.dtype} {list(value.shape)} on {value.device}"


def check_memory(name: str, tensor: Tensor) -> None:
    """Refuses a dense tensor whose storage was made smaller than its shape: torch and native code read beyond it.

    Raises:
        InputError: names the tensor.
    """
    if stands_for_others(tensor) or not tensor.numel():
        return
    last = tensor.numel() - 1
    if not tensor.is_contiguous():
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + last + 1) * tensor.itemsize
    if (found := tensor.untyped_storage().nbytes()) < needed:
        raise InputError(f"{name} of shape {list(tensor.shape)} needs {needed} bytes, but its storage holds {found}")


def stands_for_others(tensor: Tensor) -> bool:
    """Whether a tensor has no memory of its own: while something compiles or maps, and of classes that dispatch."""
    return (
        torch.compiler.is_compiling()
        or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def is_plain(value: object, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> bool:
    """Whether it is a tensor like this whose memory can be read as it is: all there, contiguous, without a gradient.

    What is not plain may be right nevertheless: this is for calls that have no time for more questions.
    """
    if type(value) is not Tensor or torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    return (
        value.shape == shape
        and value.dtype is dtype
        and value.device == device
        and value.layout is torch.strided
        and not value.requires_grad
        and not value.is_neg()
        and value.is_contiguous()
        and value.untyped_storage().nbytes() >= value.nbytes + value.storage_offset() * value.itemsize
    )


def plain(tensor: Tensor) -> Tensor:
    """A checked tensor as its memory is to be read: row by row, and with nothing that changes what it says."""
    return tensor.detach().as_subclass(Tensor).resolve_neg().contiguous()


def lasting(tensor: Tensor, channels_last: bool = False) -> tuple[Tensor, Tensor]:
    """A copy for native code to work on, and the same memory for others to hold.

    Whatever becomes of the second one, resized, shared with another process or set to another storage: the memory
    stays as long as the first one does.

    Args:
        tensor: what is copied.
        channels_last: whether native code has `[B, H, W, C]`; others see `[B, C, H, W]`, as the tensor is.
    """
    with torch.inference_mode(False):  # what is made there can be changed only there
        own = plain(tensor.movedim(1, -1) if channels_last else tensor).clone()
        shown = from_dlpack(to_dlpack(own))
        return own, shown.movedim(-1, 1) if channels_last else shown


def counted_together(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The same memory as tensors that have one counter of changes in place, `_version`, for all of them.

    A tensor that is set to other data keeps its counter, and `detach()` gives another tensor with the same one. Should
    a release of torch do otherwise, there are none.
    """
    with torch.inference_mode(False), torch.no_grad():  # a tensor that is made there has no counter
        nothing = tensors[0].new_empty(0)
        counted = [nothing.detach() for _ in tensors]
        for tensor, data in zip(counted, tensors, strict=True):
            tensor.data = data.clone() if data.is_inference() else data
        nothing.zero_()
    return counted if all(tensor._version for tensor in counted) else []


class CheckedState(nn.Module):
    """A module whose parameters and buffers are finite numbers: a state dict that does not fit changes nothing."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As `torch.nn.Module.load_state_dict`, refusing all of a state dict before any of it is loaded.

        Raises:
            InputError: names, shapes or dtypes do not fit; a NaN or infinity; a threshold below 0.
        """
        if not isinstance(state_dict, Mapping):
            raise InputError(f"a state dict maps names to tensors, got {type(state_dict).__name__}")
        own = set(self.state_dict())
        missing, unknown = sorted(own - set(state_dict)), sorted(map(str, set(state_dict) - own))
        if strict and (missing or unknown):
            raise InputError(
                f"the state dict lacks {missing or 'nothing'}, and holds {unknown or 'nothing'} that is not known"
            )
        return super().load_state_dict(state_dict, strict, assign)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        for name, own in self.state_dict(prefix=prefix).items():  # the children's as well, which are loaded after this
            if name in state_dict:
                _check_entry(name, state_dict[name], own)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _check_entry(name: str, value: object, own: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must be a tensor, got {type(value).__name__}")
    check_tensor(name, value, own.shape, value.dtype, value.device)
    check_numbers(name, value.detach().to(own.dtype), **bounds(name))  # in which float64 may overflow


def bounds(name: str) -> dict[str, float]:
    """What `check_numbers` asks of the tensor of a module that has this name in its state dict."""
    part = name.rpartition(".")[2]
    return {"threshold": {"least": 0.0}, "first_threshold": {"least": 0.0}, "observation_std": {"above": 0.0}}.get(
        part, {}
    )


def check_state(module: nn.Module) -> None:
    """Refuses a module whose state dict holds what one of its kind may not: what a file of it would be refused for.

    Raises:
        InputError: as `check_numbers`.
    """
    for name, tensor in module.state_dict().items():
        check_numbers(name, tensor, **bounds(name))


def check_numbers(name: str, tensor: Tensor, *, least: float = -math.inf, above: float = -math.inf) -> None:
    """Refuses NaN, infinity, and what is less than `least` or not above `above`.

    Raises:
        InputError: names the tensor, says how many of its numbers are bad, and shows the first.
    """
    good = torch.isfinite(tensor) & (tensor >= least) & (tensor > above)
    if not bool(good.all()):
        bad = tensor[~good]
        wanted = [f"at least {least:g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
        said = f"must be finite and {wanted[0]}" if wanted else "holds NaN or infinity where it must be finite"
        raise InputError(f"{name} {said}: {len(bad)} of {tensor.numel()} are not (first: {bad[0].item()})")
