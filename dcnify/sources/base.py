"""The base: how to build the unconverted architecture again, from plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from dcnify.errors import InputError
from dcnify.sources import timm_models, torchvision_models, transformers_models
from dcnify.sources.factory import call_factory
from dcnify.words import shortened

# Arguments that reach for files, the network or another model; an artifact may not set them.
_NOT_ARCHITECTURE = {
    "cache_dir",
    "checkpoint_path",
    "device",
    "dtype",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_model_args",
    "weights",
    "weights_backbone",
}
KINDS = ("timm", "torchvision", "transformers", "python")
_LARGEST = 10**7
_LONGEST_NAME = 300
_LONGEST, _MOST_NAMES = 1000, 10**5
"""Entries of a list or a mapping; of a mapping that holds single values, names of classes say."""


@dataclass(frozen=True)
class Base:
    """How to build the unconverted architecture again.

    Raises:
        InputError: ``args`` is not JSON-serializable, or the kind is unknown.
    """

    kind: str
    """One of `KINDS`."""
    name: str
    """A name of timm or torchvision (``convnext_tiny``), a class of transformers, or
    ``package.module:factory``."""
    args: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of `timm.create_model`, `torchvision.models.get_model` or the factory; for
    transformers, entries of the config."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(
                f"a base is of kind {' or '.join(map(repr, KINDS))}, not {self.kind!r}"
            )
        try:
            plain = json.loads(json.dumps(dict(self.args), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"{self}: arguments must be plain data ({error})") from None
        object.__setattr__(self, "args", plain)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    def to_dict(self) -> dict[str, Any]:
        """The base as JSON-ready data."""
        return {"kind": self.kind, "name": self.name, "args": self.args}

    @classmethod
    def from_dict(cls, data: Any) -> Base:
        """Read what `to_dict` wrote, even if a stranger wrote it.

        Raises:
            InputError: not a base, or its arguments are out of range or name a file or a download.
        """
        if not isinstance(data, dict) or set(data) != {"kind", "name", "args"}:
            raise InputError("the base must have exactly 'kind', 'name' and 'args'")
        if not isinstance(data["name"], str) or not isinstance(data["args"], dict):
            raise InputError("the base's name must be text and its args a mapping")
        if len(data["name"]) > _LONGEST_NAME:
            raise InputError(f"the base's name has {len(data['name'])} characters")
        allowed = {"dtype"} if data["kind"] == "transformers" else set()
        refused = sorted(_NOT_ARCHITECTURE & set(data["args"]) - allowed)
        if refused:
            raise InputError(f"the base may not set {', '.join(refused)}")
        if data["kind"] != "python" and ":" in data["name"]:
            raise InputError(
                f"the base names a place ({data['name']!r}), not a {data['kind']} architecture"
            )
        _check_size(data["args"])
        return cls(data["kind"], data["name"], data["args"])

    def build(self) -> nn.Module:
        """Build the architecture with fresh weights."""
        if self.kind == "python":
            return call_factory(self.name, self.args)
        if self.kind == "transformers":
            return transformers_models.create(self.name, self.args)
        names = torchvision_models if self.kind == "torchvision" else timm_models
        return names.create(self.name, self.args)


def architecture_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of `timm.create_model` arguments that describe the architecture, JSON-ready."""
    kept = {}
    for key, value in args.items():
        if key in _NOT_ARCHITECTURE or value is None:
            continue
        try:
            kept[key] = json.loads(json.dumps(value))
        except (TypeError, ValueError):
            continue
    _check_size(kept)
    return kept


def _check_size(value: Any, depth: int = 0) -> None:
    if depth > 5:
        raise InputError("arguments of the architecture are nested too deeply")
    single = isinstance(value, dict) and all(isinstance(one, str | int) for one in value.values())
    if isinstance(value, dict | list) and len(value) > (_MOST_NAMES if single else _LONGEST):
        raise InputError(f"arguments of the architecture hold a list of {len(value)} entries")
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and not abs(value) <= _LARGEST
    ):
        raise InputError(f"arguments of the architecture hold the number {shortened(value)}")
    for item in [*value, *value.values()] if isinstance(value, dict) else ():
        _check_size(item, depth + 1)
    for item in value if isinstance(value, list) else ():
        _check_size(item, depth + 1)
