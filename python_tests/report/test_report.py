"""Summaries and the figure."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")
pytest.importorskip("scipy", reason="SciPy is not installed")

from matplotlib import image

import snnkern
from snnkern.control.evaluation import Evaluation
from snnkern.report import performance_figures
from snnkern.report.columns import summarize_sweep
from snnkern.report.performance_figures import performance_figure
from snnkern.studies.settings import grid
from snnkern.studies.study import Sweep


@pytest.fixture
def measured() -> Sweep:
    dense = Evaluation((100.0, 102.0, 98.0), (10, 10, 10), ())
    settings = grid(["if", "dc"], [1, 2, 4], [0.0, 0.2])
    results = [
        (setting, Evaluation((20.0 * setting.timesteps, 21.0 * setting.timesteps), (10, 10), (5.0, 2.5)))
        for setting in settings
    ]
    return Sweep(dense, tuple(results))


def test_the_summary_is_json_and_holds_ratio_spikes_and_time(measured) -> None:
    summary = summarize_sweep(measured, {None: 20e-6, ("if", 2): 3e-6})
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["dense"]["return_mean"] == 100.0
    assert summary["dense"]["microseconds_per_decision"] == pytest.approx(20)
    entry = next(e for e in summary["results"] if e["neuron"]["name"] == "if" and e["timesteps"] == 2)
    assert entry["performance_ratio"] == pytest.approx(0.41)
    assert entry["spikes_per_decision"] == 7.5
    assert entry["spikes_per_decision_per_layer"] == [5.0, 2.5]
    low, high = entry["performance_ratio_interval"]
    assert 0.40 / 1.02 <= low < 0.41 < high <= 0.42 / 0.98
    assert entry["microseconds_per_decision"] == pytest.approx(3)


def test_one_episode_leaves_out_the_interval_instead_of_writing_nan() -> None:
    one = Evaluation((1.0,), (1,), ())
    summary = summarize_sweep(Sweep(one, tuple((setting, one) for setting in grid(["if"], [1], [0.0]))))
    assert summary["dense"]["return_interval"] is None
    json.dumps(summary, allow_nan=False)


def test_the_figure_is_a_picture_with_a_panel_per_neuron(measured, tmp_path) -> None:
    performance_figure(measured, tmp_path / "figure.png", "test")
    pixels = image.imread(tmp_path / "figure.png")
    assert pixels.shape[1] > pixels.shape[0] > 300
    assert np.ptp(pixels[..., :3]) == 1.0
    assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]


def test_where_a_ratio_means_nothing_returns_are_drawn(measured, tmp_path) -> None:
    lost = Sweep(Evaluation((-1.0, -3.0), (1, 1), ()), measured.results)
    summary = summarize_sweep(lost)
    assert {entry["performance_ratio"] for entry in summary["results"]} == {None}
    json.dumps(summary, allow_nan=False)
    performance_figure(lost, tmp_path / "figure.png", "test")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_line_for_every_alpha_and_memory(measured, monkeypatch, tmp_path) -> None:
    drawn = []
    monkeypatch.setattr(
        performance_figures, "_draw_line", lambda panel, points, label, style: drawn.append((label, len(points)))
    )
    settings = grid(["if"], [1, 2, 4], [0.0, 0.2], [0.0, 1.0])
    performance_figure(
        Sweep(measured.dense, tuple((setting, measured.dense) for setting in settings)), tmp_path / "figure.png", "test"
    )
    assert drawn == [
        ("without CRPI, μ = 0", 3),
        ("without CRPI, μ = 1", 3),
        ("CRPI, α = 0.2, μ = 0", 3),
        ("CRPI, α = 0.2, μ = 1", 3),
    ]


def test_a_figure_that_cannot_be_written_is_a_clear_error(measured, tmp_path) -> None:
    with pytest.raises(snnkern.InputError, match="cannot write"):
        performance_figure(measured, tmp_path / "nowhere" / "figure.png", "test")
