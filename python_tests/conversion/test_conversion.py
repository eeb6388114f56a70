"""From a trained actor to a spiking one, to a file and back."""

import copy
import math
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save as safetensors_bytes
from support.builders import (
    NEURONS,
    assert_same_tensors,
    make_actor,
    make_layers,
    make_observations,
    td3_state,
    write_torch,
)
from support.tampered import Tampered
from torch import nn

import snnkern
from snnkern import CheckpointError, InputError, convert, load, save
from snnkern.conversion.rules import recommended
from snnkern.kernels.neurons import parse_neuron
from snnkern.policies.loading import load_policy
from snnkern.policies.spiking import corrected_actor, dense_actor

WIDTHS = (5, 9, 13, 3)


@pytest.fixture
def actor():
    return make_actor(*WIDTHS, action_scale=[1.0, 2.0, 0.5])


@pytest.fixture
def observations():
    return make_observations(300, 5)


# convert


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param((9,), id="1-hidden", marks=pytest.mark.thorough),
        pytest.param((9, 13), id="2-hidden"),
        pytest.param((8, 7, 6, 5), id="4-hidden", marks=pytest.mark.thorough),
    ],
)
def test_many_timesteps_approach_the_dense_action(neuron, hidden):
    actor, observations = make_actor(5, *hidden, 3), make_observations(300, 5)
    dense = actor.act(observations)
    errors = [
        np.abs(convert(actor, observations, neuron=neuron, timesteps=t, alpha=0.0).act(observations) - dense).max()
        for t in (4, 64, 2048)
    ]
    assert errors[2] < 5e-3
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize(
    ("neuron", "expected"),
    [
        ("if", snnkern.IF()),
        ("SNM", snnkern.SNM()),
        ("Mt", snnkern.MT()),
        ("dc", snnkern.DC()),
        (snnkern.MT(levels=6), snnkern.MT(levels=6)),
        (snnkern.SNM.original(), snnkern.SNM.original()),
    ],
    ids=str,
)
def test_neurons_are_given_by_name_or_as_they_are(actor, observations, neuron, expected):
    assert convert(actor, observations, neuron=neuron).dynamics.neuron == expected


def test_parameters_arrive_where_they_act(actor, observations):
    snn = convert(actor, observations, neuron="if", timesteps=7, alpha=0.3, memory=0.4, clip=0.6, backend="reference")
    assert snn.dynamics == snnkern.Dynamics(snnkern.IF(), 7, 0.3, 0.4, 0.6)
    assert snn.backend == "reference"
    assert snn.check_finite
    assert not convert(actor, observations, check_finite=False).check_finite


def test_defaults_are_those_that_the_documentation_names(actor, observations):
    snn = convert(actor, observations)
    assert snn.dynamics == snnkern.Dynamics(snnkern.MT(levels=4), timesteps=4, alpha=0.0, memory=0.0, clip=0.5)
    assert convert(actor, observations, neuron="snm").alpha == 0.2
    assert snn.backend == "auto"
    assert snn.metadata["calibration"] == "auto (mse:weighted:linear:floor=0.3)"


@pytest.mark.parametrize("calibration", ["max", "percentile:90", snnkern.Percentile(50.0)], ids=str)
def test_thresholds_come_from_the_calibration_or_are_given(actor, observations, calibration):
    thresholds = snnkern.calibrate(actor, observations, calibration)
    calibrated = convert(actor, observations, calibration=calibration)
    given = convert(actor, thresholds=thresholds)
    assert all(map(torch.equal, calibrated.thresholds, thresholds))
    np.testing.assert_array_equal(calibrated.act(observations), given.act(observations))


def test_observations_may_come_in_batches(actor, observations):
    assert_same_tensors(
        convert(actor, iter([observations[:100], observations[100:]])).state_dict(),
        convert(actor, observations).state_dict(),
    )


