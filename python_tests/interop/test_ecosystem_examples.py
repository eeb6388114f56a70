"""The short programs of `examples/` that show `snnkern` with other libraries run, and do what they say."""

from __future__ import annotations

import pytest
from support.builders import load_example


def test_stable_baselines3_evaluates_the_spiking_actor_as_it_does_the_model(capsys):
    pytest.importorskip("stable_baselines3", reason="stable_baselines3 is not installed: pip install 'snnkern[sb3]'")
    dense, spiking = load_example("convert_sb3").main(steps=1_000)
    assert spiking == pytest.approx(dense, rel=0.05)
    assert f"spiking  {spiking:8.1f}" in capsys.readouterr().out


def test_a_cnn_spikes():
    errors = load_example("spikify_cnn").main()
    assert errors["dense"] < 0.2
    for name in ("if, T=32", "mt, T=8", "dc, T=8"):
        assert abs(errors[name] - errors["dense"]) < 0.02


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own compiler
def test_a_compiled_exported_and_mapped_actor_acts_as_it_did():
    errors = load_example("compile_and_export").main(backend="aot_eager")
    assert set(errors) == {"torch.compile", "torch.export", "torch.func.vmap"}
    assert max(errors.values()) < 1e-3


def test_spikingjelly_and_snnkern_run_in_each_other():
    pytest.importorskip("spikingjelly", reason="spikingjelly is not installed: pip install 'snnkern[spikingjelly]'")
    assert load_example("use_spikingjelly").main() == (True, True)


def test_an_exported_actor_acts_in_another_simulator(tmp_path):
    pytest.importorskip("spikingjelly", reason="spikingjelly is not installed: pip install 'snnkern[spikingjelly]'")
    pytest.importorskip("nirtorch", reason="nir and nirtorch are not installed: pip install 'snnkern[nir]'")
    differences = load_example("export_nir").main(str(tmp_path / "actor.nir"))
    assert len(differences) == 5
    assert max(differences) < 1e-4
