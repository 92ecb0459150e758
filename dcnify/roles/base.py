"""What a role declares, and the registry of roles.

A declaration is read where torch is not imported (checking a recipe, ``--help``), so its functions
are `lazy`: they are imported when they are called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dcnify.errors import InputError
from dcnify.graph.site import Facts, NearMiss, Pair, Site, Sites, fact

if TYPE_CHECKING:
    import torch
    from torch import Tensor, fx, nn

    from dcnify.graph.axis_rules import AxesOf
    from dcnify.graph.calls import Call
    from dcnify.graph.capture import Capture
    from dcnify.graph.channels import Neighbours
    from dcnify.graph.isolate import Isolation
    from dcnify.graph.isolation.candidates import Candidate


@dataclass(frozen=True)
class Found:
    """Sites together with the graph nodes they were found at, for whoever reads weights next."""

    sites: Sites
    nodes: dict[str, fx.Node]
    """The node at which a role found its site, by path: the convolution, for one."""
    capture: Capture
    model: nn.Module
    """The live model, or a copy that shares its tensors, for whoever reads layers."""
    isolations: tuple[Isolation, ...] = ()
    """What was isolated in ``model``, a copy then, so that every site is a module."""
    readings: dict[str, Any] = field(default_factory=dict)
    """What a role has read of its site's weights so far, by path."""


Seen = tuple["fx.Node", "Site | NearMiss | Candidate"]
"""What a role found, and the node where. A candidate is a site if a region can be isolated."""
Arguments = tuple[dict[str, Any], tuple[str, ...]]
"""Arguments of an adapter, and notes for the person who reads the plan."""
Keys = Mapping[str, Any]
"""What a recipe's ``replace`` says, but for ``with``."""
Inherit = Callable[[Any, Site, Found, "torch.Generator"], tuple[str, ...]]
"""(new module, site, found, generator): sets the module's weights; returns warnings."""
Count = Callable[["nn.Module", tuple[int, ...]], int]


def lazy(target: str) -> Callable[..., Any]:
    """Return a stand-in for the function ``package.module:name``, imported when it is called."""
    module, _, name = target.partition(":")

    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **kwargs)

    return call


@dataclass(frozen=True)
class Key:
    """A key of a recipe's ``replace`` that only the replacements that declare it know."""

    choices: tuple[str, ...]
    help: str
    default: str | None = None
    """The value at sites of this role where the recipe does not give one."""
    decides: bool = False
    """Whether it decides all other keys, so that none may be given beside it."""


@dataclass(frozen=True)
class Replacement:
    """One kind of module that can stand at sites of a role, and how it inherits."""

    adapter: str
    """Name of the adapter in plans."""
    module: Callable[..., nn.Module]
    arguments: Callable[[Found, Site, Pair, Keys], Arguments]
    """(found, site, kernel size, keys): the adapter's arguments beyond `DCNv4`'s own."""
    transfer: Inherit
    """The init method ``transfer``."""
    fit: Inherit | None = None
    """The init method ``fit``; without it ``transfer`` is as close as can be."""
    calibrate: Callable[[Any, nn.Module, Sequence[Call], int], None] | None = None
    """The init method ``calibrate``: (new module, old layer, its calls, steps of descent)."""
    neighbours: Callable[[Found, Site, Keys], Neighbours | str] | None = None
    """The layers around a site that may change with it, or why none may. With them ``calibrate``
    begins with `share`."""
    share: Callable[..., tuple[Tensor, Tensor]] | None = None
    """(new module, site, old weight, inputs, importance, generator): sets the points in closed form
    and returns the order of the channels and their gains, for the neighbours to take."""
    always: Callable[[Any, Site, Found], None] | None = None
    """Carries over what is kept whatever the init method."""
    takes_original: bool = False
    """Whether the adapter may keep the replaced layer, or parts of it."""
    exact: str = ""
    """For a replacement that computes the same function, its name in tables. It takes no keys and
    no init but ``transfer``, and has nothing to hand over."""
    keys: Mapping[str, Key] = field(default_factory=dict)
    refuses: Mapping[str, str] = field(default_factory=dict)
    """Keys of all replacements that this one cannot follow, each with the reason."""
    decide: Callable[[Found, Sequence[Site], Keys], Keys] | None = None
    """Returns the keys with what all sites of a swap decide together."""
    biases: Callable[[Found, Site, Keys], Iterable[str]] | None = None
    """Paths of linear layers beside a site that lose their bias."""
    flops: Callable[[Any, Site, Count], int] | None = None
    """FLOPs at the site's captured input, where counting the module's own call is not enough."""

    @property
    def methods(self) -> tuple[str, ...]:
        """Init methods that a recipe may name."""
        if self.exact:
            return ("transfer",)
        return ("paper", "transfer", "fit", *(("calibrate",) if self.calibrate else ()))


