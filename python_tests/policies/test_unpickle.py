"""Pickles read for their arrays and numbers: what comes back, and that nothing of a hostile one is run or allocated."""

from __future__ import annotations

import builtins
import collections
import datetime
import operator
import os
import pickle
import random
import struct
import tracemalloc

import numpy as np
import pytest

from snnkern import CheckpointError
from snnkern.policies.readers.unpickle import Record, read_objects

ARRAYS = {
    "float64": np.arange(6.0).reshape(2, 3),
    "float32 by columns": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "big-endian": np.array([1.5, -2.0], dtype=">f8"),
    "strided": np.arange(10, dtype=np.int32)[::3],
    "bool": np.array([True, False]),
    "empty": np.array([]),
    "no dimension": np.array(3.5),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back(name, protocol):
    array = ARRAYS[name]
    found = read_objects(pickle.dumps(array, protocol=protocol))
    np.testing.assert_array_equal(found, array)
    assert (found.dtype, found.shape) == (array.dtype.newbyteorder("="), array.shape)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numbers_texts_and_collections_come_back(protocol):
    plain = {
        "numbers": [1, -(10**30), 2.5, True, None, 300, 70_000],
        "texts": ("", "θ", b"bytes", "x" * 300),
        2: [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}],
    }
    assert read_objects(pickle.dumps(plain, protocol=protocol)) == plain
    shared = [1.0]
    first, second = read_objects(pickle.dumps((shared, shared), protocol=protocol))
    assert first is second


class Holder:
    """An object with attributes, such as a wrapper of environments."""

    def __init__(self, **attributes) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_become_records(protocol):
    wrapper = Holder(mean=np.ones(3), scalar=np.float64(0.5), inner=Holder(date=datetime.date(2026, 1, 1)), set={1, 2})
    wrapper.table = collections.OrderedDict(a=1)
    found = read_objects(pickle.dumps(wrapper, protocol=protocol))
    assert isinstance(found, Record)
    assert (found.name, found.kind) == ("Holder", f"{Holder.__module__}.Holder")
    np.testing.assert_array_equal(found.attribute("mean"), np.ones(3))
    assert float(found.attribute("scalar")) == 0.5
    assert found.attribute("inner").attribute("date").name == "date"
    assert isinstance(found.attribute("set"), Record)
    assert found.attribute("table").kind == "collections.OrderedDict"
    with pytest.raises(CheckpointError, match="its Holder has no variance"):
        found.attribute("variance")


