"""Actors that see: those of DrQ-v2, and Stable-Baselines3's with a NatureCNN."""

from __future__ import annotations

import bisect
import itertools
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from snnkern.errors import CheckpointError, InputError
from snnkern.policies.activations import ACTIVATIONS, RELU, activation_of
from snnkern.policies.actor import Actor, Conv, Interface, Layer, check_layer
from snnkern.policies.readers.drqv2 import Snapshot, as_float, conv2d, layer_norm, linear
from snnkern.policies.readers.modules import changed, does_nothing, drops, flattens
from snnkern.policies.readers.saved import check_names

ALGORITHM = "DrQ-v2"
EXAMPLE = "DrQ-v2: encoder.convnet.0, …, actor.trunk.0, actor.policy.0, …"  # its names, as an error shows them
OBJECTS = "objects"  # of an actor's metadata: the class of the object that its tensors were taken out of
_CONVOLUTION = re.compile(r"encoder\.convnet\.([0-9]{1,4})\.weight")
_LINEAR = re.compile(r"actor\.policy\.([0-9]{1,4})\.weight")
_ACTING = ("encoder.", "actor.")  # how names of tensors begin that act; others are the critics'
_EPS = 1e-5  # of a LayerNorm, where a state dict does not say it: torch's own
_NATURE = {"features_extractor.cnn.0": 4, "features_extractor.cnn.2": 2, "features_extractor.cnn.4": 1}  # strides
_LARGEST = 2**31  # side of an image that is looked for
_FEATURES = "features_extractor.linear.0"
EXTRACTOR = "features_extractor."
# Domains of the DeepMind Control Suite whose names have an underscore, and DrQ-v2's own name of one.
_DOMAINS = ("ball_in_cup", "humanoid_CMU", "point_mass")
_RENAMED = {"cup_catch": "ball_in_cup_catch"}


def _named(activation: str) -> str:
    return ACTIVATIONS[activation][1].__name__


PATTERN = (
    "an actor is Conv2d, ReLU, …, Flatten, Linear, ReLU, …, Linear and an optional Tanh, with or without Linear, "
    "LayerNorm and Tanh in between; or it has one other activation in place of all ReLUs: "
    f"{', '.join(_named(name) for name in ACTIVATIONS if name != RELU)}, as torch makes it"
)

Chain = Sequence[tuple[str, nn.Module]]


