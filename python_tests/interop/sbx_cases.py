"""SBX, which brings JAX: its models converted, its example, and the example that trains actors by it.

`test_sbx.py` runs this file in a process of its own: once JAX is there, every fork is warned of, and other tests fork.
"""

import warnings

import numpy as np
import pytest
from support.builders import load_example, make_observations
from support.sb3_models import HIGH, LOW, Space, saved

import snnkern
from snnkern.policies.spiking import dense_actor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sbx

pytestmark = pytest.mark.filterwarnings("ignore")  # JAX, Flax and TensorFlow Probability have remarks on each other


def test_sbx_models_are_converted_from_memory():
    dense, spiking = load_example("convert_sbx").main(steps=300)
    assert spiking == pytest.approx(dense, rel=0.05)


@pytest.mark.thorough
def test_sbx_models_act_as_they_did(tmp_path):
    observations = make_observations(20, 5)
    off_policy, on_policy = {"buffer_size": 10}, {"n_steps": 8, "batch_size": 8}
    elu = {"activation_fn": __import__("flax").linen.elu}
    for algorithm, options, policy in (
        (sbx.TD3, off_policy, elu),
        (sbx.SAC, off_policy, {}),
        (sbx.TQC, off_policy, {}),
        (sbx.PPO, on_policy, {}),
    ):
        model = algorithm("MlpPolicy", Space(), policy_kwargs={"net_arch": [17, 9], **policy}, **options)
        converted = snnkern.from_sb3(model, observations)
        actor = dense_actor(converted.actor)
        wanted, _ = model.predict(observations, deterministic=True)
        action = actor.act(observations)
        np.testing.assert_allclose(action if actor.interface.squash else action.clip(LOW, HIGH), wanted, atol=1e-5)
        assert actor.activation == ("elu" if policy else "tanh" if algorithm is sbx.PPO else "relu")
        assert actor.metadata["algorithm"] == algorithm.__name__
    with pytest.raises(snnkern.CheckpointError, match="SBX saves parameters as a pickle"):
        snnkern.from_sb3(saved(model, tmp_path), observations)
    policy = {"activation_fn": __import__("flax").linen.softplus}
    with pytest.raises(snnkern.InputError, match=r"its activations are .*softplus.*, not one of relu"):
        snnkern.from_sb3(sbx.TD3("MlpPolicy", Space(), policy_kwargs=policy, buffer_size=10), observations)
    policy = {"activation_fn": __import__("flax").linen.gelu}
    with pytest.raises(
        snnkern.InputError, match=r"its activations are jax.*gelu, an approximation by tanh, not one of"
    ):
        snnkern.from_sb3(sbx.PPO("MlpPolicy", Space(), policy_kwargs=policy, n_steps=8, batch_size=8), observations)
    with pytest.raises(snnkern.InputError, match=r"its actor is sbx.*Simba"):
        snnkern.from_sb3(sbx.SAC("SimbaPolicy", Space(), buffer_size=10), observations)
    with pytest.raises(snnkern.InputError, match=r"its actor is sbx\.crossq\.policies\.Actor"):
        snnkern.from_sb3(sbx.CrossQ("MlpPolicy", Space(), buffer_size=10), observations)


@pytest.fixture(scope="module")
def example():
    return load_example("train_actor")


@pytest.mark.thorough
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
        steps=400,
        output=output,
        eval_every=400,
        learning_starts=300,
    )

    model, wanted = exported
    actor = snnkern.load_actor(output)
    np.testing.assert_allclose(actor.act(observations), wanted, rtol=0, atol=1e-5)
    assert np.ptp(wanted) > 0.1  # the actions depend on the observation
    found = {name: actor.metadata[name] for name in ("algorithm", "environment", "seed", "steps")}
    assert found == {"algorithm": algorithm.upper(), "environment": "Pendulum-v1", "seed": "0", "steps": "400"}
    assert -2000 < float(actor.metadata["eval_return"]) < 0
    assert "sbx-rl" in actor.metadata["trained_with"]

    model.predict = lambda *_, **__: (wanted[:1] + 0.001, None)
    with pytest.raises(RuntimeError, match="differ from SBX's"):
        export(model, {})
