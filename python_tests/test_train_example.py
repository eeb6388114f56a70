"""examples/train_actor.py: what it writes is the actor that SBX trained."""

import importlib.util

import numpy as np
import pytest
from builders import load_example

import snnkern

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("sbx") is None, reason="sbx is not installed: pip install 'snnkern[train]'"
    ),
    pytest.mark.filterwarnings("ignore"),  # JAX, Flax and TensorFlow Probability have remarks on each other
]


@pytest.fixture(scope="module")
def example():
    return load_example("train_actor")


@pytest.mark.parametrize("algorithm", ["td3", "sac"])
def test_file_acts_like_the_trained_model(example, algorithm, tmp_path, monkeypatch):
    observations = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    export, exported = example.export, []

    def export_and_note(model, metadata):
        actor = export(model, metadata)
        exported[:] = model, model.predict(observations, deterministic=True)[0]
        return actor

    monkeypatch.setattr(example, "export", export_and_note)
    output = tmp_path / "new folder" / "actor.safetensors"
    example.train(
        example.Algorithm(algorithm),
        environment="Pendulum-v1",
        steps=1500,
        output=output,
        eval_every=1500,
        learning_starts=1000,
    )

    model, wanted = exported
    actor = snnkern.load_actor(output)
    np.testing.assert_allclose(actor.act(observations), wanted, rtol=0, atol=1e-5)
    assert np.ptp(wanted) > 0.1  # the actions depend on the observation
    found = {name: actor.metadata[name] for name in ("algorithm", "environment", "seed", "steps")}
    assert found == {"algorithm": algorithm.upper(), "environment": "Pendulum-v1", "seed": "0", "steps": "1500"}
    assert -2000 < float(actor.metadata["eval_return"]) < 0
    assert "sbx-rl" in actor.metadata["trained_with"]

    model.predict = lambda *_, **__: (wanted[:1] + 0.001, None)
    with pytest.raises(RuntimeError, match="differ from SBX's"):
        export(model, {})