def assemble(
    chain: Chain, shape: Sequence[int] | None, advice: str = ""
) -> tuple[list[Layer], tuple[Tensor, Tensor], dict[int, list[nn.Module]], str]:
    """A chain of torch's modules as an actor takes it: hidden layers, output layer, bridges, activation.

    A Linear or Conv2d with an activation behind it is a hidden layer. Where there are ReLUs, a Linear without one, a
    LayerNorm and a Tanh belong to a bridge; the last Linear is the output layer. What does nothing in evaluation, such
    as a Dropout, is left out.

    Args:
        chain: names and modules.
        shape: of an observation, `(N,)` or `(C, H, W)`; None for a vector of any size.
        advice: what an error says in the end.

    Raises:
        InputError: names every module that cannot be converted.
    """
    hidden: list[Layer] = []
    output: tuple[Tensor, Tensor] | None = None
    bridges: dict[int, list[nn.Module]] = {}
    if problems := [f"{name} is {module}, {why}" for name, module in chain if (why := changed(module))]:
        raise InputError(f"this network cannot be converted: {'; '.join(problems)}{advice}")
    before: nn.Module | None = None  # the last that was no Flatten
    flat = shape is None or len(shape) == 1  # whether a vector comes in
    modules = [(name, module) for name, module in chain if not does_nothing(module)]
    activation = _activation([module for _, module in modules])

    def activates(module: nn.Module | None) -> bool:
        return module is not None and activation_of(module) == activation

    for index, (name, module) in enumerate(modules):
        what = f"{name} is {module}"
        behind = next((one for _, one in modules[index + 1 :] if not isinstance(one, nn.Flatten)), None)
        if isinstance(module, nn.Flatten):
            if not flattens(module, 2 if flat else 4):
                problems.append(f"{what}, where only Flatten() may stand")
            flat = True
            continue
        if isinstance(module, nn.Conv2d):
            if shape is None and before is None:
                problems.append(f"{what}, which needs observation_shape=(C, H, W): how large an image is")
            elif flat:
                problems.append(f"{what}, where a vector comes in")
            if why := unfit(module):
                problems.append(f"{what}, whose {why}")
            if not activates(behind):
                problems.append(f"{what}, without a {_named(activation)} behind it")
            hidden.append(as_layer(module))
            flat = False
        elif activates(module) and isinstance(before, nn.Linear | nn.Conv2d):
            pass  # of the layer before
        elif isinstance(module, nn.Linear | nn.LayerNorm | nn.Tanh):
            if not flat:
                problems.append(f"{what}, where a Flatten was wanted in front of it")
            if not isinstance(module, nn.Linear) or (behind is not None and not activates(behind)):
                if activation != RELU:
                    problems.append(f"{what}, which may stand between ReLUs alone, but here is {_named(activation)}")
                bridges.setdefault(len(hidden), []).append(module)
            elif behind is None:
                output = cast("tuple[Tensor, Tensor]", as_layer(module))
            else:
                hidden.append(as_layer(module))
            flat = True
        elif drops(module):
            problems.append(f"{what}, which drops at random in training: call eval() on the network")
        else:
            problems.append(what)
        before = module
    if output is None:
        problems.append("the last module is no Linear")
    if not hidden:
        problems.append("at least one ReLU, or another activation, is needed behind a layer")
    if problems or output is None:
        raise InputError(f"this network cannot be converted: {'; '.join(problems)}; {PATTERN}{advice}")
    return hidden, output, bridges, activation


def _activation(modules: Sequence[nn.Module]) -> str:
    """The activation of a chain: ReLU where there is one, else the first that stands behind a layer."""
    pairs = itertools.pairwise(modules)
    found = [activation_of(behind) for layer, behind in pairs if isinstance(layer, nn.Linear | nn.Conv2d)]
    return next((name for name in found if name), RELU) if RELU not in found else RELU