class Calls:
    """Unpickled by calling something."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


RUNS = "import os; os.environ['RAN'] = 'yes'"
HOSTILE = {
    "os.system": pickle.dumps(Calls(os.system, "touch ran")),
    "eval": pickle.dumps(Calls(eval, "open('ran', 'w')")),
    "exec": pickle.dumps(Calls(exec, RUNS)),
    "getattr": pickle.dumps(Calls(getattr, builtins.dict, "fromkeys")),
    "getattr, then called": b"cbuiltins\ngetattr\n(cos\nenviron\nVputenv\ntR(VRAN\nVyes\ntR.",
    "attrgetter": pickle.dumps(Calls(operator.attrgetter, "system")),
    "__import__": b"c__builtin__\n__import__\n(Vantigravity\ntR.",
    "as an instance": b"(Vtouch ran\nios\nsystem\n.",
    "as an old object": b"(cos\nsystem\nVtouch ran\no.",
    "copyreg": b"ccopyreg\n_reconstructor\n(cos\nsystem\nVtouch ran\nNtR.",
    "a state that calls": b"cos\nsystem\n)R}V__setstate__\ncos\nsystem\nsb.",
    "an array of objects": pickle.dumps(np.array([Calls(os.system, "touch ran")], dtype=object)),
    "a persistent id": b"Pos.system\n.",
    "an extension code": b"\x80\x02\x82\x01.",
    "a buffer outside": b"\x80\x05\x97.",
    "an array of 10^12": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR(I1\n(I1000000000000\nt"
    b"cnumpy\ndtype\n(Vf8\ntRI00\nVxxxxxxxx\ntb.",
    "zeros by 10^18": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR(I1\n(I0\nI1"
    + b"0" * 18
    + b"\ntcnumpy\ndtype\n(Vf8\ntRI00\nC\x00tb.",
    "a dtype of 10^12 bytes": b"cnumpy\ndtype\n(VV1000000000000\ntR.",
    "text of 2^60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x.",
    "bytes of 2^60": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
    "a bytearray of 2^60": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"x.",
    "a frame of 2^60": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "place 2^32 - 1 of the memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "a number of 10^5 digits": b"I" + b"9" * 100_000 + b"\n.",
    "a range of 10^18": b"cbuiltins\nrange\n(I1000000000000000000\ntR.",
    "bytes of 10^12": b"cbuiltins\nbytearray\n(I1000000000000\ntR.",
    "tuples in tuples": b"\x80\x02)" + b"\x85" * 20_000 + b".",
    "lists in lists": b"\x80\x02" + b"]" * 20_000 + b"a" * 19_999 + b".",
    "a tuple twice in a tuple twice, as a key": b"\x80\x02}" + b"K\x01K\x02\x86" + b"2\x86" * 200 + b"Ns.",
    "more instructions than are read": b"\x80\x02" + b"N0" * 60_000 + b"N.",
    "a list that holds itself": b"\x80\x02]q\x00h\x00a.",
    "marks without end": b"(" * 20_000 + b"t" * 20_000 + b".",
    "nothing": b"",
    "no stop": b"\x80\x02N",
    "an empty stack": b".",
    "a text": b"hello",
    "items for a number": b"\x80\x02K\x01K\x02K\x03s.",
    "one text in the names of 20,000 classes": b"\x80\x04X"
    + struct.pack("<I", 100_000)
    + b"x" * 100_000
    + b"\x94"
    + b"h\x00h\x00\x93" * 20_000
    + b".",
    "one text encoded 20,000 times": b"\x80\x04c_codecs\nencode\n\x94X"
    + struct.pack("<I", 100_000)
    + b"x" * 100_000
    + b"X\x06\x00\x00\x00latin1\x86\x94"
    + b"h\x00h\x01R" * 20_000
    + b".",
    "one text in 20,000 arrays": b"\x80\x04cnumpy.core.numeric\n_frombuffer\n\x94(B"
    + struct.pack("<I", 100_000)
    + b"x" * 100_000
    + b"cnumpy\ndtype\n(Vf4\ntRM\xa8\x61\x85X\x01\x00\x00\x00Ct\x94"
    + b"h\x00h\x01R" * 20_000
    + b".",
    "one large number as 20,000 keys": b"\x80\x04\x8b"
    + struct.pack("<I", 100_000)
    + b"\x01" * 100_000
    + b"\x94}"
    + b"h\x00Ns" * 20_000
    + b".",
    "encodings": b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
}


def read(content: bytes):
    """What comes of it: an object, or one short message."""
    try:
        return read_objects(content)
    except CheckpointError as error:
        message = str(error)
    assert len(message) < 200
    return message


@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_is_run_and_little_is_allocated(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAN", raising=False)

    tracemalloc.start()
    found = read(HOSTILE[name])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(found, str | Record | dict | tuple | list | np.ndarray | None | int)
    assert most < 60 * (len(HOSTILE[name]) + 10_000)
    assert not list(tmp_path.iterdir())
    assert "RAN" not in os.environ


def test_a_long_file_is_refused_before_it_is_read():
    with pytest.raises(CheckpointError, match="more than the 67,108,864 bytes"):
        read_objects(bytes((1 << 26) + 1))


def test_damaged_pickles_are_refused_or_read_but_nothing_else():
    wrapper = Holder(mean=np.arange(3.0), var=np.ones(3), count=7.0, names=["a", ("b", 2)], inner={"c": Holder(d=None)})
    whole = [pickle.dumps(wrapper, protocol=protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    generator = random.Random(0)
    for trial in range(3_000):
        damaged = bytearray(whole[trial % len(whole)])
        if trial % 4 == 0:
            del damaged[generator.randrange(len(damaged)) :]
        for _ in range(generator.choice([1, 2, 8])):
            if damaged:
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        read(bytes(damaged))
