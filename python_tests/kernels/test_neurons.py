"""Neuron parameters and dynamics: what is accepted, and what a refusal says."""

import dataclasses
import functools
import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from support.cases import NEURONS, each

from snnkern import DC, IF, LIF, MT, SNM, Dynamics, InputError
from snnkern.kernels import ops
from snnkern.kernels.neurons import MAX_LEVELS, NEURON_NAMES, Kind, neuron_from, parse_neuron
from snnkern.kernels.neurons import NEURONS as CLASSES

NAN, INFINITY = float("nan"), float("inf")
KINDS = {"if": IF, "snm": SNM, "mt": MT, "dc": DC, "lif": LIF}
WITH_LEVELS = {"mt": MT, "dc": DC}


def test_defaults_are_those_of_the_semantics_page():
    assert IF().initial_fraction == 0.5
    assert SNM().initial_fraction == 0.5
    assert SNM().negative_fraction == 0.0
    assert MT().initial_fraction == 0.0
    assert DC().initial_fraction == 0.0
    assert (LIF().initial_fraction, LIF().leak) == (0.5, 0.1)
    dynamics = Dynamics(IF(), 4)
    assert (dynamics.alpha, dynamics.memory, dynamics.clip) == (0.0, 0.0, 0.5)


def test_original_snm_starts_empty_and_takes_back_below_minus_threshold():
    assert SNM.original() == SNM(initial_fraction=0.0, negative_fraction=-1.0)


def test_every_kind_has_one_class_and_one_name():
    assert set(CLASSES) == set(Kind)
    assert NEURON_NAMES == ("if", "snm", "mt", "dc")
    assert all(CLASSES[kind].kind is kind for kind in Kind)


@each("cls", KINDS)
def test_name_is_lower_case_and_label_upper_case(cls):
    assert parse_neuron(cls().name) == cls()
    assert cls().label == cls.__name__


@each("neuron", NEURONS)
def test_neurons_are_frozen_and_equal_by_value(neuron):
    assert neuron == dataclasses.replace(neuron)
    assert hash(neuron) == hash(dataclasses.replace(neuron))
    with pytest.raises(dataclasses.FrozenInstanceError):
        neuron.initial_fraction = 0.1


def test_neurons_with_other_parameters_or_of_another_kind_differ():
    assert MT(levels=4) != MT(levels=5)
    assert IF() != SNM()
    assert Dynamics(IF(), 4) != Dynamics(IF(), 5)


@each("cls", KINDS)
@pytest.mark.parametrize("value", [-0.1, 1.5, NAN, INFINITY, "0.5", None, True, 1j], ids=repr)
def test_initial_fraction_outside_0_to_1_is_refused_by_name_and_value(cls, value):
    with pytest.raises(InputError, match=r"initial_fraction must be a number from 0 to 1") as refusal:
        cls(initial_fraction=value)
    assert str(refusal.value).startswith(f"{cls.__name__}'s")
    assert str(refusal.value).endswith(f"got {value!r}")


@pytest.mark.parametrize("value", [1.0, 2, -INFINITY, INFINITY, NAN, "0", None, False], ids=repr)
def test_negative_fraction_of_1_or_more_is_refused_by_name_and_value(value):
    with pytest.raises(InputError, match="SNM's negative_fraction must be a number below 1") as refusal:
        SNM(negative_fraction=value)
    assert str(refusal.value).endswith(f"got {value!r}")


@each("cls", WITH_LEVELS)
@pytest.mark.parametrize("value", [0, -1, MAX_LEVELS + 1, 4.0, "4", None, True], ids=repr)
def test_levels_outside_their_range_are_refused_by_name_and_value(cls, value):
    with pytest.raises(InputError, match=f"levels must be a whole number from 1 to {MAX_LEVELS}") as refusal:
        cls(levels=value)
    assert str(refusal.value).startswith(f"{cls.__name__}'s")
    assert str(refusal.value).endswith(f"got {value!r}")


@each("cls", {"if": IF, "snm": SNM})
def test_kinds_without_levels_do_not_take_them(cls):
    with pytest.raises(TypeError, match="levels"):
        cls(levels=4)
    assert cls().levels == 1


@each("cls", {"if": IF, "mt": MT, "dc": DC})
def test_only_snm_takes_a_negative_fraction(cls):
    with pytest.raises(TypeError, match="negative_fraction"):
        cls(negative_fraction=-1.0)


@each("cls", WITH_LEVELS)
@pytest.mark.parametrize("levels", [1, MAX_LEVELS], ids=["fewest", "most"])
def test_the_ends_of_the_range_of_levels_are_accepted(cls, levels):
    assert cls(levels=levels).levels == levels