def test_a_spiking_actor_keeps_metadata_and_interface(observations):
    actor = make_actor(
        *WIDTHS,
        metadata={"algorithm": "SAC", "return_mean": "7.5"},
        action_bias=0.25,
        observation_mean=0.1,
        observation_std=0.7,
        squash=False,
    )
    snn = convert(actor, observations)
    rule = "auto (mse:weighted:linear:floor=0.3)"
    assert snn.metadata == {"algorithm": "SAC", "calibration": rule, "dense_return_mean": "7.5"}
    assert snn.interface.description() == actor.interface.description()
    assert_same_tensors(snn.interface.state_dict(), actor.interface.state_dict())


@pytest.mark.parametrize("tanh", [False, True], ids=["plain", "tanh"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_a_sequential_is_converted(observations, neuron, tanh):
    module = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 3), *[nn.Tanh()] * tanh)
    snn = convert(module, observations, neuron=neuron, timesteps=1024, alpha=0.0)
    with torch.no_grad():
        expected = module(torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(snn.act(observations), expected, atol=5e-3)


def test_a_float64_actor_gives_a_float64_spiking_actor(observations):
    snn = convert(make_actor(*WIDTHS, dtype=torch.float64), observations)
    assert {tensor.dtype for tensor in snn.state_dict().values()} == {torch.float64}
    assert snn.act(observations).dtype == np.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"timesteps": 0}, r"timesteps \(T\) must be a whole number of at least 1, got 0", id="T-zero"),
        pytest.param({"timesteps": -3}, r"timesteps \(T\) .* got -3", id="T-negative"),
        pytest.param({"timesteps": 2.5}, r"timesteps \(T\) must be a whole number .* got 2.5", id="T-fraction"),
        pytest.param({"timesteps": "8"}, r"timesteps \(T\) .* got '8'", id="T-text"),
        pytest.param({"timesteps": True}, r"timesteps \(T\) .* got True", id="T-bool"),
        pytest.param({"timesteps": 2**31}, r"timesteps \(T\) may be at most \d+", id="T-huge"),
        pytest.param({"alpha": -0.1}, r"alpha \(α\) must be a number from 0 to 1, got -0.1", id="alpha-negative"),
        pytest.param({"alpha": 1.1}, r"alpha \(α\) .* got 1.1", id="alpha-above-1"),
        pytest.param({"alpha": math.nan}, r"alpha \(α\) .* got nan", id="alpha-nan"),
        pytest.param({"alpha": "0.2"}, r"alpha \(α\) .* got '0.2'", id="alpha-text"),
        pytest.param({"alpha": None}, r"alpha \(α\) .* got None", id="alpha-none"),
        pytest.param({"memory": -0.1}, r"memory \(μ\) must be a number from 0 to 1, got -0.1", id="memory-negative"),
        pytest.param({"memory": 2}, r"memory \(μ\) .* got 2", id="memory-above-1"),
        pytest.param({"memory": math.nan}, r"memory \(μ\) .* got nan", id="memory-nan"),
        pytest.param({"clip": -0.5}, r"clip \(κ\) .* at least 0, got -0.5", id="clip-negative"),
        pytest.param({"clip": math.inf}, r"clip \(κ\) must be a finite number .* got inf", id="clip-inf"),
        pytest.param(
            {"neuron": "izhikevich"}, "unknown neuron 'izhikevich': choose one of if, snm, mt, dc", id="neuron-unknown"
        ),
        pytest.param({"neuron": None}, "unknown neuron None: choose one of if, snm, mt, dc", id="neuron-none"),
        pytest.param({"neuron": snnkern.MT}, "unknown neuron .*choose one of", id="neuron-class"),
        pytest.param({"calibration": "mean"}, "unknown calibration 'mean': choose auto", id="calibration"),
        pytest.param({"backend": "gpu"}, "unknown backend 'gpu': choose one of auto", id="backend"),
        pytest.param({"observations": None}, "either observations .* or thresholds, and not both", id="neither"),
        pytest.param({"thresholds": [torch.ones(9), torch.ones(13)]}, "and not both", id="both"),
        pytest.param({"observations": np.zeros((0, 5))}, "calibration data is empty", id="empty"),
        pytest.param({"observations": []}, "calibration data is empty", id="empty-list"),
        pytest.param({"observations": np.zeros((3, 4))}, r"floating-point \[N, 5\]", id="observations-width"),
        pytest.param({"observations": np.full((3, 5), math.nan)}, "NaN or infinity", id="observations-nan"),
    ],
)
def test_a_bad_parameter_is_refused(actor, observations, arguments, message):
    with pytest.raises(InputError, match=message):
        convert(actor, **({"observations": observations} | arguments))


