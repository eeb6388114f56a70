"""Objects that `torch.save` wrote: their tensors come back; nothing of a hostile one is run or allocated."""

from __future__ import annotations

import functools
import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile

import pytest
import torch
from support.drqv2 import DrQV2Agent, snapshot

from snnkern import CheckpointError
from snnkern.files import ObjectsError, read_state_dict
from snnkern.policies.readers.drqv2 import read_snapshot
from snnkern.policies.readers.torch_objects import StoredTensor, TorchFile
from snnkern.policies.readers.unpickle import Record

FORMS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def saved(content, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


class Holder:
    def __init__(self, **attributes) -> None:
        self.__dict__.update(attributes)


@FORMS
def test_tensors_come_back(zipped):
    base = torch.arange(60.0).reshape(3, 4, 5)
    tensors = {
        "whole": base,
        "part": base[1:, :2, ::2],
        "turned": base.permute(2, 0, 1),
        "images": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "double": torch.randn(3, dtype=torch.float64),
        "half": torch.randn(3).half(),
        "bfloat16": torch.randn(3).bfloat16(),
        "whole numbers": torch.tensor([1, -(2**40)]),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "one": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }
    file = TorchFile(saved(Holder(**tensors), zipped), "a file")
    assert (file.objects.name, set(file.objects.state)) == ("Holder", set(tensors))
    for name, tensor in tensors.items():
        found = file.tensor(file.objects.state[name])
        assert found.dtype == tensor.dtype
        assert found.is_contiguous()
        assert torch.equal(found, tensor), name


@FORMS
def test_modules_become_records(zipped):
    file = TorchFile(saved(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU()), zipped), "a file")
    linear = file.objects.state["_modules"]["0"]
    assert isinstance(linear, Record)
    assert linear.kind == "torch.nn.modules.linear.Linear"
    assert isinstance(linear.state["_parameters"]["weight"], StoredTensor)


# Hostile files