@pytest.mark.parametrize("name", ["if", "IF", "Snm", "mt", "DC"])
def test_parse_neuron_reads_names_in_any_case(name):
    assert parse_neuron(name) == KINDS[name.lower()]()


def test_parse_neuron_passes_a_neuron_through_and_keeps_its_levels():
    neuron = MT(levels=7)
    assert parse_neuron(neuron, levels=3) is neuron


@pytest.mark.parametrize(
    ("name", "expected"),
    [("mt", MT(levels=6)), ("dc", DC(levels=6)), ("if", IF()), ("snm", SNM())],
    ids=["mt", "dc", "if", "snm"],
)
def test_parse_neuron_gives_levels_to_the_kinds_that_have_them(name, expected):
    assert parse_neuron(name, levels=6) == expected


@pytest.mark.parametrize("name", ["izhikevich", "", "mt4", None, 3, MT], ids=repr)
def test_parse_neuron_names_the_choices_for_what_it_does_not_know(name):
    with pytest.raises(InputError, match="choose one of if, snm, mt, dc") as refusal:
        parse_neuron(name)
    assert repr(name) in str(refusal.value)


def test_neuron_from_leaves_out_what_a_kind_does_not_have():
    everything = {"initial_fraction": 0.25, "negative_fraction": -1.0, "levels": 6, "leak": 0.5}
    assert neuron_from(Kind.IF, everything) == IF(initial_fraction=0.25)
    assert neuron_from(Kind.SNM, everything) == SNM(initial_fraction=0.25, negative_fraction=-1.0)
    assert neuron_from(Kind.MT, everything) == MT(initial_fraction=0.25, levels=6)
    assert neuron_from(Kind.DC, everything) == DC(initial_fraction=0.25, levels=6)
    assert neuron_from(Kind.LIF, everything) == LIF(initial_fraction=0.25, leak=0.5)


@pytest.mark.parametrize("leak", [-0.1, 1, 1.5, NAN, "half"], ids=str)
def test_a_leak_is_a_number_from_0_to_below_1(leak):
    with pytest.raises(InputError, match="LIF's leak must be a number from 0 to below 1"):
        LIF(leak=leak)


def test_only_lif_says_that_it_leaks():
    """Files of the other neurons are as they were before there was a leak."""
    assert Dynamics(LIF(leak=0.25), 4).to_dict()["neuron"]["leak"] == 0.25
    assert all("leak" not in Dynamics(cls(), 4).to_dict()["neuron"] for cls in (IF, SNM, MT, DC))


@each("neuron", NEURONS)
def test_numbers_hold_everything(neuron):
    dynamics = Dynamics(neuron, 4, 0.1, 0.2, 0.3)
    assert Dynamics.from_numbers(*dynamics.numbers) == dynamics


@pytest.mark.parametrize("neuron", ["mt", None, MT, 4], ids=repr)
def test_dynamics_want_a_neuron(neuron):
    with pytest.raises(InputError, match=r"neuron must be IF\(\), SNM\(\), MT\(\), DC\(\) or LIF\(\)") as refusal:
        Dynamics(neuron, 4)
    assert str(refusal.value).endswith(f"got {neuron!r}")


@pytest.mark.parametrize("timesteps", [0, -3, 2.0, "4", None, True, NAN], ids=repr)
def test_timesteps_must_be_a_whole_number_of_at_least_1(timesteps):
    with pytest.raises(InputError, match=r"timesteps \(T\) must be a whole number of at least 1") as refusal:
        Dynamics(IF(), timesteps)
    assert str(refusal.value).endswith(f"got {timesteps!r}")


@pytest.mark.parametrize("levels", [1, 4, 24])
def test_timesteps_are_limited_to_what_can_be_counted_in_the_smallest_level(levels):
    largest = (2**31 - 1) // 2 ** (levels - 1)
    assert Dynamics(MT(levels=levels), largest).timesteps == largest
    with pytest.raises(InputError, match=f"at most {largest} with {levels} levels, got {largest + 1}"):
        Dynamics(MT(levels=levels), largest + 1)


@pytest.mark.parametrize("name", ["alpha", "memory"])
@pytest.mark.parametrize("value", [-0.01, 1.01, NAN, "1", None, True], ids=repr)
def test_alpha_and_memory_must_lie_between_0_and_1(name, value):
    with pytest.raises(InputError, match=rf"{name} \(.\) must be a number from 0 to 1") as refusal:
        Dynamics(IF(), 4, **{name: value})
    assert str(refusal.value).endswith(f"got {value!r}")


@pytest.mark.parametrize("value", [-0.1, INFINITY, NAN, "1", None, True], ids=repr)
def test_clip_must_be_finite_and_not_negative(value):
    with pytest.raises(InputError, match=r"clip \(κ\) must be a finite number of at least 0") as refusal:
        Dynamics(IF(), 4, clip=value)
    assert str(refusal.value).endswith(f"got {value!r}")


