"""How images become a model's input: mean, deviation and resampling that its weights expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dcnify.errors import InputError
from dcnify.words import did_you_mean

INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
_MOST = 4096
"""Channels that a file may state numbers for."""
_LARGEST = 1e6


class Statistics(NamedTuple):
    """Normalisation and resampling of images; None for what is unknown."""

    mean: tuple[float, ...] | None = None
    """By channel, of pixels from 0 to 1, as is ``std``."""
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    """One of `INTERPOLATIONS`."""

    @classmethod
    def of(cls, config: Any) -> Statistics:
        """Read timm's ``pretrained_cfg``, or a report's ``images``.

        What is missing or malformed is unknown.
        """
        known = config if isinstance(config, Mapping) else {}
        resampled = known.get("interpolation")
        return cls(
            _numbers(known.get("mean"), -_LARGEST),
            _numbers(known.get("std"), 0.0),
            resampled if resampled in INTERPOLATIONS else None,
        )

    @classmethod
    def parse(cls, mean: str | None, std: str | None, interpolation: str | None) -> Statistics:
        """Read what a person gave: one number for all channels, or one for each.

        Raises:
            InputError: not such numbers, or an unknown interpolation.
        """
        if interpolation is not None and interpolation not in INTERPOLATIONS:
            otherwise = f", expected {', '.join(INTERPOLATIONS)}"
            hint = did_you_mean(interpolation, INTERPOLATIONS, otherwise=otherwise)
            raise InputError(f"--interpolation {interpolation}{hint}")
        return cls(_parsed("--mean", mean), _parsed("--std", std), interpolation)

    def over(self, others: Statistics) -> Statistics:
        """Return these, and the others' for what is unknown."""
        return Statistics(**{**others.known(), **self.known()})

    def known(self) -> dict[str, Any]:
        """Return what is known, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return what is known as JSON-ready data."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in self.known().items()}

    def __str__(self) -> str:
        return ", ".join(f"{name} {_shown(value)}" for name, value in self.known().items())


UNKNOWN = Statistics()
IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
"""Those of a model that does not state its own."""


def pretrained_cfg_of(model: Any) -> dict[str, Any]:
    """Return timm's ``pretrained_cfg`` of a model; an empty one for other models."""
    config = getattr(model, "pretrained_cfg", None)
    return config if isinstance(config, dict) else {}


def expect(model: Any, config: Mapping[str, Any]) -> None:
    """Update ``pretrained_cfg``, where timm looks for what a model expects of its images."""
    if config:
        model.pretrained_cfg = model.default_cfg = {**pretrained_cfg_of(model), **config}


def by_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value per channel: their mean for a single channel, else repeated in turn, as RGB is."""
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[index % len(values)] for index in range(channels))


def _numbers(value: Any, above: float) -> tuple[float, ...] | None:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= _MOST:
        return None
    if not all(type(one) in (int, float) and above < one < _LARGEST for one in value):
        return None
    return tuple(value)


def _parsed(flag: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        parts = str(text).strip("[()]").replace(",", " ").split()
        values = tuple(float(part) for part in parts)
    except ValueError:
        values = ()
    if not values:
        raise InputError(f"{flag} {text}: expected 0.5, or one for each channel: 0.5,0.5,0.5")
    for value in values:
        if not 0 <= value <= 1 or (flag == "--std" and not value):
            hint = f", did you mean {value / 255:.4g}?" if 1 < value <= 255 else ""
            raise InputError(f"{flag} {text}: pixels are from 0 to 1, and {value:g} is not{hint}")
    return values * 3 if len(values) == 1 else values


def _shown(value: Any) -> str:
    """``0.5`` for (0.5, 0.5, 0.5), else all numbers."""
    if isinstance(value, str):
        return value
    return ",".join(f"{one:.4g}" for one in (value if len(set(value)) > 1 else value[:1]))