WEIGHT = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(%s%s(%st(%st\x89NtR."


def number(value: int) -> bytes:
    return b"I%d\n" % value


def stored(key: str = "0", size: int = 6, kind: str = "FloatStorage") -> bytes:
    """The persistent id of a storage."""
    return b"(Vstorage\nctorch\n%s\nV%s\nVcpu\n%stQ" % (kind.encode(), key.encode(), number(size))


def tensor(shape, stride, offset: int = 0, storage: bytes | None = None) -> bytes:
    sizes = b"".join(map(number, shape)), b"".join(map(number, stride))
    return WEIGHT % (stored() if storage is None else storage, number(offset), *sizes)


def archive(content: bytes, method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as zipped:
        zipped.writestr("archive/data.pkl", content)
        for name, member in {"0": bytes(24), **members}.items():
            zipped.writestr(f"archive/data/{name}", member)
    return file.getvalue()


def read(content: bytes) -> torch.Tensor:
    """A file's one tensor."""
    file = TorchFile(content, "a file")
    return file.tensor(file.objects)


def refusal(content: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(content)
    return str(caught.value)


@pytest.mark.parametrize("device", [b"Vcpu\n", b"Vcuda:0\n"])
def test_a_tensor_is_read_wherever_it_was(device):
    said = tensor([2, 3], [3, 1]).replace(b"Vcpu\n", device)
    content = archive(said, **{"0": torch.arange(6.0).numpy().tobytes()})
    assert torch.equal(read(content), torch.arange(6.0).reshape(2, 3))


LIES = {
    "longer than its storage": (tensor([7], [1]), "larger than its storage"),
    "of 10^18 numbers": (tensor([10**9, 10**9], [10**9, 1]), "larger than its storage"),
    "of one number again and again": (tensor([10**6, 10**6], [0, 0]), "overlap"),
    "overlapping": (tensor([2, 3], [2, 1]), "overlap"),
    "with overlapping columns": (tensor([3, 2], [1, 1]), "overlap"),
    "backwards": (tensor([3], [-1], 5), "whole numbers"),
    "before its storage": (tensor([3], [1], -2), "whole numbers"),
    "behind its storage": (tensor([1], [1], 6), "larger than its storage"),
    "of a negative length": (tensor([-3], [1]), "whole numbers"),
    "of 2^63": (tensor([2**63], [1]), "whole numbers"),
    "of shape and strides that differ": (tensor([2, 3], [1]), "whole numbers"),
    "of nothing": (tensor([0, 5], [5, 1]), "empty"),
    "of a hundred dimensions": (tensor([1] * 100, [1] * 100), "a few whole numbers"),
    "whose storage is shorter than said": (tensor([7], [1], storage=stored(size=7)), "24 bytes where it says 7"),
    "whose storage is longer than said": (tensor([5], [1], storage=stored(size=5)), "24 bytes where it says 5"),
    "whose storage is not there": (tensor([6], [1], storage=stored("1")), "lacks a storage"),
    "whose storage is elsewhere": (tensor([6], [1], storage=stored("../data.pkl")), "lacks a storage"),
    "whose storage has a negative size": (tensor([6], [1], storage=stored(size=-1)), "no storage"),
    "of a storage of another kind": (tensor([6], [1], storage=stored(kind="Odd")), "torch.Odd"),
    "of a number": (tensor([6], [1], storage=b"I3\n"), "nothing"),
    "of a module": (tensor([6], [1], storage=b"(Vmodule\ncos\nsystem\nVx\nVy\ntQ"), "nothing"),
    "of a persistent id that is a number": (tensor([6], [1], storage=b"I3\nQ"), "no storage"),
    "of a persistent id that is text": (tensor([6], [1], storage=b"Pstorage\n"), "PERSID"),
    "of an extension": (tensor([6], [1], storage=b"\x82\x01"), "EXT1"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_tensor_that_is_not_in_the_file_is_refused(name):
    content, wanted = LIES[name]
    tracemalloc.start()
    assert wanted in refusal(archive(content))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**23


def test_a_storage_in_many_tensors_is_not_copied_without_end():
    file = TorchFile(archive(tensor([1000], [1], storage=stored(size=1000)), **{"0": bytes(4000)}), "a file")
    for _ in range(9):
        file.tensor(file.objects)
    with pytest.raises(CheckpointError, match="more than 10 times as much is refused"):
        [file.tensor(file.objects) for _ in range(10)]


def test_a_storage_that_unpacks_to_gigabytes_is_refused():
    content = archive(tensor([6], [1]), zipfile.ZIP_DEFLATED, **{"1": bytes(2**24)})
    assert "more than 10 times as much is refused" in refusal(content)


def test_another_order_of_bytes_is_refused():
    file = io.BytesIO(archive(tensor([6], [1])))
    with zipfile.ZipFile(file, "a") as zipped:
        zipped.writestr("archive/byteorder", "big")
    assert "another order of bytes" in refusal(file.getvalue())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02N.", b"hello", pickle.dumps({}), archive(b"")])
def test_what_is_no_file_of_torch_is_refused(content):
    assert len(refusal(content)) < 200


def test_lies_of_a_legacy_file_are_refused():
    whole = saved(torch.arange(6.0), zipped=False)
    assert torch.equal(read(whole), torch.arange(6.0))
    numbers = whole.index(struct.pack("<q", 6) + torch.arange(6.0).numpy().tobytes())
    for claimed, wanted in ((5, "20 bytes where it says 6"), (7, "truncated"), (2**62, "truncated"), (-1, "truncated")):
        assert wanted in refusal(whole[:numbers] + struct.pack("<q", claimed) + whole[numbers + 8 :])
    assert "truncated" in refusal(whole[:-1])


class Calls:
    """Unpickled by calling something."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Sets:
    """Unpickled by a method of its own."""

    def __getstate__(self):
        return {"command": "touch ran"}

    def __setstate__(self, state):
        os.system(state["command"])


def hostile_agent(**attributes) -> DrQV2Agent:
    agent = DrQV2Agent()
    agent.__dict__.update(attributes)
    return agent


HOSTILE = {
    "beside the agent": lambda zipped: snapshot(DrQV2Agent(), zipped=zipped, more=Calls(os.system, "touch ran")),
    "in the agent": lambda zipped: snapshot(hostile_agent(more=Calls(os.system, "touch ran")), zipped=zipped),
    "in its device": lambda zipped: snapshot(hostile_agent(device=Calls(eval, "open('ran', 'w')")), zipped=zipped),
    "as it is given its state": lambda zipped: snapshot(hostile_agent(more=Sets()), zipped=zipped),
}


@FORMS
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_of_a_snapshot_is_run(name, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = HOSTILE[name](zipped)
    with pytest.raises(ObjectsError):  # torch's own reader does not take it
        read_state_dict(content, "a file")
    found = read_snapshot(content, "a file")
    assert found is not None
    assert len(found.modules) == 15
    assert not list(tmp_path.iterdir())


REBUILDS = {
    "the agent": b"\x80\x02}Vagent\ncos\nsystem\n(Vtouch ran\ntRs.",
    "an agent's state": b"\x80\x02}Vagent\ncdrqv2\nDrQV2Agent\n)\x81}Vencoder\ncos\nsystem\n(Vtouch ran\ntRsbs.",
    "the class of an agent": b"\x80\x02}Vagent\ncbuiltins\neval\n(Vopen('ran', 'w')\ntR)\x81}bs.",
    "a storage's key": tensor(
        [6], [1], storage=b"(Vstorage\nctorch\nFloatStorage\ncos\nsystem\n(Vtouch ran\ntRVcpu\nI6\ntQ"
    ),
    "a storage": tensor([6], [1], storage=b"cos\nsystem\n(Vtouch ran\ntR"),
    "a shape": WEIGHT.replace(b"(%st", b"%s", 1)
    % (stored(), number(0), b"cbuiltins\neval\n(Vopen('ran', 'w')\ntR", number(1)),
    "records in records": b"\x80\x02" + b"cdrqv2\nDrQV2Agent\n)\x81" * 15_000 + b"b" * 14_999 + b".",
    "a record that is its own state": b"\x80\x02cdrqv2\nDrQV2Agent\n)\x81q\x00h\x00b.",
}


@pytest.mark.parametrize("name", REBUILDS)
def test_nothing_that_stands_for_a_part_is_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = archive(REBUILDS[name])
    try:
        assert read_snapshot(content, "a file") is None
    except CheckpointError as error:
        message = str(error)
        assert len(message) < 600
    if b"_rebuild" in REBUILDS[name]:
        refusal(content)
    assert not list(tmp_path.iterdir())


@functools.cache
def whole(zipped: bool) -> bytes:
    return snapshot(DrQV2Agent(features=3, hidden=4), zipped=zipped)


@FORMS
def test_damaged_snapshots_are_read_or_refused_but_nothing_else(zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = whole(zipped)
    generator = random.Random(0)
    pickled = content.index(b"DrQV2Agent") - 100, content.index(b"encoder_opt")  # what decides, and is a small part
    read = 0
    for trial in range(200):
        damaged = bytearray(content)
        if trial % 8 == 0:
            del damaged[generator.randrange(len(damaged)) :]
        for _ in range(generator.choice([1, 2, 8])):
            at = generator.randrange(*pickled) if trial % 2 else generator.randrange(len(content))
            if at < len(damaged):
                damaged[at] = generator.randrange(256)
        try:
            read += read_snapshot(bytes(damaged), "a file") is not None
        except CheckpointError as error:
            message = str(error)
            assert message.isprintable()
            assert len(message) < 1200
    assert 0 < read < 200
    assert not list(tmp_path.iterdir())
