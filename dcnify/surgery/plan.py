"""The plan: which site becomes which module, and why each other candidate stays. Plain data."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from dcnify.errors import InputError
from dcnify.graph.channels import Neighbours
from dcnify.graph.isolation.record import Isolation
from dcnify.roles import Site

PLAN_VERSION = 1


@dataclass(frozen=True)
class ModuleSpec:
    """All that is needed to build a replacement again: the adapter's name and its arguments."""

    type: str
    """The adapter's name, as `dcnify.roles.Replacement` declares it: ``depthwise``, ``tokens``."""
    args: dict[str, Any]


@dataclass(frozen=True)
class PlannedSwap:
    """One site and the module that takes its place."""

    site: Site
    swap: str
    """Name of the recipe's swap that selected the site."""
    module: ModuleSpec
    init: tuple[dict[str, Any], ...]
    require: dict[str, Any] | None
    parameters: int
    """Parameters of the replacement."""
    flops: int
    """Floating-point operations of the replacement at the site's captured input."""
    notes: tuple[str, ...] = ()
    neighbours: Neighbours | None = None
    """Layers around the site that change with it when it is calibrated."""
    handover: bool = False
    """The old layer stays beside the new one for now; see `dcnify.surgery.handover`."""


@dataclass(frozen=True)
class Skipped:
    """A candidate that is not swapped, and the reason."""

    path: str
    role: str
    reason: str
    stage: int | None = None
    """The stage of a site; None of a near miss, and in plans from before it was recorded."""


@dataclass(frozen=True)
class Plan:
    """What `dcnify.plan` returns and `dcnify.convert` carries out. ``print(plan)`` is a table."""

    recipe: str
    input_shape: tuple[int, ...]
    swaps: tuple[PlannedSwap, ...]
    skipped: tuple[Skipped, ...]
    hits: dict[str, int] = field(default_factory=dict)
    """Sites that each of the recipe's swaps took, by name."""
    notes: tuple[str, ...] = ()
    """Parts of the recipe that touched nothing."""
    trims: tuple[str, ...] = ()
    """Linear layers that lose their bias, which the target architecture does not have."""
    isolations: tuple[Isolation, ...] = ()
    """Regions of blocks that become submodules first, in this order."""
    model_parameters: int = 0
    """Parameters of the whole original model; 0 in a plan that was written before it said so."""
    model_flops: int = 0
    """Floating-point operations of the whole original model at ``input_shape``; 0 as above."""

    def to_json(self, *, indent: int | None = 2) -> str:
        """The plan as JSON text; `from_json` is its inverse."""
        data = {"version": PLAN_VERSION, **asdict(self)}
        for swap, planned in zip(data["swaps"], self.swaps, strict=True):
            swap["site"] = planned.site.to_dict()
        return json.dumps(data, indent=indent)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            InputError: the text is not a plan, or a plan of another version.
        """
        try:
            data = json.loads(text)
            version = data.pop("version")
            if version != PLAN_VERSION:
                raise InputError(
                    f"plan version {version} is not {PLAN_VERSION}: made by another dcnify"
                )
            return cls(
                recipe=data["recipe"],
                input_shape=tuple(data["input_shape"]),
                swaps=tuple(_swap(item) for item in data["swaps"]),
                skipped=tuple(Skipped(**item) for item in data["skipped"]),
                hits=data["hits"],
                notes=tuple(data["notes"]),
                trims=tuple(map(str, data.get("trims", ()))),
                isolations=tuple(map(Isolation.from_dict, data.get("isolations", ()))),
                model_parameters=int(data.get("model_parameters", 0)),
                model_flops=int(data.get("model_flops", 0)),
            )
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"not a dcnify plan: {error!r}") from None

    def __str__(self) -> str:
        from dcnify.surgery.table import plan_text

        return plan_text(self)


def _swap(data: dict[str, Any]) -> PlannedSwap:
    if unknown := data.keys() - {one.name for one in fields(PlannedSwap)}:
        raise InputError(
            f"the plan says {min(unknown)!r} of the swap at {Site.from_dict(data['site']).path}, "
            "which this version does not know: it was written by another; convert again, or "
            "install that one"
        )
    return PlannedSwap(
        **{
            **data,
            "site": Site.from_dict(data["site"]),
            "module": ModuleSpec(**data["module"]),
            "neighbours": Neighbours.from_dict(near) if (near := data.get("neighbours")) else None,
            "init": tuple(data["init"]),
            "notes": tuple(data["notes"]),
            "handover": data.get("handover") is True,
        }
    )
