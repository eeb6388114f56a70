"""A kernel that is launched again and again with the same arguments, all but a few tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from snnkern.kernels.backends.native import stream_on

_BOUNDARY = 16  # bytes; on which Triton compiles a kernel for tensors that begin there


class RepeatedLaunch:
    """Launches on the current device and torch's current stream there.

    At each launch Triton binds the arguments, asks what to compile for them and looks it up, which takes some 50 µs.
    Here the first launch does this. Later ones give what it compiled the addresses of the same tensors. Where a
    profiler hooks into Triton's launches, or a tensor begins on another boundary, each is Triton's again.

    Args:
        kernel: of `triton.jit`.
        programs: of a launch, in up to three dimensions.
        arguments: of the kernel in their order, up to its constants; a `str` stands for a tensor of that name, which is
            given at each launch.
        options: the kernel's constants and the compiler's options, by name.
    """

    def __init__(
        self, kernel: Any, programs: tuple[int, ...], arguments: Sequence[object], options: dict[str, Any]
    ) -> None:
        self._kernel, self._programs, self._options = kernel, programs, options
        self._arguments = tuple(arguments)
        self._places = [place for place, argument in enumerate(arguments) if isinstance(argument, str)]
        self._compiled: Callable[..., None] | None = None
        self._head: tuple[Any, ...] = ()
        self._addresses: list[Any] = []

    def __call__(self, *given: Tensor) -> None:
        """Launches it with these tensors, on a device, in the order in which their names stand in the arguments."""
        known = not any(tensor.data_ptr() % _BOUNDARY for tensor in given)
        if known and self._compiled is not None and not _hooked():
            addresses = self._addresses.copy()
            for place, tensor in zip(self._places, given, strict=True):
                addresses[place] = tensor.data_ptr()
            stream = stream_on(given[0].get_device())
            self._compiled(*self._programs, stream, *self._head, *addresses)
            return
        arguments = list(self._arguments)
        for place, tensor in zip(self._places, given, strict=True):
            arguments[place] = tensor
        compiled = self._kernel[self._programs](*arguments, **self._options)
        if known and hasattr(compiled, "packed_metadata"):  # the interpreter compiles nothing
            self._keep(compiled)

    def _keep(self, compiled: Any) -> None:
        names = self._kernel.arg_names[len(self._arguments) :]
        self._addresses = [_address(value) for value in self._arguments]
        self._addresses += [self._options[name] for name in names]
        self._programs = (*self._programs, 1, 1)[:3]
        nobody = (None, None, None)  # who watches launches, before and after, and what it is told
        self._head = (compiled.function, compiled.packed_metadata, *nobody)
        self._compiled = compiled.run
        self._owner = compiled  # without which Triton unloads it


def _address(value: object) -> object:
    """What Triton's launcher takes for an argument without asking about it: tensors' addresses."""
    if isinstance(value, Tensor):
        return value.data_ptr()
    return tuple(map(_address, value)) if type(value) is tuple else value


def _hooked() -> bool:
    """Whether somebody watches Triton's launches."""
    from triton import knobs

    hooks = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    return any(getattr(hook, "calls", hook) for hook in hooks)
