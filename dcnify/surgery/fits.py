"""Check that recipes fit a model, by the thousand: as planning does, but nothing is counted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from torch import nn

from dcnify.roles.base import Found, replacement_named
from dcnify.surgery.build import get
from dcnify.surgery.plan import ModuleSpec
from dcnify.surgery.planner import biases, build_at, is_calibrated, meta_twin, specify, take

if TYPE_CHECKING:
    from dcnify.recipe import Recipe


class Fits:
    """Checks recipes on the sites of one model; what two recipes or two sites share is done once.

    Args:
        found: the sites.
    """

    def __init__(self, found: Found) -> None:
        self._found = found
        self._kinds: dict[str, int] = {}
        self._at: dict[str, tuple[nn.Module, int]] = {}
        self._specified: set[tuple[str, str]] = set()
        self._built: set[tuple[str, int]] = set()

    def check(self, recipe: Recipe) -> None:
        """Raise what `dcnify.surgery.planner.plan_found` would.

        Raises:
            InputError: a selector hits nothing, or a replacement does not fit its site.
            CheckError: a swap's ``expect`` is not met.
        """
        taken = take(recipe, self._found)
        asks: dict[str, str] = {}
        for site, swap, keys in taken.swaps:
            if swap.name not in asks:
                says = [swap.replace.with_, keys, is_calibrated(swap), swap.handover]
                asks[swap.name] = json.dumps(says, default=str)
            if (site.path, asks[swap.name]) in self._specified:
                continue
            spec, _notes, _near = specify(self._found, site, swap, keys)
            original, kind = self._original(site.path)
            if (built := (_text(spec), kind)) not in self._built:
                keeps = replacement_named(spec.type).takes_original
                build_at(site, swap, spec, meta_twin(original) if keeps else original)
                self._built.add(built)
            biases(self._found, site, swap, keys)
            self._specified.add((site.path, asks[swap.name]))

    def _original(self, path: str) -> tuple[nn.Module, int]:
        """The layer at a site, and a number that layers of the same kind share."""
        if path not in self._at:
            layer = get(self._found.model, path)
            kind = self._kinds.setdefault(likeness(layer), len(self._kinds))
            self._at[path] = layer, kind
        return self._at[path]


def likeness(layer: nn.Module) -> str:
    """Equal for layers whose classes, settings and shapes are equal, whatever their weights."""
    parts = []
    for name, part in layer.named_modules():
        settings = [(key, _setting(value)) for key, value in vars(part).items() if key[0] != "_"]
        tensors = (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False))
        shapes = [(key, tuple(one.shape), str(one.dtype)) for key, one in tensors]
        parts.append((name, id(type(part)), sorted(settings), shapes))
    return repr(parts)


def _setting(value: object) -> str:
    """A plain value as text; anything else is equal to itself alone."""
    items = value if isinstance(value, tuple) else (value,)
    plain = all(one is None or isinstance(one, bool | int | float | str) for one in items)
    return repr(value) if plain else f"object {id(value)}"


def _text(spec: ModuleSpec) -> str:
    return json.dumps([spec.type, spec.args], default=str)