NINE, THIRTEEN = torch.ones(9), torch.ones(13)


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        pytest.param([], "2 hidden layers, got 0 thresholds", id="none"),
        pytest.param([NINE], "2 hidden layers, got 1 thresholds", id="too-few"),
        pytest.param([NINE, THIRTEEN, NINE], "2 hidden layers, got 3 thresholds", id="too-many"),
        pytest.param([THIRTEEN, NINE], r"hidden layer 1 must be \[9\], got shape \[13\]", id="swapped"),
        pytest.param([NINE, torch.ones(1, 13)], r"hidden layer 2 must be \[13\], got shape \[1, 13\]", id="matrix"),
        pytest.param([torch.tensor(1.0), THIRTEEN], r"hidden layer 1 must be \[9\], got shape \[\]", id="scalar"),
        pytest.param([-NINE, THIRTEEN], "hidden layer 1 must be .*at least 0: 9 of 9 .*-1.0", id="negative"),
        pytest.param([NINE, THIRTEEN * math.nan], "hidden layer 2 must be finite .*13 of 13 .*nan", id="nan"),
        pytest.param([NINE, THIRTEEN * math.inf], "hidden layer 2 must be finite .*inf", id="inf"),
        pytest.param([NINE, THIRTEEN.double() * 1e300], "hidden layer 2 must be finite", id="beyond-float32"),
        pytest.param(
            [NINE.int(), THIRTEEN], "hidden layer 1 must be a floating-point tensor, got torch.int32", id="int"
        ),
        pytest.param([NINE.tolist(), THIRTEEN], "hidden layer 1 must be a .*tensor, got .*list", id="list"),
        pytest.param([NINE.numpy(), THIRTEEN], "hidden layer 1 must be a .*tensor, got .*ndarray", id="array"),
        pytest.param([None, THIRTEEN], "hidden layer 1 must be a .*tensor, got .*NoneType", id="nothing"),
        pytest.param(1.0, "thresholds", id="number"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused(actor, thresholds, message):
    with pytest.raises(InputError, match=message):
        convert(actor, thresholds=thresholds)


def test_a_threshold_of_0_is_a_silent_neuron(actor):
    snn = convert(actor, thresholds=[torch.zeros(9), torch.zeros(13)])
    snn.act(make_observations(4, 5))
    assert not snn.spikes.any()


class Model:
    """As a model of Stable-Baselines3, for those who have it not."""

    __module__ = "stable_baselines3.sac.sac"


@pytest.mark.parametrize(
    ("thing", "advice"),
    [
        pytest.param("td3-halfcheetah", r"snnkern.load_actor\('td3-halfcheetah'\)", id="name"),
        pytest.param(None, "load_actor", id="nothing"),
        pytest.param(nn.Linear(5, 3), "snnkern.spikify.*nn.Sequential.*actor_from_state_dict", id="linear"),
        pytest.param(td3_state(make_layers(*WIDTHS)), "actor_from_state_dict", id="state-dict"),
        pytest.param(convert(make_actor(*WIDTHS), make_observations(9, 5)), "dense_actor", id="spiking"),
        pytest.param(Model(), "snnkern.from_sb3", id="stable-baselines3"),
    ],
)
@pytest.mark.parametrize("use", [convert, snnkern.calibrate, lambda actor, _: snnkern.collect(actor, "Hopper-v5")])
def test_what_is_no_actor_is_refused_by_its_type_and_told_where_to_go(observations, thing, advice, use):
    with pytest.raises(InputError, match=f"must be an Actor, got {type(thing).__name__}: .*{advice}"):
        use(thing, observations)


# save and load


FORMS = {
    "plain": {},
    "float64": {"dtype": torch.float64, "action_scale": 1 / 3},
    "vectors": {"action_scale": [1.0, 2.0, 0.1], "action_bias": [0.3, 0.0, -1.0]},
    "normalised": {"observation_mean": 0.1, "observation_std": 0.7, "observation_clip": 1 / 3},
    "no-tanh": {"squash": False, "metadata": {"algorithm": "mine", "θ": "'\"\\\n"}},
}


@pytest.mark.parametrize(
    "neuron", [*NEURONS, snnkern.MT(levels=7, initial_fraction=0.3), snnkern.SNM.original()], ids=str
)
@pytest.mark.parametrize("form", FORMS)
def test_a_spiking_actor_comes_back_bit_for_bit(tmp_path, neuron, form):
    actor, path = make_actor(*WIDTHS, **FORMS[form]), tmp_path / "snn.safetensors"
    snn = convert(
        actor,
        make_observations(50, 5),
        neuron=neuron,
        timesteps=5,
        alpha=1 / 3,
        memory=0.7,
        clip=0.9,
        check_finite=form != "plain",
    )
    save(snn, path)
    again = load(path)
    assert_same_tensors(again.state_dict(), snn.state_dict())
    assert again.dynamics == snn.dynamics
    assert again.metadata == snn.metadata
    assert again.check_finite == snn.check_finite
    assert again.interface.description() == snn.interface.description()
    for seed in range(3):
        observation = make_observations(8, 5, seed=seed)
        np.testing.assert_array_equal(again.act(observation), snn.act(observation))


def run_into_an_episode(neuron: str) -> snnkern.SpikingActor:
    snn = convert(make_actor(*WIDTHS), make_observations(50, 5), neuron=neuron, alpha=0.8, memory=0.5)
    for seed in range(3):
        snn.act(make_observations(4, 5, seed=seed))
    return snn


@pytest.mark.parametrize("neuron", NEURONS)
def test_with_its_carry_an_episode_goes_on_as_if_never_interrupted(tmp_path, neuron):
    snn = run_into_an_episode(neuron)
    save(snn, tmp_path / "snn", include_carry=True)
    again = load(tmp_path / "snn")
    for seed in range(3, 8):
        observation = make_observations(4, 5, seed=seed)
        np.testing.assert_array_equal(again.act(observation), snn.act(observation))
        assert torch.equal(again.spikes, snn.spikes)


@pytest.mark.parametrize("neuron", NEURONS)
def test_without_its_carry_an_episode_starts_afresh(tmp_path, neuron):
    snn = run_into_an_episode(neuron)
    save(snn, tmp_path / "snn")
    again, observation = load(tmp_path / "snn"), make_observations(4, 5, seed=9)
    action = again.act(observation)
    assert not np.array_equal(action, snn.act(observation))
    snn.reset()
    np.testing.assert_array_equal(action, snn.act(observation))


def test_a_carry_that_is_not_there_yet_is_no_obstacle(tmp_path, actor, observations):
    save(convert(actor, observations), tmp_path / "snn", include_carry=True)
    assert load(tmp_path / "snn").act(observations).shape == (300, 3)


def test_the_backend_is_chosen_when_loading(tmp_path, actor, observations):
    snn = convert(actor, observations, backend="reference")
    save(snn, tmp_path / "snn")
    assert load(tmp_path / "snn").backend == "auto"
    assert load(tmp_path / "snn", backend="reference").backend == "reference"


def test_an_unknown_backend_is_not_blamed_on_the_file(tmp_path, actor, observations):
    save(convert(actor, observations), tmp_path / "snn")
    with pytest.raises(InputError, match="unknown backend 'gpu'") as caught:
        load(tmp_path / "snn", backend="gpu")
    assert not isinstance(caught.value, CheckpointError)


def test_a_bad_action_scale_is_not_blamed_on_the_file(tmp_path, actor):
    save(actor, tmp_path / "actor")
    with pytest.raises(InputError, match="action_scale") as caught:
        snnkern.load_actor(tmp_path / "actor", action_scale=[1.0, 2.0])
    assert not isinstance(caught.value, CheckpointError)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, actor, observations):
    path = tmp_path / "snn.safetensors"
    save(convert(actor, observations), path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(InputError, match=r"cannot write .*snn\.safetensors: No space left"):
        save(convert(actor, observations, neuron="if"), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("thing", [nn.Linear(5, 3), None, {}], ids=["linear", "nothing", "dict"])
def test_only_actors_are_saved(tmp_path, thing):
    with pytest.raises(InputError, match=type(thing).__name__):
        save(thing, tmp_path / "x")
    assert not os.listdir(tmp_path)


# Files of another kind, version or content


def test_an_actor_file_is_no_spiking_actor(tmp_path, actor):
    save(actor, tmp_path / "actor")
    with pytest.raises(CheckpointError, match="format 'actor', where 'spiking-actor' was wanted"):
        load(tmp_path / "actor")


def test_a_spiking_actor_file_is_no_actor(tmp_path, actor, observations):
    save(convert(actor, observations), tmp_path / "snn")
    with pytest.raises(
        CheckpointError, match=r"format 'spiking-actor', where 'actor' was wanted: snnkern\.load reads it"
    ):
        snnkern.load_actor(tmp_path / "snn")


def test_a_state_dict_is_no_spiking_actor_and_the_error_says_what_it_is(tmp_path):
    write_torch(td3_state(make_layers(*WIDTHS)), tmp_path / "actor.pt")
    with pytest.raises(CheckpointError, match="spiking") as caught:
        load(tmp_path / "actor.pt")
    assert "None" not in str(caught.value)


def test_load_policy_reads_both_kinds(tmp_path, actor, observations):
    save(actor, tmp_path / "actor")
    snn = convert(actor, observations)
    save(snn, tmp_path / "snn")
    assert load_policy(tmp_path / "actor").fingerprint() == actor.fingerprint()
    assert_same_tensors(load_policy(tmp_path / "snn").state_dict(), snn.state_dict())
    with pytest.raises(InputError, match="holds its own action_scale"):
        load_policy(tmp_path / "snn", action_scale=2.0)


@pytest.fixture(params=["actor", "spiking-actor"])
def kind(request):
    return request.param


@pytest.fixture
def read(kind):
    return {"actor": snnkern.load_actor, "spiking-actor": load}[kind]


@pytest.fixture
def tampered(tmp_path, kind):
    actor = make_actor(*WIDTHS, observation_mean=0.1, observation_std=0.7)
    policy = actor if kind == "actor" else run_into_an_episode("mt")
    save(policy, tmp_path / "file", **({} if kind == "actor" else {"include_carry": True}))
    return Tampered(tmp_path / "file")


def test_a_newer_format_is_refused_as_such(tampered, read):
    tampered.description["version"] = 3
    with pytest.raises(CheckpointError, match=r"format version 3 .*newer snnkern"):
        read(tampered.write())


@pytest.mark.parametrize("version", [0, -1, "1", None, [1]], ids=repr)
def test_a_version_that_never_was_is_refused_and_not_called_newer(tampered, read, version):
    tampered.description["version"] = version
    with pytest.raises(CheckpointError, match="version") as caught:
        read(tampered.write())
    assert "newer" not in str(caught.value)


def test_a_description_that_lacks_anything_is_refused(tampered, read):
    whole = dict(tampered.description)
    for key in whole:
        tampered.description = {name: value for name, value in whole.items() if name != key}
        with pytest.raises(CheckpointError, match=r"file: "):
            read(tampered.write())


@pytest.mark.parametrize("key", ["neuron", "timesteps", "alpha", "memory", "clip"])
def test_dynamics_that_lack_anything_are_refused(tmp_path, key):
    save(run_into_an_episode("mt"), tmp_path / "snn")
    file = Tampered(tmp_path / "snn")
    del file.description["dynamics"][key]
    with pytest.raises(CheckpointError, match=key):
        load(file.write())


@pytest.mark.parametrize("description", [None, [], "actor", 7, {}, {"format": "other", "version": 1}], ids=repr)
def test_a_description_of_something_else_is_refused(tampered, read, kind, description):
    tampered.description = description
    with pytest.raises(CheckpointError, match=f"'{kind}' was wanted"):
        read(tampered.write())


def test_a_description_that_is_no_json_is_refused(tampered, read):
    tampered.path.write_bytes(safetensors_bytes(tampered.tensors, {"snnkern": "{"}))
    with pytest.raises(CheckpointError, match="not JSON"):
        read(tampered.path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_layers", 1),
        ("hidden_layers", 3),
        ("hidden_layers", 0),
        ("hidden_layers", -1),
        ("hidden_layers", "two"),
        ("hidden_layers", 2.0),
        ("observation_dim", 6),
        ("observation_dim", "5"),
        ("action_dim", 4),
        ("action_dim", None),
        ("observation_clip", -1.0),
        ("observation_clip", "wide"),
        ("metadata", "TD3"),
        ("metadata", ["TD3"]),
        ("metadata", 3),
    ],
    ids=lambda value: str(value),
)
def test_a_description_that_does_not_fit_the_tensors_is_refused(tampered, read, key, value):
    tampered.description[key] = value
    with pytest.raises(CheckpointError, match=r"file: "):
        read(tampered.write())


def test_a_normalisation_that_is_only_said_or_only_there_is_refused(tampered, read):
    tampered.description["normalized"] = not tampered.description["normalized"]
    with pytest.raises(CheckpointError, match=r"(missing|unexpected) interface\.observation_mean"):
        read(tampered.write())


def test_a_tensor_too_few_or_too_many_is_named(tampered, read):
    whole = dict(tampered.tensors)
    for name in whole:
        tampered.tensors = {other: tensor for other, tensor in whole.items() if other != name}
        with pytest.raises(CheckpointError, match=f"missing {name}"):
            read(tampered.write())
    tampered.tensors = whole | {"hidden.9.weight": torch.zeros(2)}
    with pytest.raises(CheckpointError, match=r"unexpected hidden\.9\.weight"):
        read(tampered.write())


def test_a_misshapen_tensor_is_refused(tampered, read):
    whole = dict(tampered.tensors)
    for name, tensor in whole.items():
        for wrong in (torch.zeros([size + 1 for size in tensor.shape]), torch.zeros(1, 1, *tensor.shape)):
            if name.endswith("carry") and wrong.dim() == 2:
                wrong = torch.zeros(len(tensor) + 1, tensor.shape[1])  # another number of rows than the other layers
            tampered.tensors = whole | {name: wrong}
            with pytest.raises(CheckpointError, match=r"file: "):
                read(tampered.write())


def test_a_number_that_is_not_finite_is_refused(tampered, read):
    whole = dict(tampered.tensors)
    for name, tensor in whole.items():
        if name.endswith("carry"):
            continue  # where check_finite is off, a NaN may be carried
        tampered.tensors = whole | {name: torch.full_like(tensor, math.nan)}
        with pytest.raises(CheckpointError, match=r"NaN|finite"):
            read(tampered.write())


def test_a_carry_of_another_dtype_is_refused_or_brought_to_the_actors(tmp_path):
    snn = run_into_an_episode("mt")
    save(snn, tmp_path / "snn", include_carry=True)
    file = Tampered(tmp_path / "snn")
    file.tensors["hidden.0.carry"] = file.tensors["hidden.0.carry"].double()
    try:
        again = load(file.write())
    except CheckpointError as error:
        assert "carry" in str(error)  # noqa: PT017 (either outcome is fine)
    else:
        observation = make_observations(4, 5, seed=9)
        np.testing.assert_array_equal(again.act(observation), snn.act(observation))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("timesteps", 0, "timesteps"),
        ("alpha", 2.0, "alpha"),
        ("memory", "all", "memory"),
        ("clip", -1.0, "clip"),
        ("neuron", "mt", "neuron"),
        (
            "neuron",
            {**snnkern.Dynamics(snnkern.MT(), 4).to_dict()["neuron"], "name": "izhikevich"},
            "unknown neuron 'izhikevich'",
        ),
        ("neuron", {"levels": 4}, "name"),
        ("extra", 1, "extra"),
    ],
    ids=str,
)
def test_dynamics_out_of_range_are_refused(tmp_path, key, value, message):
    save(run_into_an_episode("mt"), tmp_path / "snn")
    file = Tampered(tmp_path / "snn")
    file.description["dynamics"][key] = value
    with pytest.raises(CheckpointError, match=message):
        load(file.write())


