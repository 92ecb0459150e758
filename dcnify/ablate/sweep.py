"""The sweep: which choices of a recipe to try, and what to measure. Read from YAML."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dcnify.errors import InputError
from dcnify.recipe.builtin import Builtin, read_builtins
from dcnify.recipe.load import build, is_path, read_file
from dcnify.recipe.part import Document
from dcnify.recipe.reading.document import read_document
from dcnify.recipe.reading.origins import Origins
from dcnify.recipe.reading.shorthand import (
    Count,
    OneOrMore,
    Size,
    Text,
    is_int,
    refuse,
    shown,
)
from dcnify.words import did_you_mean

MEASURES = ("fidelity", "finetune", "latency", "throughput", "memory", "parameters", "flops")
Measure = Literal["fidelity", "finetune", "latency", "throughput", "memory", "parameters", "flops"]

Levels = Annotated[tuple[Any, ...], Field(min_length=1)]
"""The values of a factor; each may be anything that the recipe takes there."""


def _levels(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise refuse(f"expected a list of values to try, got {shown(value)}")
    if not value:
        raise refuse("no values to try: give at least one, or leave the factor out")
    if any(one == other for i, one in enumerate(value) for other in value[:i]):
        raise refuse("the same value twice")
    return tuple(value)


def _version(value: object) -> object:
    if is_int(value, 1) and value == 1:
        return value
    raise refuse(f"this dcnify reads version 1 of the format, got {shown(value)}")


class Sweep(Document):
    """Variants of one recipe: ``dcnify ablate run SWEEP --source S`` tries them all."""

    version: Annotated[Literal[1], BeforeValidator(_version)]
    """Version of the format: 1."""
    name: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    """Name of the sweep, as it appears in reports: letters, digits, . - and _."""
    description: Text = ""
    """The question that it answers, in a sentence."""
    recipe: Text = "convnext"
    """The base: a built-in recipe, or the path of a file, beginning at this one's folder."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Changes to the base that hold for every point, by path: ``finetune: [recover]``."""
    factors: dict[str, Annotated[Levels, BeforeValidator(_levels)]] = Field(default_factory=dict)
    """Values to try, by path in the recipe: ``swaps.dw7.replace.kernel_size: [3, 5]``. All
    combinations are tried."""
    points: tuple[dict[str, Any], ...] = ()
    """Single points, each a mapping from paths to values; tried besides the combinations."""
    base: dict[str, Any] | None = None
    """The point that the others are compared with; by default the first value of each factor."""
    drop: tuple[dict[str, Any], ...] = ()
    """Combinations to leave out: a point is dropped if it has every value of one of these. A list
    stands for any of its values."""
    sample: Size | None = None
    """Try so many combinations, drawn at random, always the same ones."""
    no_sites: Literal["refuse", "drop"] = "refuse"
    """What to do about a point whose selectors hit nothing: refuse the sweep, or drop the point."""
    seeds: OneOrMore[Count] = (0,)
    """Every point is tried with each of these seeds."""
    measure: OneOrMore[Measure] = ("fidelity",)
    """What to measure of each point. Fidelity always is."""

    @model_validator(mode="after")
    def _is_whole(self) -> Sweep:
        if not (self.factors or self.points):
            raise refuse("nothing to try: give factors or points")
        if self.sample is not None and not self.factors:
            raise refuse("is for factors, and there are none", at=("sample",))
        if len(set(self.seeds)) < len(self.seeds):
            raise refuse("the same seed twice", at=("seeds",))
        self._check_paths()
        return self

    def _check_paths(self) -> None:
        """Refuse paths of ``base`` and ``drop`` that no factor has, which would do nothing."""
        named: list[tuple[tuple[str | int, ...], dict[str, Any]]] = [(("base",), self.base or {})]
        named += [(("drop", i), one) for i, one in enumerate(self.drop)]
        known = dict.fromkeys((*self.factors, *(path for one in self.points for path in one)))
        for at, values in named:
            for path in values:
                if path not in known:
                    hint = did_you_mean(path, known, otherwise=f"; there is {', '.join(known)}")
                    raise refuse(f"{path!r} is not a factor{hint}", at=(*at, path))
        for i, one in enumerate(self.drop):
            if not one:
                raise refuse("an empty mapping would drop every point", at=("drop", i))

    @property
    def measured(self) -> tuple[str, ...]:
        """What is measured, in the order of `MEASURES`."""
        return tuple(one for one in MEASURES if one == "fidelity" or one in self.measure)

    def measuring(self, names: Sequence[str]) -> Sweep:
        """The sweep with other measurements; as it is if none are named.

        Raises:
            InputError: there is no such measurement.
        """
        told = [name.strip() for text in names for name in text.split(",") if name.strip()]
        for name in told:
            if name not in MEASURES:
                hint = did_you_mean(name, MEASURES, otherwise=f"; there is {', '.join(MEASURES)}")
                raise InputError(f"--measure {name}: no such measurement{hint}")
        return self.model_copy(update={"measure": tuple(told)}) if told else self

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str]) -> Sweep:
        """Load a sweep that ships by name, or a file.

        Raises:
            InputError: not found or not valid, with file, line, column and the nearest fix.
        """
        if not is_path(name_or_path) and (found := sweeps().get(os.fspath(name_or_path))):
            return cls.from_yaml(found.text, f"{found.name}.yaml (built-in)")
        if not is_path(name_or_path) and not os.path.exists(name_or_path):
            names = ", ".join(sweeps())
            hint = did_you_mean(os.fspath(name_or_path), sweeps(), otherwise=".")
            raise InputError(
                f"no sweep {os.fspath(name_or_path)!r}{hint} Built in: {names}; a file needs its "
                f"path, such as ./{os.fspath(name_or_path) or 'sweep'}.yaml"
            )
        sweep = cls.from_yaml(read_file(name_or_path), os.fspath(name_or_path))
        if is_path(sweep.recipe):
            beside = os.fspath(Path(name_or_path).parent / sweep.recipe)
            sweep = sweep.model_copy(update={"recipe": beside})
        return sweep

    @classmethod
    def from_yaml(cls, text: str, name: str = "<string>") -> Sweep:
        """Read a sweep from YAML text; errors begin with ``name``."""
        return build(*read_document(text, name), cls)

    @classmethod
    def of(cls, sweep: Sweep | str | os.PathLike[str] | Mapping[str, Any]) -> Sweep:
        """A sweep as it is, by name or path, or from a mapping with the keys of its file."""
        if isinstance(sweep, Sweep):
            return sweep
        if isinstance(sweep, Mapping):
            return build({"version": 1, "name": "sweep", **sweep}, Origins("sweep"), cls)
        return cls.load(sweep)


def sweeps() -> dict[str, Builtin]:
    """The sweeps that ship, by name in alphabetical order."""
    return read_builtins(resources.files("dcnify.recipes") / "ablations", Builtin)
