"""Follow the channels of a layer to the layers around it that can take them in another order.

Between two layers that mix all channels (1x1 convolutions, for one) the order of the channels is
arbitrary: if the first writes them in another order, everything in between follows and the second
reads them in that order, the model computes the same. A batch norm behind the layer can take a gain
and a shift of each channel as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import fx

from dcnify.graph.axis_rules import operation
from dcnify.graph.capture import Capture, stack_of
from dcnify.graph.evaluate import arguments_of

_ELEMENTWISE = (
    *("relu", "relu6", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus", "tanh"),
    *("sigmoid", "hardsigmoid", "hardtanh", "hardswish", "clamp", "clamp_min", "clamp_max"),
    *("dropout", "clone", "contiguous", "detach", "to", "alias"),
)
_IN_SPACE = (
    *("pad", "constant_pad_nd", "mean", "amax", "max_pool2d", "avg_pool2d"),
    *("adaptive_avg_pool2d", "adaptive_max_pool2d"),
)
_VIEWS = ("view", "reshape", "flatten", "squeeze", "unsqueeze")
_MIXING = ("conv2d", "linear")


@dataclass(frozen=True)
class Neighbours:
    """The layers around a layer that change with its channels, by their paths in the model."""

    reordered: tuple[tuple[str, int], ...]
    """Parameters and buffers that follow the order of the channels, each with the axis."""
    norm: str
    """The batch norm that reads the layer's output: it takes a gain and a shift of each channel."""
    consumer: str = ""
    """The 1x1 convolution or linear layer behind the layer, which can be fitted again."""
    consumer_norm: str = ""
    """The batch norm behind the consumer, which takes a shift of the consumer's output."""
    block: str = ""
    """The module whose input is added to the consumer's output."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Neighbours:
        """Read what `to_dict` wrote."""
        pairs = tuple((str(name), int(axis)) for name, axis in data["reordered"])
        return cls(pairs, *(str(data[one.name]) for one in fields(cls)[1:]))

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return asdict(self)

    @property
    def layers(self) -> tuple[str, ...]:
        """Paths of all layers that change, in the order in which their channels were followed."""
        names = (name.rpartition(".")[0] for name, _axis in self.reordered)
        last = (self.norm, self.consumer, self.consumer_norm)
        return tuple(dict.fromkeys(path for path in (*names, *last) if path))


def find_neighbours(capture: Capture, layer: fx.Node) -> Neighbours | str:
    """The neighbours of the depthwise convolution at ``layer``, or why they cannot change."""
    channels = int(layer.meta["val"].shape[1])
    try:
        follower = _Follower(capture, layer, channels)
        follower.run()
    except _CannotFollow as reason:
        return str(reason)
    norm = _batch_norm_behind(capture, layer)
    if not norm:
        return "no batch norm behind it takes the gains of its channels"
    consumer = _consumer(capture, layer, follower.readers)
    if consumer is None:
        return Neighbours(tuple(follower.reordered.items()), norm)
    node, path = consumer
    after = _batch_norm_behind(capture, node)
    block = _block_around(capture, node, bool(after))
    return Neighbours(tuple(follower.reordered.items()), norm, path, after, block)


class _CannotFollow(Exception):
    pass


class _Follower:
    """Collects what follows the order of a layer's channels, tensor by tensor."""

    def __init__(self, capture: Capture, layer: fx.Node, channels: int) -> None:
        self.capture, self.layer, self.channels = capture, layer, channels
        self.reordered: dict[str, int] = {}
        self.readers: list[fx.Node] = []
        """Operations that mix the channels they read."""
        self._seen: set[fx.Node] = set()
        self._operations: set[fx.Node] = set()
        self._named: set[fx.Node] = set()

    def run(self) -> None:
        pending = [arguments_of(self.layer)["input"], self.layer]
        while pending:
            tensor = pending.pop()
            if tensor in self._seen or tensor not in self.capture.image_dependent:
                continue
            self._seen.add(tensor)
            value = tensor.meta["val"]
            shape = tuple(value.shape) if isinstance(value, torch.Tensor) else (0, 0, 0)
            if len(shape) not in (2, 4) or int(shape[1]) != self.channels:
                raise _CannotFollow(f"{tensor.name} has its channels elsewhere")
            for one in (tensor, *tensor.users):
                pending.extend(self._through(one, tensor))
        for name in self._named:
            if any(user not in self._operations for user in name.users):
                raise _CannotFollow(f"{name.name} is read elsewhere too")

    def _through(self, node: fx.Node, tensor: fx.Node) -> Iterator[fx.Node]:
        """Tensors that ``node`` makes follow if ``tensor``, its output or an input, does."""
        if node.op != "call_function":
            raise _CannotFollow("its channels are the model's input or output")
        if not isinstance(node.meta["val"], torch.Tensor):
            raise _CannotFollow(f"a neighbour's output goes through {operation(node)}")
        self._operations.add(node)
        name = operation(node).rstrip("_")
        if node is self.layer:
            yield from (node, arguments_of(node)["input"])
        elif name in _MIXING and arguments_of(node).get("groups", 1) == 1:
            self._mixing(node, tensor)
        elif name == "batch_norm":
            given = arguments_of(node)
            for key in ("weight", "bias", "running_mean", "running_var"):
                self._follow(given[key], 0)
            yield from (node, given["input"])
        elif name in _ELEMENTWISE or _keeps_channels(node, name):
            yield from (node, node.all_input_nodes[0])
        elif name == "mul":
            yield from self._product(node)
        else:
            words = "is added to something else" if name == "add" else f"goes through {name}"
            raise _CannotFollow(f"a neighbour's output {words}")

    def _mixing(self, node: fx.Node, tensor: fx.Node) -> None:
        given = arguments_of(node)
        if tensor is node:
            self._follow(given["weight"], 0)
            if given["bias"] is not None:
                self._follow(given["bias"], 0)
            return
        if given["input"] is not tensor:
            raise _CannotFollow(f"{node.name} has a weight that is computed from the image")
        if node not in self.readers:
            self.readers.append(node)
        self._follow(given["weight"], 1)

    def _product(self, node: fx.Node) -> Iterator[fx.Node]:
        """A product of two tensors, of which one may be a factor for each channel or each place."""
        yield node
        for operand in node.all_input_nodes:
            shape = tuple(operand.meta["val"].shape)
            if operand not in self.capture.image_dependent:
                raise _CannotFollow("a neighbour is multiplied by a parameter")
            if len(shape) == 4 and shape[1] == self.channels:
                yield operand
            elif len(shape) != 4 or shape[1] != 1:
                raise _CannotFollow("a neighbour is multiplied by something of other channels")

    def _follow(self, tensor: Any, axis: int) -> None:
        names = {**self.capture.parameters, **self.capture.buffers}
        if tensor is None or tensor not in names:
            raise _CannotFollow("a neighbour's weight is computed, not stored")
        name = names[tensor]
        if self.reordered.setdefault(name, axis) != axis:
            raise _CannotFollow(f"{name} is on both sides")
        self._named.add(tensor)