def as_layer(module: nn.Linear | nn.Conv2d) -> Layer:
    """A module as an actor takes it; without a bias it adds zeros."""
    weight = module.weight
    bias = weight.new_zeros(weight.shape[0]) if module.bias is None else module.bias
    if isinstance(module, nn.Linear):
        return weight, bias
    padding = module.padding
    if isinstance(padding, str):
        padding = tuple((size - 1) // 2 if padding == "same" else 0 for size in module.kernel_size)
    return Conv(weight, bias, module.stride, padding)


def unfit(layer: nn.Conv2d) -> str:
    """What of a convolution cannot be converted; empty where all can."""
    same = layer.padding == "same" and any(size % 2 == 0 for size in layer.kernel_size)
    padding = layer.padding if isinstance(layer.padding, tuple) else ()
    found = {
        f"groups are {layer.groups}": layer.groups != 1,
        f"dilation is {layer.dilation}": any(step != 1 for step in layer.dilation),
        f"padding_mode is {layer.padding_mode!r}": layer.padding_mode != "zeros",
        "padding differs from side to side": same,
        f"padding {padding} is not smaller than the kernel": any(map(operator.ge, padding, layer.kernel_size)),
    }
    return " and ".join(what for what, is_so in found.items() if is_so)


def _actor(chain: Chain, shape: Sequence[int], metadata: Mapping[str, str], **interface: Any) -> Actor:
    behind = next(index for index, (_, module) in enumerate(chain) if isinstance(module, nn.Linear))
    hidden, output, bridges, activation = assemble([*chain[:behind], ("", nn.Flatten()), *chain[behind:]], shape)
    connected = Interface(tuple(shape), output[0].shape[0], dtype=output[0].dtype, **interface)
    return Actor(hidden, output, connected, metadata, bridges, activation)


# DrQ-v2


def actor_from_snapshot(snapshot: Snapshot) -> Actor:
    """The actor of a DrQ-v2 agent, whose metadata say the class of the agent.

    Raises:
        InputError: names what of its network cannot be converted.
    """
    return _drqv2(snapshot.modules, {"activation": "relu", OBJECTS: snapshot.kind})


def is_drqv2(tensors: Mapping[str, Any]) -> bool:
    """Whether tensors have the names that DrQ-v2 gives them."""
    return any(map(_CONVOLUTION.fullmatch, tensors))


def actor_from_drqv2(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], **interface: Any) -> Actor:
    """The actor of DrQ-v2's state dict: `encoder.convnet.0.weight`, …, `actor.trunk.0.weight`, ….

    The first convolution has stride 2, the others 1, all of them no padding. Tensors of the trunk's second module are
    those of a LayerNorm with a Tanh behind it; without them, a ReLU is there.

    Args:
        tensors: by name; those of critics are ignored.
        metadata: the file's; its "task" says the environment.
        interface: action_scale and action_bias.

    Raises:
        CheckpointError: names the missing, unexpected and misshapen tensors.
    """
    what = "a DrQ-v2 actor"
    tensors = {name: as_float(tensor) for name, tensor in tensors.items() if name.startswith(_ACTING)}
    convolutions = _numbered(_CONVOLUTION, "encoder.convnet", tensors)
    policy = _numbered(_LINEAR, "actor.policy", tensors) or ["actor.policy.0"]
    normalized = any(name.startswith("actor.trunk.1.") for name in tensors)
    trunk = ["actor.trunk.0", *(["actor.trunk.1"] if normalized else [])]
    wanted = [*convolutions, *trunk, *policy]
    check_names(what, tensors, [f"{name}.{part}" for name in wanted for part in ("weight", "bias")])

    problems = []
    inputs: int | None = None
    for name in wanted:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        if name == "actor.trunk.1":
            if weight.dim() != 1 or weight.shape != bias.shape or (inputs, *weight.shape)[0] != weight.shape[0]:
                problems.append(f"{name} must be [{inputs}], got shapes {list(weight.shape)} and {list(bias.shape)}")
            continue
        try:
            before = None if name == "actor.trunk.0" else inputs  # after a flatten, `Actor` knows
            check_layer(name, weight, bias, before, convolution=name in convolutions)
        except InputError as error:
            problems.append(str(error))
        inputs = weight.shape[0] if weight.dim() else None
    if problems:
        raise CheckpointError(f"not {what}: {'; '.join(problems)}")

    chain: list[tuple[str, nn.Module]] = []
    for name in wanted:
        pair = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        if name in convolutions:
            stride = 2 if name == convolutions[0] else 1
            chain += [(name, conv2d(*pair, (stride, stride), (0, 0))), (name, nn.ReLU())]
        elif name == "actor.trunk.1":
            chain += [(name, layer_norm(*pair, _EPS)), (name, nn.Tanh())]
        else:
            plain = name == policy[-1] or (name == "actor.trunk.0" and normalized)
            chain += [(name, linear(*pair)), *([] if plain else [(name, nn.ReLU())])]
    return _drqv2(chain, metadata, **interface)


def _numbered(pattern: re.Pattern[str], prefix: str, tensors: Mapping[str, Any]) -> list[str]:
    """Names of the layers of a Sequential that has a ReLU behind each; a gap in the numbers is a missing layer."""
    numbers = [int(match[1]) for match in map(pattern.fullmatch, tensors) if match]
    return [f"{prefix}.{number}" for number in range(0, max(numbers, default=-1) + 1, 2)]


def _drqv2(chain: Chain, metadata: Mapping[str, str], **interface: Any) -> Actor:
    said = {"algorithm": ALGORITHM, **metadata}
    if "environment" not in said and (environment := _environment(metadata)):
        said["environment"] = environment
    pixels = {"observation_dtype": torch.uint8, "observation_scale": 255.0, "observation_offset": -0.5}
    return _actor(chain, _image(chain), said, **pixels, **interface)


