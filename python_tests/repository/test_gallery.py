"""The programs of the gallery that need no other library run, and show what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT
from support.builders import load_example, make_actor
from support.drawing import skipped_where_nothing_draws

import snnkern
from snnkern.control import environments

pytest.importorskip("mujoco", reason="MuJoCo is not installed: pip install 'snnkern[rl]'")
pytest.importorskip("typer", reason="typer is not installed: pip install 'snnkern[rl]'")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'snnkern[rl]'")


def test_an_actor_is_converted_kept_and_evaluated(tmp_path, capsys):
    load_example("convert_and_evaluate").main(steps=1_000, episodes=2, output=tmp_path / "snn.safetensors")
    assert snnkern.load(tmp_path / "snn.safetensors").dynamics.timesteps == 4
    (ratio,) = re.findall(r"ratio +([\d.]+)%", capsys.readouterr().out)
    assert float(ratio) > 90


def test_a_spiking_actor_is_trained_from_scratch(tmp_path, capsys):
    output = tmp_path / "pendulum.safetensors"
    load_example("train_td3").train(steps=30, random_steps=130, neuron="mt", timesteps=2, output=output)
    snn = snnkern.load(output)
    assert (snn.dynamics.neuron.name, snn.dynamics.timesteps) == ("mt", 2)
    assert re.search(r"return -\d+\.\d ± ", capsys.readouterr().out)
    dense = snnkern.policies.spiking.dense_actor(snn)
    assert not np.array_equal(dense.hidden[0].weight.detach().numpy(), snn.hidden[0].weight.T.numpy())  # it has learnt


def test_neurons_are_compared_in_a_picture(tmp_path):
    actor = make_actor(11, 12, 9, 3, metadata={"environment": "Hopper-v5"})  # which soon falls
    snnkern.save(actor, tmp_path / "tiny.safetensors")
    load_example("compare_neurons").main(
        str(tmp_path / "tiny.safetensors"), steps=50, episodes=1, output=tmp_path / "neurons.png"
    )
    with Image.open(tmp_path / "neurons.png") as picture:
        assert picture.width > picture.height > 500


def test_the_chosen_alpha_leaves_less_lasting_error(capsys):
    load_example("choose_alpha").main(steps=1_000, episodes=1)
    printed = capsys.readouterr().out
    errors = dict(re.findall(r"α = ([\d.]+): error ([\d.]+)", printed))
    tried = re.findall(r"α = ([\d.]+): return \d+", printed)
    assert len(errors) == 11
    assert tried[0] == "0.0"
    assert float(errors[tried[1]]) == min(
        map(float, errors.values())
    )  # where printed errors tie, any of them may be it
    assert float(errors[tried[1]]) < float(errors["0.0"])


def test_a_cartpole_is_filmed_with_what_it_sees_and_its_spikes(tmp_path, monkeypatch):
    make, limit = environments.make, pytest.importorskip("gymnasium").wrappers.TimeLimit
    monkeypatch.setattr(environments, "make", lambda *given: limit(make(*given), 31))
    with skipped_where_nothing_draws():
        load_example("film_pixels").main(str(tmp_path / "film.gif"), decisions=31, timesteps=4, steps=30)
    with Image.open(tmp_path / "film.gif") as picture:
        assert (picture.n_frames, picture.size) == (11, (744, 376))
        first = np.asarray(picture.convert("RGB"), dtype=float)
        picture.seek(10)  # 0.6 seconds later
        last = np.asarray(picture.convert("RGB"), dtype=float)
    amber = (first[..., 0] > 100) & (first[..., 2] < 0.7 * first[..., 0])
    assert amber[100:300, 100:280].any()  # the pole
    assert amber[162:245, 376:].any()  # spikes of convolutions
    assert amber[268:, 376:].any()
    for part in (np.s_[:, :368], np.s_[24:136, 376:], np.s_[162:245, 376:], np.s_[268:, 376:]):
        assert np.abs(first[part] - last[part]).max() > 50


def film(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the program in a process of its own: which renderer MuJoCo takes is settled once in each."""
    command = [sys.executable, ROOT / "examples" / "record_video.py", *options]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, env=variables, capture_output=True, text=True)


@pytest.mark.thorough
def test_two_cheetahs_are_filmed(tmp_path):
    found = film("--steps", "4", "--output", str(tmp_path / "cheetah.gif"))
    if "MuJoCo cannot draw here" in found.stderr:
        pytest.skip("neither EGL nor OSMesa draws here: apt-get install libosmesa6")
    assert found.returncode == 0, found.stderr
    with Image.open(tmp_path / "cheetah.gif") as picture:
        assert (picture.n_frames, picture.size) == (4, (640, 240))
        frames = []
        for index in range(4):
            picture.seek(index)
            frames.append(np.asarray(picture.convert("RGB"), dtype=float))
    colours = np.stack(frames)
    body = (colours[..., 0] > 1.4 * colours[..., 2]) & (colours[..., 0] > 100)  # brown, on grey and black and white
    assert body[:, :, :320].any(axis=(1, 2)).all()
    assert body[:, :, 320:].any(axis=(1, 2)).all()
    assert np.abs(colours[0] - colours[-1]).max() > 50  # they move
    assert os.listdir(tmp_path) == ["cheetah.gif"]


def test_where_nothing_draws_one_line_says_what_to_install(tmp_path):
    found = film("--steps", "4", "--output", str(tmp_path / "cheetah.gif"), MUJOCO_GL="disable")
    assert found.returncode == 1
    assert found.stderr == "MuJoCo cannot draw here: it needs EGL or OSMesa (on Debian: apt-get install libosmesa6)\n"
    assert os.listdir(tmp_path) == []
