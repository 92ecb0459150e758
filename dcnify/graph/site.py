"""Plain, frozen descriptions of sites: what the finders hand to everybody else."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

from dcnify.errors import InputError

Pair = tuple[int, int]


def fact(default: Any = MISSING, *, where: str = "") -> Any:
    """Declare a field of a `Facts` class.

    Args:
        default: the value where it is not given, and of sites whose role does not have the fact.
        where: description of the key that recipes test it with; without one they cannot.
    """
    return field(default=default, metadata={"where": where})


class Facts:
    """The facts about sites of one role, beyond those that every `Site` has.

    Subclass it as a frozen dataclass that names its role, if it is not a base of such classes.
    ``str(facts)`` is the text that `dcnify inspect` shows.
    """

    of_role: ClassVar[dict[str, type[Facts]]] = {}
    absent: ClassVar[dict[str, Any]] = {}
    """Every fact of every role, with its value at sites of roles that do not have it."""

    def __init_subclass__(cls, role: str | None = None) -> None:
        if role is not None:
            Facts.of_role[role] = cls
        for name in inspect.get_annotations(cls):
            default: Any = vars(cls).get(name)
            if isinstance(default, Field):
                default = None if default.default is MISSING else default.default
            Facts.absent.setdefault(name, default)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the facts of this role."""
        return tuple(one.name for one in fields(cls)) if is_dataclass(cls) else ()

    def __str__(self) -> str:
        return ""


_NO_FACTS = Facts()


@dataclass(frozen=True)
class Site:
    """One place in the model that a swap could replace.

    Shapes are those of the captured call, batch first. ``layout`` names the axes of the input and
    output: ``BCHW``, ``BHWC`` or ``BNC`` (tokens). Pairs are (height, width). Facts of the role are
    attributes too: ``site.kernel`` is ``site.facts.kernel``, and None for an attention.
    """

    path: str
    role: str
    layout: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    channels: int
    grid: Pair
    """Rows and columns of the input: the feature map, or the tokens without their prefix."""
    stage: int
    parameters: int
    flops: int
    """Floating-point operations of the captured call; a multiply-add counts as two."""
    facts: Facts = _NO_FACTS
    calls: int = 1
    """How often one forward pass runs this module."""
    aliases: tuple[str, ...] = ()
    """Other paths under which the model holds the very same module."""

    def __getattr__(self, name: str) -> Any:
        if name not in Facts.absent:
            raise AttributeError(f"a site has no {name!r}")
        return getattr(self.facts, name, Facts.absent[name])

    def to_dict(self) -> dict[str, Any]:
        """Return the site as JSON-ready data, with the facts of all roles beside the rest."""
        data = asdict(self)
        del data["facts"]
        return {**data, **{name: getattr(self, name) for name in Facts.absent}}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Site:
        """Read what `to_dict` wrote.

        Raises:
            InputError: the role is not registered here.
        """
        facts = Facts.of_role.get(data["role"])
        if facts is None:
            raise InputError(f"no role {data['role']!r}, expected one of {sorted(Facts.of_role)}")
        data = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        own = {name: data[name] for name in facts.names() if name in data}
        rest = {name: value for name, value in data.items() if name not in Facts.absent}
        return cls(**rest, facts=facts(**own))


@dataclass(frozen=True)
class NearMiss:
    """Something that looked like a site but is not one, with the reason in words."""

    path: str
    role: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return asdict(self)


@dataclass(frozen=True)
class Sites(Sequence[Site]):
    """All sites of one model in the order the forward pass reaches them; a sequence of `Site`."""

    sites: tuple[Site, ...]
    near_misses: tuple[NearMiss, ...]
    module_paths: tuple[str, ...]
    """Every module path of the model, for suggestions when a selector hits nothing."""

    def __getitem__(self, index: Any) -> Any:
        return self.sites[index]

    def __len__(self) -> int:
        return len(self.sites)
