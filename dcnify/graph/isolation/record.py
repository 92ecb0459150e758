"""An isolation as a plan records it. Plain data; importing it does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Constant = bool | str | None
Decided = bool | int | float | str | tuple[()] | None
EVALUATION, TRAINING = "evaluation", "training"
Decisions = Mapping[str, Mapping[str, Decided]]
"""By mode: what the values of steps were by which the code of a block decided."""
_LARGEST = 1 << 16
"""A size that a block may decide by."""


@dataclass(frozen=True)
class Assumed:
    """What a symbolic trace of a block's forward takes for granted."""

    constants: Mapping[str, Constant] = field(default_factory=dict)
    """Arguments that are fixed."""
    keywords: tuple[str, ...] = ()
    """Arguments that the forward does not name, but takes as ``**kwargs``."""
    decisions: Decisions = field(default_factory=dict)
    """What its code decided by, as sizes of the image."""


@dataclass(frozen=True)
class Isolation:
    """Which part of which block becomes a submodule."""

    block: str
    """Path of the block; empty for the model itself."""
    name: str
    """Of the new submodule in the block."""
    entry: str
    """The step of the block's traced forward whose output the region takes."""
    exit: str
    """The step whose output it returns."""
    fingerprint: str
    """Of the trace; another version of the block's code may trace differently."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Steps outside that the region reads: the axis of its input whose size they are."""
    constants: Mapping[str, Constant] = field(default_factory=dict)
    """Arguments of the block's forward that are fixed."""
    keywords: tuple[str, ...] = ()
    """Arguments that the forward does not name, but takes as ``**kwargs``."""
    decisions: Decisions = field(default_factory=dict)
    """What the block's forward decided by, as sizes of the image."""
    own: tuple[str, ...] = ()
    """Decisions that concern the region alone."""

    @property
    def assumed(self) -> Assumed:
        """What the trace of the block takes for granted."""
        return Assumed(self.constants, self.keywords, self.decisions)

    @property
    def path(self) -> str:
        """Path of the region in the model."""
        return f"{self.block}.{self.name}" if self.block else self.name

    def to_dict(self) -> dict[str, Any]:
        """The isolation as JSON-ready data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Isolation:
        """Inverse of `to_dict`; raise `TypeError` if it is not one."""
        texts = (data[name] for name in ("block", "name", "entry", "exit", "fingerprint"))
        if not all(isinstance(text, str) for text in texts) or "." in data["name"]:
            raise TypeError("an isolation with names that are none")
        decisions = {
            mode: {name: _decided(value) for name, value in steps.items()}
            for mode, steps in data.get("decisions", {}).items()
        }
        keywords, own = (tuple(data.get(name, ())) for name in ("keywords", "own"))
        if not all(isinstance(one, str) and one.isidentifier() for one in keywords):
            raise TypeError("an isolation with arguments that are none")
        return cls(**{**data, "keywords": keywords, "own": own, "decisions": decisions})


def _decided(value: Any) -> Decided:
    """A decision as it is in JSON."""
    if value is None or value == []:
        return None if value is None else ()
    if not isinstance(value, bool | int | float | str) or (
        isinstance(value, int) and abs(value) > _LARGEST
    ):
        raise TypeError("an isolation with decisions that are none")
    return value


def needed(isolations: Sequence[Isolation], paths: Iterable[str]) -> tuple[Isolation, ...]:
    """Select the isolations that modules at ``paths`` stand in, in the same order.

    Earlier ones of the same block come with them: each was planned with those before it in place.
    """
    inside = tuple(f"{path}." for path in paths)
    last = {
        one.block: index
        for index, one in enumerate(isolations)
        if any(path.startswith(f"{one.path}.") for path in inside)
    }
    return tuple(o for index, o in enumerate(isolations) if index <= last.get(o.block, -1))
