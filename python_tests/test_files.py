"""Reading and writing: what is no regular file, what is too large, what another process has left or takes away."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.builders import make_actor, make_layers, td3_state

import snnkern
from snnkern import InputError, files
from snnkern.files import (
    check_writable,
    make_folder,
    read_array,
    read_bytes,
    read_state_dict,
    to_json,
    write_atomically,
)
from snnkern.policies.loading import load_policy


def fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def link_to(target: str | Path):
    def make(folder: Path) -> Path:
        (folder / "link").symlink_to(target)
        return folder / "link"

    return make


IRREGULAR = {
    "device": (lambda folder: Path("/dev/null"), "a device"),
    "endless": (lambda folder: Path("/dev/zero"), "a device"),
    "pipe": (fifo, "a pipe"),
    "folder": (lambda folder: folder, "a directory"),
    "link to a device": (link_to("/dev/null"), "a device"),
    "link to a folder": (link_to("."), "a directory"),
}
needs_devices = pytest.mark.skipif(not Path("/dev/zero").exists(), reason="this system has no such devices")


def test_a_folder_is_made_with_those_above_it(tmp_path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")  # as it is
    (tmp_path / "a" / "b" / "file.txt").write_text("")
    for below in ("file.txt", "file.txt/c"):
        with pytest.raises(InputError, match=f"cannot make the folder .*{below}: "):
            make_folder(tmp_path / "a" / "b" / below)


@needs_devices
@pytest.mark.parametrize("case", IRREGULAR)
def test_what_is_no_regular_file_is_neither_read_nor_replaced(tmp_path, case) -> None:
    make, kind = IRREGULAR[case]
    path = make(tmp_path)
    before, entries, actor = os.stat(path), os.listdir(tmp_path), make_actor(3, 4, 2)
    for write in (check_writable, lambda path: write_atomically(path, b"x"), lambda path: snnkern.save(actor, path)):
        with pytest.raises(InputError, match=f"cannot write .*: it is {kind}, and only a regular file is replaced"):
            write(path)
    for read in (read_bytes, snnkern.load_actor, snnkern.load, load_policy, read_array):
        with pytest.raises(InputError, match=f"cannot read .*: it is {kind}"):
            read(path)
    assert os.stat(path)[:3] == before[:3]
    assert os.listdir(tmp_path) == entries


def test_a_link_to_a_file_stays_one_and_its_file_is_replaced(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    link = link_to("file")(tmp_path)
    write_atomically(link, b"new")
    assert link.is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    (tmp_path / "file").unlink()  # and one that leads nowhere yet makes its file
    write_atomically(link, b"newer")
    assert (tmp_path / "file").read_bytes() == b"newer"


NO_PATHS = {"none": None, "a number": 3, "bytes": b"name", "NUL": "a\0b", "too long": "x" * 300, "nothing": ""}


@pytest.mark.parametrize("case", NO_PATHS)
def test_what_names_no_file_is_refused(tmp_path, monkeypatch, case) -> None:
    monkeypatch.chdir(tmp_path)
    name = NO_PATHS[case]
    actor = make_actor(3, 4, 2)
    for use in (
        snnkern.load_actor,
        snnkern.load,
        load_policy,
        read_bytes,
        read_array,
        check_writable,
        lambda name: write_atomically(name, b""),
        lambda name: snnkern.save(actor, name),
    ):
        with pytest.raises(InputError) as caught:
            use(name)
        assert str(caught.value).isprintable()
    assert os.listdir(tmp_path) == []


def test_an_error_is_one_line_that_can_be_printed() -> None:
    assert str(InputError("a\nb\x1b[2J\ud800 θ")) == "a b\\x1b[2J\\ud800 θ"


def test_a_file_of_any_size_is_not_read(tmp_path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**42)
    for read in (read_array, snnkern.load_actor):
        with pytest.raises(InputError, match=r"4,398,046,511,104 bytes are more than the [\d,]+ allowed"):
            read(tmp_path / "sparse")


SHORTEN = """
import os, sys, threading
import torch
import snnkern
from snnkern.policies.loading import load_policy

path, whole = sys.argv[1], open(sys.argv[1], "rb").read()
running = True

def shorten():
    while running:
        with open(path, "r+b") as file:
            file.truncate(1000)
            file.truncate(len(whole))
            file.write(whole)

thread = threading.Thread(target=shorten, daemon=True)  # which ends if this fails
thread.start()
for _ in range(200):
    for load in (snnkern.load_actor, snnkern.load, load_policy):
        try:
            load(path)
        except snnkern.Error:
            pass
running = False
thread.join()
"""


def test_a_file_that_another_program_shortens_meanwhile_ends_no_process(tmp_path) -> None:
    """Where a reader maps the file, this ends by SIGBUS."""
    snnkern.save(make_actor(64, 256, 256, 8), tmp_path / "actor.safetensors")
    done = run_python(SHORTEN, tmp_path / "actor.safetensors")
    assert done.returncode == 0, done.stderr


def run_python(program: str, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **options)


# What processes leave behind


ENDED = 2**22 + 1  # above the largest process number of Linux


def test_unfinished_files_of_processes_that_are_gone_are_removed(tmp_path) -> None:
    node = files._own().removesuffix(f"{os.getpid()}-")
    gone = tmp_path / f"{node}{ENDED}-0123"
    kept = [tmp_path / name for name in (f"{node}{os.getpid()}-0123", ".tmp-elsewhere-1-0123", ".tmp-0123", ".tmp-x")]
    for file in (gone, *kept):
        file.write_bytes(b"half")
    write_atomically(tmp_path / "file", b"whole")
    assert not gone.exists()
    assert {file.name for file in tmp_path.iterdir()} == {"file", *(file.name for file in kept)}


KILLED = """
import os, signal, sys
from pathlib import Path
from snnkern.files import write_atomically