def test_a_negative_threshold_in_a_file_is_refused(tmp_path):
    save(run_into_an_episode("mt"), tmp_path / "snn")
    file = Tampered(tmp_path / "snn")
    file.tensors["hidden.1.threshold"][0] = -1.0
    with pytest.raises(CheckpointError, match="hidden layer 2 must be finite and at least 0"):
        load(file.write())


@pytest.mark.parametrize("timesteps", [1, 2, 4, 8])
@pytest.mark.parametrize("neuron", ["if", "snm", "mt", "dc"])
def test_auto_is_what_is_recommended(actor, observations, neuron, timesteps):
    settings, alpha = recommended(parse_neuron(neuron), actor)
    snn = convert(actor, observations, neuron=neuron, timesteps=timesteps)
    same = convert(actor, observations, neuron=neuron, timesteps=timesteps, calibration=settings, alpha=alpha)
    assert snn.alpha == alpha
    assert snn.metadata["calibration"] == f"auto ({settings})"
    assert_same_tensors(snn.state_dict(), same.state_dict())


@pytest.mark.parametrize("neuron", ["if", "snm", "mt", "dc"])
def test_the_recommended_carry_is_for_coarse_thresholds(actor, observations, neuron):
    def alpha_of(**how) -> float:
        return convert(actor, neuron=neuron, timesteps=2, **how).alpha

    carried = {"if": 0.2, "snm": 0.2, "mt": 0.0, "dc": 0.0}[neuron]
    coarse = convert(actor, observations, neuron=neuron, timesteps=2, calibration="max")
    assert coarse.alpha == carried
    assert alpha_of(observations=observations, calibration="percentile:99") == carried
    assert alpha_of(thresholds=coarse.thresholds) == carried
    for rule in ("auto", "mse", snnkern.Fitted(correction="linear")):
        assert alpha_of(observations=observations, calibration=rule) == (0.2 if neuron == "snm" else 0.0)


