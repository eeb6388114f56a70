"""Files of `torch.save` that hold objects: read for their tensors, and nothing of them is run.

Such a file is a pickle, which names the storages of its tensors, and the storages beside it: members of a zip, or, as
older releases wrote it, one after the other behind the pickle.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snnkern.errors import CheckpointError
from snnkern.files import check_growth, unzipped
from snnkern.policies.readers.unpickle import Global, Record, read_stream

_ZIP = b"PK\x03\x04"
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # with which a file of an older release begins
_MOST_DIMS = 8
_DTYPES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Storage:
    """The numbers of one or more tensors.

    Attributes:
        key: its name in the file.
        dtype: of its numbers.
        size: how many numbers it has, as the file says.
    """

    key: str
    dtype: torch.dtype
    size: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file, whose numbers have not been read."""

    storage: Any
    offset: Any
    shape: Any
    stride: Any


class TorchFile:
    """What a file holds.

    Args:
        content: the file's.
        name: what errors call it.

    Attributes:
        objects: texts, numbers, collections, a `Record` for every object and a `StoredTensor` for every tensor.

    Raises:
        CheckpointError: it is damaged, or no file of `torch.save`.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self._name = name
        self._size = len(content)
        self._read = 0
        try:
            if content.startswith(_ZIP):
                self.objects, self._numbers = _from_archive(unzipped(content, name, len(content)))
            else:
                self.objects, self._numbers = _from_stream(content)
        except CheckpointError:
            raise
        except Exception as error:  # damaged archives fail in many ways
            raise CheckpointError(f"it is damaged ({type(error).__name__})") from error

    def tensor(self, stored: StoredTensor) -> Tensor:
        """A tensor with its numbers; no larger than its storage, which no two of its elements share.

        Raises:
            CheckpointError: the file does not hold all of them, or what it says of them does not fit together.
        """
        storage, shape, stride = stored.storage, stored.shape, stored.stride
        if not isinstance(storage, Storage):
            raise CheckpointError(f"it holds a tensor whose numbers are {getattr(storage, 'kind', 'nothing')}")
        sizes = (shape, stride, (stored.offset,))
        if not all(map(_are_sizes, sizes)) or not len(shape) == len(stride) <= _MOST_DIMS:
            raise CheckpointError("it holds a tensor whose shape and strides are not a few whole numbers each")
        last = 0  # in the storage, of the elements in the dimensions so far
        for step, length in sorted(zip(stride, shape, strict=True)):
            if length > 1 and step <= last:
                raise CheckpointError(f"it holds a tensor {list(shape)} whose elements overlap, strides {list(stride)}")
            last += max(length - 1, 0) * step
        count = math.prod(shape)
        if not count:
            raise CheckpointError(f"it holds an empty tensor {list(shape)}")
        if stored.offset + last >= storage.size:
            raise CheckpointError(f"it holds a tensor {list(shape)} that is larger than its storage, {storage.size:,}")
        self._read += count * storage.dtype.itemsize  # of one storage there may be many
        check_growth(self._name, self._read, self._size)
        try:
            content = self._numbers(storage)
            if len(content) != storage.size * storage.dtype.itemsize:
                raise CheckpointError(
                    f"it holds {len(content):,} bytes where it says {storage.size:,} numbers of {storage.dtype}"
                )
            flat = torch.frombuffer(bytearray(content), dtype=storage.dtype)
            return flat.as_strided(shape, stride, stored.offset).clone(memory_format=torch.contiguous_format)
        except CheckpointError:
            raise
        except Exception as error:  # a damaged member of the archive, or a shape that torch has no room for
            raise CheckpointError(f"it is damaged ({type(error).__name__})") from error


_Numbers = Callable[[Storage], memoryview | bytes]


def _from_archive(archive: zipfile.ZipFile) -> tuple[Any, _Numbers]:
    members = set(archive.namelist())
    found = [member for member in members if member.endswith("/data.pkl") and member.count("/") == 1]
    if len(found) != 1:
        raise CheckpointError("it is not a zip that torch.save wrote")
    folder = found[0].partition("/")[0]
    if f"{folder}/byteorder" in members and archive.read(f"{folder}/byteorder") != b"little":
        raise CheckpointError("it was written on a machine with another order of bytes")

    def numbers(storage: Storage) -> bytes:
        member = f"{folder}/data/{storage.key}"
        if member not in members:
            raise CheckpointError(f"it lacks a storage of {storage.size:,} numbers")
        return archive.read(member)

    return read_stream(io.BytesIO(archive.read(found[0])), _MAKERS, _storage), numbers


def _from_stream(content: bytes) -> tuple[Any, _Numbers]:
    """Pickles of a magic number, the protocol, the machine, the objects and the storages' keys; then the storages."""
    stream = io.BytesIO(content)
    sizes: dict[str, int] = {}

    def persistent(said: Any) -> Any:
        storage = _storage(said)
        if isinstance(storage, Storage):
            sizes[storage.key] = storage.dtype.itemsize
        return storage

    if read_stream(stream) != _MAGIC or read_stream(stream) != _PROTOCOL:
        raise CheckpointError("it is not a file that torch.save wrote")
    machine = read_stream(stream)
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise CheckpointError("it was written on a machine with another order of bytes")
    objects = read_stream(stream, _MAKERS, persistent)
    view = memoryview(content)
    places: dict[str, memoryview] = {}
    at = None
    for key in read_stream(stream):
        at = stream.tell() if at is None else at
        if key not in sizes:
            raise CheckpointError("it holds a storage that no tensor has")
        ends = at + 8 + int.from_bytes(view[at : at + 8], "little") * sizes[key]
        if ends > len(content):
            raise CheckpointError("it is truncated")
        places[key] = view[at + 8 : ends]
        at = ends

    def numbers(storage: Storage) -> memoryview:
        if storage.key not in places:
            raise CheckpointError(f"it lacks a storage of {storage.size:,} numbers")
        return places[storage.key]

    return objects, numbers


def _storage(said: Any) -> Any:
    """What a persistent id of `torch.save` stands for: a storage, or the class of a module, whose source it adds."""
    if isinstance(said, tuple) and len(said) == 4 and said[0] == "module" and isinstance(said[1], Global):
        return said[1]
    if isinstance(said, tuple) and len(said) in (5, 6) and said[0] == "storage" and isinstance(said[1], Global):
        _, kind, key, _, size, *view = said
        if kind.name not in _DTYPES:
            return Record(kind.name)
        if isinstance(key, str) and _are_sizes((size,)) and view in ([], [None]):
            return Storage(key, _DTYPES[kind.name], size)
    raise CheckpointError("it has a persistent id that stands for no storage")


def _are_sizes(numbers: Any) -> bool:
    return isinstance(numbers, tuple) and all(type(size) is int and 0 <= size < 2**63 for size in numbers)


_MAKERS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": lambda storage, offset, shape, stride, *_: StoredTensor(
        storage, offset, shape, stride
    ),
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch.Size": lambda sizes: sizes,
}
