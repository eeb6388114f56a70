"""What layers are beside Linear ones: `Convolution`, with the shapes that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral

from torch import Tensor

from snnkern.errors import InputError, brief

MOST_NEURONS = 2**26  # of a layer, and numbers in an image: a carry of 256 MiB per row


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional convolution without groups and dilation, as `torch.nn.Conv2d` computes it.

    Attributes:
        input_shape: channels, height and width of what comes in.
        channels: of what comes out.
        kernel: height and width.
        stride: along y and x.
        padding: zeros on each side along y and x, fewer than the kernel is long.

    Raises:
        InputError: a number is not whole or out of range, or the kernel is larger than the padded image.
    """

    input_shape: tuple[int, int, int]
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        for name, length, least in (("input_shape", 3, 1), ("kernel", 2, 1), ("stride", 2, 1), ("padding", 2, 0)):
            object.__setattr__(self, name, whole_numbers(f"a convolution's {name}", getattr(self, name), length, least))
        (channels,) = whole_numbers("a convolution's channels", (self.channels,), 1, 1)
        object.__setattr__(self, "channels", channels)
        if any(padding >= kernel for padding, kernel in zip(self.padding, self.kernel, strict=True)):
            raise InputError(
                f"a convolution's padding must be smaller than its kernel {list(self.kernel)}, got {list(self.padding)}"
            )
        if min(self.output_shape) < 1:
            raise InputError(
                f"a kernel of {list(self.kernel)} is larger than its image of {list(self.input_shape)}, "
                f"padded by {list(self.padding)}"
            )
        for shape in (self.input_shape, self.output_shape):
            check_size(shape)

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what comes out."""
        height, width = (
            (size + 2 * padding - kernel) // stride + 1
            for size, padding, kernel, stride in zip(
                self.input_shape[1:], self.padding, self.kernel, self.stride, strict=True
            )
        )
        return self.channels, height, width

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Of the weight: `[out, in, ky, kx]`."""
        return self.channels, self.input_shape[0], *self.kernel

    def __str__(self) -> str:
        """Such as "9x84x84 -> 32x41x41, kernel 3x3, stride 2"; stride and padding where they are not the usual ones."""
        parts = [f"{by_shape(self.input_shape)} -> {by_shape(self.output_shape)}, kernel {by_shape(self.kernel)}"]
        for field in fields(self)[-2:]:
            value = getattr(self, field.name)
            if value != field.default:
                parts.append(f"{field.name} {value[0] if len(set(value)) == 1 else by_shape(value)}")
        return ", ".join(parts)


def by_shape(shape: tuple[int, ...]) -> str:
    """Such as "32x41x41"."""
    return "x".join(map(str, shape))


def whole_numbers(name: str, value: object, length: int, least: int) -> tuple[int, ...]:
    """A tuple of so many whole numbers, none of them below `least` or above `MOST_NEURONS`.

    Raises:
        InputError: it is something else.
    """
    given = tuple(value) if isinstance(value, tuple | list) else ()
    whole = all(isinstance(number, Integral) and not isinstance(number, bool) for number in given)
    numbers = tuple(map(int, given)) if whole else ()
    if len(numbers) != length or not all(least <= number <= MOST_NEURONS for number in numbers):
        raise InputError(f"{name} must be {length} whole numbers from {least} to {MOST_NEURONS:,}, got {brief(value)}")
    return numbers


def check_size(shape: tuple[int, ...]) -> None:
    """Refuses a layer or an image that would not fit into memory.

    Raises:
        InputError: names the shape.
    """
    if math.prod(shape) > MOST_NEURONS:
        raise InputError(f"{by_shape(shape)} are {math.prod(shape):,} numbers: more than {MOST_NEURONS:,} are refused")


def spread(value: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One number per channel `[C]`, or per neuron `[C, H, W]`, as one per neuron, flat: `[C·H·W]`."""
    if value.dim() == 1 and len(shape) > 1:
        value = value.reshape(-1, *[1] * (len(shape) - 1))
    return value.expand(shape).reshape(-1)