@pytest.mark.parametrize("name", ["alpha", "memory", "clip"])
@pytest.mark.parametrize("value", [0, 1, 0.0, 1.0], ids=repr)
def test_the_ends_of_the_ranges_are_accepted(name, value):
    assert getattr(Dynamics(IF(), 1, **{name: value}), name) == value


@each("neuron", NEURONS)
def test_dynamics_round_trip_through_json(neuron):
    dynamics = Dynamics(neuron, 7, alpha=0.3, memory=0.7, clip=0.25)
    assert Dynamics.from_dict(json.loads(json.dumps(dynamics.to_dict()))) == dynamics


def test_from_dict_does_not_change_what_it_reads():
    description = Dynamics(MT(), 4).to_dict()
    before = json.dumps(description)
    Dynamics.from_dict(description)
    assert json.dumps(description) == before


NUMPY_NUMBERS = {
    "timesteps-int64": lambda: Dynamics(MT(), np.int64(4)),
    "alpha-float32": lambda: Dynamics(MT(), 4, alpha=np.float32(0.5)),
    "levels-int64": lambda: Dynamics(MT(levels=np.int64(3)), 4),
    "initial-fraction-float32": lambda: Dynamics(IF(initial_fraction=np.float32(0.5)), 4),
    "negative-fraction-float32": lambda: Dynamics(SNM(negative_fraction=np.float32(-0.5)), 4),
    "initial-fraction-rational": lambda: Dynamics(IF(initial_fraction=Fraction(1, 2)), 4),
}


@each("make", NUMPY_NUMBERS)
def test_numbers_of_other_types_are_json_ready(make):
    dynamics = make()
    assert Dynamics.from_dict(json.loads(json.dumps(dynamics.to_dict()))) == dynamics


@each("make", NUMPY_NUMBERS)
def test_numbers_of_other_types_reach_the_operators(make):
    dynamics = make()
    current, threshold = torch.rand(4, 2, 3), torch.ones(3)
    spikes, _, _ = ops.neuron_spikes(current, threshold, torch.zeros(2, 3), dynamics)
    assert spikes.shape == (4, 2, 3)


WHOLE = Dynamics(MT(), 4).to_dict()


def changed(neuron: dict | None = None, **others) -> dict:
    """A description of MT with some entries changed, and those that are None left out."""
    parts = {**WHOLE, "neuron": {**WHOLE["neuron"], **(neuron or {})}, **others}
    parts["neuron"] = {key: value for key, value in parts["neuron"].items() if value is not None}
    return {key: value for key, value in parts.items() if value is not None}


MALFORMED = {
    "no-alpha": (changed(alpha=None), "alpha"),
    "no-timesteps": (changed(timesteps=None), "timesteps"),
    "neuron-without-name": (changed({"name": None}), "name"),
    "neuron-without-levels": (changed({"levels": None}), "levels"),
    "neuron-by-name-alone": ({**WHOLE, "neuron": "mt"}, "neuron"),
    "unknown-neuron": (changed({"name": "izhikevich"}), "unknown neuron 'izhikevich'"),
    "unknown-parameter": (changed(gamma=1), "gamma too many"),
    "unknown-parameter-of-the-neuron": (changed({"gamma": 1}), "gamma too many"),
    "levels-out-of-range": (changed({"levels": 99}), "levels"),
    "timesteps-as-text": (changed(timesteps="4"), "timesteps"),
    "alpha-is-true": (changed(alpha=True), "alpha"),
    "none": (None, "must be a dictionary, got None"),
    "a-list": ([1, 2], r"must be a dictionary, got \[1, 2\]"),
    "text": ("mt", "must be a dictionary, got 'mt'"),
}


@each("case", MALFORMED)
def test_from_dict_refuses_what_does_not_describe_dynamics(case):
    description, message = case
    with pytest.raises(InputError, match=message):
        Dynamics.from_dict(description)


HUGE = {"400": 10**400, "5000": 10**5000, "-400": -(10**400), "-5000": -(10**5000)}
TAKERS = {
    **{name: functools.partial(Dynamics, MT()) for name in ("timesteps", "alpha", "memory", "clip")},
    "initial_fraction": MT,
    "negative_fraction": SNM,
    "levels": MT,
}


@pytest.mark.parametrize("name", TAKERS)
@each("value", HUGE)
def test_an_integer_that_no_float_can_hold_is_refused(name, value):
    """Also where it has so many digits that Python does not write it."""
    with pytest.raises(InputError, match=r"must be|at most"):
        TAKERS[name](**{"timesteps": 4, name: value} if TAKERS[name] not in (MT, SNM) else {name: value})