@dataclass(frozen=True)
class Role:
    """A kind of layer that can be swapped."""

    name: str
    """As recipes and plans write it."""
    label: Callable[[Site], str]
    """The layer at a site, as tables show it."""
    find: Callable[[Capture, AxesOf], list[Seen]]
    """Sites and near misses of this role, each with the node it was found at."""
    replacements: Mapping[str, Replacement]
    """By the word that a recipe's ``with`` has for it."""
    counts_stages: bool = True
    """Whether each resolution of its sites is a stage of the model: not where stems have them."""
    swallows: tuple[str, ...] = ()
    """Roles whose sites inside one of this role's are part of it."""
    originals: tuple[str, ...] = ()
    """Classes of `dcnify.nn` that are layers of this role, not replacements."""
    prepare: Callable[[nn.Module], dict[str, str]] | None = None
    """Lets layers of a model that only run elsewhere run here, in place. Returns why layers that
    look like one were left alone, by path."""

    @property
    def facts(self) -> type[Facts]:
        """The class of its sites' facts."""
        return Facts.of_role.get(self.name, Facts)


ROLES: dict[str, Role] = {}
"""All roles by name; filled by `register`."""
_listeners: list[Callable[[], None]] = []


def register(role: Role) -> Role:
    """Make a role known: to finders, recipes, plans and tables."""
    Facts.of_role.setdefault(role.name, Facts)
    ROLES[role.name] = role
    for listener in _listeners:
        listener()
    return role


def on_register(listener: Callable[[], None]) -> None:
    """Call ``listener`` whenever a role is registered from now on."""
    _listeners.append(listener)


def replacement_named(adapter: str) -> Replacement:
    """Return the replacement that a plan names by its adapter.

    Raises:
        InputError: there is none.
    """
    known = {one.adapter: one for role in ROLES.values() for one in role.replacements.values()}
    if adapter not in known:
        raise InputError(f"plan: no module type {adapter!r}, expected one of {sorted(known)}")
    return known[adapter]


@dataclass(frozen=True)
class KernelFacts(Facts):
    """Facts of a layer whose window slides over the feature map."""

    kernel: Pair = fact(where="Kernel size of the convolution: 7, [1, 11] or {min: 3, max: 5}.")
    stride: Pair = fact(where="Stride of the convolution.")
    dilation: Pair = fact(where="Dilation of the convolution.")
    padding: tuple[int, int, int, int] = fact()
    """Zero padding in force at the captured size: (top, bottom, left, right)."""

    def __str__(self) -> str:
        text = "x".join(map(str, self.kernel))
        for name, (rows, columns) in (("stride", self.stride), ("dilation", self.dilation)):
            if (rows, columns) != (1, 1):
                one = str(rows) if name == "stride" and rows == columns else f"{rows}x{columns}"
                text += f" {name} {one}"
        return text


@dataclass(frozen=True)
class ConvolutionFacts(KernelFacts):
    """Facts of a convolution."""

    padding_policy: str = "fixed"
    """``fixed``, or ``same`` when the layer recomputes its padding from the input size."""
    bias: bool = False