def _environment(metadata: Mapping[str, str]) -> str:
    """Gymnasium's name of a task, as Shimmy registers it: "dm_control/cartpole-swingup-v0" for "cartpole_swingup"."""
    task = _RENAMED.get(metadata.get("task", ""), metadata.get("task", ""))
    domain = next((name for name in _DOMAINS if task.startswith(f"{name}_")), task.partition("_")[0])
    rest = task[len(domain) + 1 :]
    return f"dm_control/{domain}-{rest}-v0" if re.fullmatch(r"\w+", domain) and re.fullmatch(r"\w+", rest) else ""


def _image(chain: Chain) -> tuple[int, int, int]:
    """The shape of the images that a network sees: square ones, as DrQ-v2's are, whatever strides and kernels are.

    The first Linear says how many numbers the convolutions make of one. Where a stride leaves pixels at the border
    unseen, images of several sizes make as many, and all of them give the same action: the largest is taken, which is
    DrQ-v2's 84.

    Raises:
        InputError: no square images make as many.
    """
    convolutions = [module for _, module in chain if isinstance(module, nn.Conv2d)]

    def features(side: int) -> int:
        """How many numbers they make of a square image."""
        height = width = side
        for layer in convolutions:
            (down, right), (tall, wide) = layer.stride, layer.kernel_size
            above, beside = cast("tuple[int, int]", layer.padding)  # readers make no others
            # A stride of 0 is refused later, by its name.
            height = max(0, (height + 2 * above - tall) // max(down, 1) + 1)
            width = max(0, (width + 2 * beside - wide) // max(right, 1) + 1)
        return convolutions[-1].out_channels * height * width

    flat = next((module.in_features for _, module in chain if isinstance(module, nn.Linear)), 0)
    if not convolutions or not flat:
        raise InputError("this network cannot be converted: it has no convolutions, or no Linear behind them")
    side = 1
    while features(side) <= flat and side < _LARGEST:
        side *= 2
    # Larger images never make fewer numbers: the first one that makes more is between, and the one before is wanted.
    side = bisect.bisect_right(range(side), flat, key=features) - 1
    if side < 1 or features(side) != flat:
        channels = convolutions[-1].out_channels
        raise InputError(f"the trunk takes {flat:,} numbers, which are not {channels} channels of a square image")
    return convolutions[0].in_channels, side, side


# Stable-Baselines3


def actor_with_nature_cnn(
    features: Mapping[str, Tensor],
    layers: Sequence[tuple[str, Tensor, Tensor]],
    shape: Sequence[int],
    metadata: Mapping[str, str],
    **interface: Any,
) -> Actor:
    """The actor of Stable-Baselines3's `CnnPolicy`: a NatureCNN, and the layers behind it.

    Args:
        features: the NatureCNN's tensors, by name.
        layers: the actor's own: name, weight and bias, the output layer last.
        shape: of an image, channels first.
        metadata: the actor's.
        interface: everything else that an `Interface` takes.

    Raises:
        CheckpointError: names the missing, unexpected and misshapen tensors.
    """
    names = [*_NATURE, _FEATURES]
    check_names("a NatureCNN", features, [f"{name}.{part}" for name in names for part in ("weight", "bias")])
    chain: list[tuple[str, nn.Module]] = []
    inputs: int | None = shape[0]
    problems = []
    for name in names:
        weight, bias = (as_float(features[f"{name}.{part}"]) for part in ("weight", "bias"))
        stride = _NATURE.get(name)
        try:
            check_layer(name, weight, bias, inputs if stride else None, convolution=stride is not None)
        except InputError as error:
            problems.append(str(error))
            continue
        inputs = weight.shape[0]
        made = linear(weight, bias) if stride is None else conv2d(weight, bias, (stride, stride), (0, 0))
        chain += [(name, made), (name, nn.ReLU())]
    if problems:
        raise CheckpointError(f"not a NatureCNN: {'; '.join(problems)}")
    for name, weight, bias in layers:
        chain += [(name, linear(weight, bias)), (name, nn.ReLU())]
    return _actor(chain[:-1], shape, metadata, **interface)