os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
write_atomically(sys.argv[1], b"half")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows does not say whether a process is gone")
def test_the_next_process_clears_what_a_killed_one_left(tmp_path) -> None:
    run_python(KILLED, tmp_path / "file")
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".tmp-")
    write_atomically(tmp_path / "file", b"whole")
    assert os.listdir(tmp_path) == ["file"]


def test_several_threads_write_one_file(tmp_path) -> None:
    """Each reader sees one of the contents, whole."""
    contents = [bytes([number]) * 10_000 for number in range(8)]
    write_atomically(tmp_path / "file", contents[0])
    threads = [threading.Thread(target=write_atomically, args=(tmp_path / "file", content)) for content in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert read_bytes(tmp_path / "file") in contents
    assert os.listdir(tmp_path) == ["file"]


# What files claim


def test_json_has_null_where_a_number_is_not_finite() -> None:
    content = {"a": [1.0, math.nan, (math.inf,)], "b": {"c": -math.inf, "d": np.float64("nan")}, "e": "NaN"}
    assert json.loads(to_json(content)) == {"a": [1.0, None, [None]], "b": {"c": None, "d": None}, "e": "NaN"}


def zip_of(*members: tuple[str, bytes, int]) -> bytes:
    """A zip of names, contents and ways to pack them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content, method in members:
            archive.writestr(name, content, method)
    return file.getvalue()


@pytest.mark.parametrize("depth", [1, 2], ids=["torch", "sb3"])
def test_a_zip_that_grows_is_refused_before_it_does(tmp_path, depth) -> None:
    """Zeros, packed: 4 MB of them were 1 GiB. Each of two zips, one in the other, grows by less than 10, both by 80."""
    file = io.BytesIO()
    torch.save({**td3_state(make_layers(3, 4, 2)), "l3.weight": torch.zeros(2**20)}, file)
    with zipfile.ZipFile(file) as archive:
        members = [(name, archive.read(name), zipfile.ZIP_DEFLATED) for name in archive.namelist()]
    content = zip_of(*members)
    if depth == 2:
        content = zip_of(*members, ("stored", bytes(460_000), zipfile.ZIP_STORED))
        noise = np.random.default_rng(0).bytes(55_000)
        parts = {"data": b"{}", "_stable_baselines3_version": b"2", "policy.pth": content, "noise": noise}
        content = zip_of(*((name, part, zipfile.ZIP_DEFLATED) for name, part in parts.items()))
    (tmp_path / "actor").write_bytes(content)
    with pytest.raises(snnkern.CheckpointError, match=r"unpacks to 4,[\d,]+: more than 10 times as much is refused"):
        snnkern.load_actor(tmp_path / "actor")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_tensor_larger_than_its_bytes_is_refused(zipped) -> None:
    file = io.BytesIO()
    torch.save({"l1.weight": torch.ones(1, 1).expand(10**6, 10**6)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(snnkern.CheckpointError, match="unpacks to 4,000,000,000,000"):
        read_state_dict(file.getvalue(), "actor")


def test_a_small_tensor_may_repeat_its_numbers(tmp_path) -> None:
    """As `expand` makes them: a bias of zeros, a scale."""
    state = td3_state(make_layers(3, 4, 2))
    state["l1.bias"] = torch.zeros(1).expand(4)
    torch.save(state, tmp_path / "actor.pt")
    assert snnkern.load_actor(tmp_path / "actor.pt").hidden[0].bias.tolist() == [0.0] * 4


# Other systems


IMPORT_ALL = """
import importlib, pkgutil, sys, tempfile
from pathlib import Path
import filelock, msgspec, numpy, safetensors.torch, torch
try:
    import gymnasium, matplotlib.figure, rich, scipy.stats, typer
except ImportError:
    pass
absent = ("fcntl", "resource", "termios", "pwd", "grp", "pty", "tty")
sys.modules |= dict.fromkeys(absent)
import snnkern
for module in pkgutil.walk_packages(snnkern.__path__, "snnkern."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        assert error.name not in absent, (module.name, error)
from snnkern.studies.store import Store
with tempfile.TemporaryDirectory() as folder, Store(Path(folder)).alone():
    pass
"""


def test_the_package_needs_no_module_that_windows_has_not() -> None:
    """What other packages need of the kind, they have here before."""
    done = run_python(IMPORT_ALL)
    assert done.returncode == 0, done.stderr


def test_a_folder_of_the_packages_name_does_not_hide_it(tmp_path) -> None:
    """As where a clone is a folder of the working directory: Python would make an empty package of that."""
    (tmp_path / "snnkern").mkdir()
    done = run_python("import snnkern; snnkern.load_actor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "array",
    [
        np.array([["a", "b"]]),
        np.array([["1.5"]]),
        np.ones((2, 3), complex),
        np.zeros(3, [("x", "f4")]),
        np.zeros(3, "datetime64[s]"),
        np.zeros(3, "timedelta64[s]"),
        np.zeros(3, "S3"),
        np.zeros(3, "V2"),
    ],
    ids=lambda array: array.dtype.kind,
)
def test_an_array_of_something_else_than_numbers_is_refused(tmp_path, array) -> None:
    np.save(tmp_path / "array.npy", array)
    with pytest.raises(InputError, match=r"holds an array of .*, where one of real numbers was wanted"):
        read_array(tmp_path / "array.npy")


def test_an_array_of_any_numbers_is_read(tmp_path) -> None:
    for kind in ("?", "u1", ">i4", ">f4", "f2", "f8", np.longdouble):
        np.save(tmp_path / "array.npy", np.ones((2, 3), kind))
        assert read_array(tmp_path / "array.npy").sum() == 6