def _keeps_channels(node: fx.Node, name: str) -> bool:
    """Whether an operation on one tensor works in space alone, or changes the shape around it."""
    before = tuple(node.all_input_nodes[0].meta["val"].shape) if node.all_input_nodes else ()
    after = tuple(node.meta["val"].shape)
    if len(node.all_input_nodes) != 1 or after[:2] != before[:2]:
        return False
    if name in _IN_SPACE:
        return len(before) == 4
    single = all(size == 1 for size in (*before[2:], *after[2:]))
    return name in _VIEWS and single


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _batch_norm_behind(capture: Capture, node: fx.Node) -> str:
    """Path of the batch norm that alone reads ``node``, if it has all of its four tensors."""
    user = _only_user(node)
    if user is None or operation(user) != "batch_norm":
        return ""
    given = arguments_of(user)
    tensors = [given[key] for key in ("weight", "bias", "running_mean", "running_var")]
    names = {**capture.parameters, **capture.buffers}
    if any(one not in names or len(one.users) > 1 for one in tensors):
        return ""
    return names[given["weight"]].rpartition(".")[0]


def _consumer(
    capture: Capture, layer: fx.Node, readers: list[fx.Node]
) -> tuple[fx.Node, str] | None:
    """The one 1x1 convolution that reads the layer's output at every place, and its path."""
    space = tuple(layer.meta["val"].shape[2:])
    found = [
        node
        for node in readers
        if operation(node) == "conv2d"
        and tuple(node.meta["val"].shape[2:]) == space
        and tuple(arguments_of(node)["weight"].meta["val"].shape[2:]) == (1, 1)
    ]
    if len(found) != 1:
        return None
    path = list(stack_of(found[0]).values())[-1]
    weight = capture.parameters[arguments_of(found[0])["weight"]]
    return (found[0], path) if weight == f"{path}.weight" else None


def _block_around(capture: Capture, consumer: fx.Node, has_norm: bool) -> str:
    """Path of the module whose input is added to the consumer's output; empty without one."""
    last = _only_user(consumer) if has_norm else consumer
    total = _only_user(last) if last is not None else None
    if total is None or operation(total) not in ("add", "add_"):
        return ""
    others = [node for node in total.all_input_nodes if node is not last]
    stack = list(stack_of(total).values())
    if len(others) != 1 or not stack or arguments_of(total).get("alpha", 1) != 1:
        return ""
    region = capture.region_at(total, stack[-1])
    return stack[-1] if region.inputs == (others[0],) else ""