@pytest.mark.parametrize("correction", ["none", "bias", "linear"])
def test_the_dense_actor_is_kept_where_the_conversion_corrects_it(tmp_path, actor, observations, correction):
    rule = snnkern.Fitted(correction=correction)
    snn = convert(actor, observations, neuron="mt", timesteps=2, calibration=rule)
    save(snn, tmp_path / "snn.safetensors")
    loaded = load(tmp_path / "snn.safetensors")
    np.testing.assert_array_equal(loaded.act(observations), snn.act(observations))
    for policy in (snn, loaded, copy.deepcopy(snn)):
        assert_same_tensors(dense_actor(policy).state_dict(), actor.state_dict())
        again = snnkern.SpikingActor(corrected_actor(policy), policy.thresholds, policy.dynamics)
        policy.reset()
        np.testing.assert_array_equal(again.act(observations), policy.act(observations))
    corrected = not torch.equal(snn.output.bias, actor.output.bias)
    assert corrected == (correction != "none")


def test_fitting_takes_batches(actor, observations):
    rule = snnkern.Fitted()
    whole = convert(actor, observations, calibration=rule)
    assert_same_tensors(
        convert(actor, iter(np.array_split(observations, 3)), calibration=rule).state_dict(), whole.state_dict()
    )
    with pytest.raises(InputError, match="depends on the neuron and T"):
        snnkern.calibrate(actor, observations, "auto")
    with pytest.raises(InputError, match="ridge must be a finite number above 0, got -1"):
        convert(actor, observations, calibration=snnkern.Fitted(ridge=-1))
