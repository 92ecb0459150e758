"""The recipe: which layers to swap, for what, how to initialise it and what it must satisfy.

The docstrings below the fields are what an editor shows: `dcnify.recipe.schema` turns them into
the descriptions of the JSON Schema.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from dcnify.recipe.by_role import Replace, Select, adopt_roles, fitted
from dcnify.recipe.dump import to_yaml
from dcnify.recipe.finetune.section import Finetune
from dcnify.recipe.load import build, source_text
from dcnify.recipe.part import Document, Part
from dcnify.recipe.reading.document import read_document
from dcnify.recipe.reading.origins import Origins
from dcnify.recipe.reading.override import Change, apply_overrides
from dcnify.recipe.reading.shorthand import (
    AlsoWord,
    Count,
    Flag,
    ImageShape,
    Number,
    OneOrMore,
    Pattern,
    Size,
    Text,
    ZeroOrMore,
    is_int,
    refuse,
    shown,
)
from dcnify.recipe.selection.where import Range
from dcnify.roles import ROLES
from dcnify.roles.base import on_register

METHODS = ("paper", "transfer", "fit", "calibrate")

_USUAL = {"batches": 16, "steps": 100, "model_steps": 100}
_MOST = {"batches": 1024, "steps": 100_000, "model_steps": 1_000_000}


class Init(Part):
    """One step of how the new module inherits from the old."""

    method: Literal["paper", "transfer", "fit", "calibrate"]
    """``transfer`` carries over what can be carried of the old layer's weights. ``fit`` chooses
    points, weights and groups to be as close to them as the new layer can be, without images.
    ``paper`` starts as published: zero output, so only for training from scratch. ``calibrate``,
    after one of them, fits the new layer to the old one on images, without labels."""
    batches: Size | None = None
    """``calibrate`` only: batches of four images to look at, at most; 16 by default."""
    steps: Count | None = None
    """``calibrate`` only: steps of gradient descent on each layer, after what has a closed form;
    100 by default, 0 for none."""
    model_steps: Count | None = None
    """``calibrate`` only: steps in which the converted model as a whole then learns from the
    original; 100 by default, 0 for none, which leaves all other layers as they are."""

    @model_validator(mode="after")
    def _options_fit_method(self) -> Init:
        for key, usual in _USUAL.items():
            if self.method == "calibrate" and getattr(self, key) is None:
                object.__setattr__(self, key, usual)
            elif self.method != "calibrate" and getattr(self, key) is not None:
                raise refuse(f"only for method calibrate, not for {self.method}", at=(key,))
            elif (getattr(self, key) or 0) > _MOST[key]:
                raise refuse(f"at most {_MOST[key]}", at=(key,))
        return self


def _step(value: object) -> object:
    if isinstance(value, str):
        return {"method": value}
    if isinstance(value, dict | Init):
        return value
    *most, last = map(repr, METHODS)
    raise refuse(f"expected {', '.join(most)} or {last}, got {shown(value)}")


InitStep = Annotated[Init, BeforeValidator(_step), AlsoWord(METHODS)]


class Require(Part):
    """What the swapped layer must reach against the original, measured on real activations."""

    sqnr_db: Number
    """Least signal-to-error ratio of the layer's output, in decibels."""
    on_violation: Literal["revert", "warn", "fail"] = "fail"
    """``revert`` puts the original layer back, ``warn`` says so, ``fail`` stops with
    exit code 3."""


class RequireOutput(Part):
    """What the converted model's output must reach against the original's, on the images of the
    fidelity. Not checked where it says nothing: with ``init: paper``, and on untrained models."""

    agreement: Annotated[Number, Field(ge=0, le=1)] | None = None
    """Least share of images for which both models predict the same class."""
    kl: Annotated[Number, Field(ge=0)] | None = None
    """Largest mean KL divergence of the converted model's predictions from the original's, in
    nats."""
    cosine: Annotated[Number, Field(ge=-1, le=1)] | None = None
    """Least cosine between the outputs, for models that do not return classes too."""
    on_violation: Literal["revert", "warn", "fail"] = "fail"
    """``revert`` puts original layers back until the rest is met, those first that err and cost
    most; ``warn`` says so, ``fail`` stops with exit code 3."""

    @model_validator(mode="after")
    def _asks_something(self) -> RequireOutput:
        if self.agreement is self.kl is self.cosine is None:
            raise refuse("give at least one of agreement, kl, cosine")
        return self


class Certify(Part):
    """What the whole converted model must reach, or the conversion fails with exit code 3."""

    relative_error: Annotated[Number, Field(gt=0)]
    """Largest norm of the outputs' difference over the norm of the original's outputs. For a
    model in float16 or bfloat16 at least 8 of its rounding steps are allowed."""


class Expect(Range):
    """How many sites a swap should select; anything else stops with exit code 3."""

    min: Count | None = None
    """Fewest sites that are acceptable. Zero hits are an error even without it."""
    max: Count | None = None
    """Most sites that are acceptable."""


class Swap(Part):
    """One kind of layer, and what takes its place."""

    name: Annotated[Text, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")]
    """A name of letters, digits, - and _. It stands in reports and in ``--set swaps.NAME...``."""
    select: Select
    """Which sites this swap takes. The first swap that selects a site has it."""
    exclude: ZeroOrMore[Pattern] = ()
    """Patterns on module paths, and what lies beneath them, to leave alone."""
    expect: Expect | None = None
    """How many sites this swap should select. Zero hits are always an error."""
    replace: Replace
    """The module that takes their place."""
    init: OneOrMore[InitStep] = (Init(method="transfer"),)
    """How the new module starts: a method, or a list of steps that run in order."""
    require: Require | None = None
    """What each swapped layer must reach."""
    handover: Flag = False
    """Keep the old layer beside the new one, blended, so that training starts at the exact
    original function. It goes when its share has come down to 0."""

    @model_validator(mode="after")
    def _fits_role(self) -> Swap:
        replace = fitted(self.replace, self.select.role)
        object.__setattr__(self, "replace", replace)
        replacement = ROLES[self.select.role].replacements[replace.with_]
        unknown = {step.method for step in self.init} - set(replacement.methods)
        if unknown:
            exact = "is exact and " if replacement.exact else ""
            words = f"with: {replace.with_} {exact}knows only {', '.join(replacement.methods)}"
            raise refuse(words, at=("init",))
        if self.init[0].method == "calibrate":
            raise refuse("needs a start before it: transfer, fit or paper", at=("init", 0))
        if replacement.exact and self.handover:
            words = f"with: {replace.with_} is exact, so there is nothing to hand over"
            raise refuse(words, at=("handover",))
        return self


def _version(value: object) -> object:
    if is_int(value, 1) and value == 1:
        return value
    raise refuse(f"this dcnify reads version 1 of the format, got {shown(value)}")


class Recipe(Document):
    """A conversion, written down: ``dcnify convert SOURCE --recipe RECIPE`` carries it out."""

    version: Annotated[Literal[1], BeforeValidator(_version)]
    """Version of the format: 1."""
    name: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    """Name of the recipe, as it appears in plans and reports: letters, digits, . - and _."""
    description: Text = ""
    """What it does, in a sentence."""
    input: ImageShape | None = None
    """Input to capture the model with, [channels, height, width]. Without it, the model's own."""
    swaps: Annotated[tuple[Swap, ...], Field(min_length=1, max_length=1000)]
    """What to swap, in order."""
    require: RequireOutput | None = None
    """What the output must reach, lest a conversion that lost everything passes for a success."""
    certify: Certify | None = None
    """What the output must reach, for conversions that shall change nothing."""
    finetune: Finetune | None = None
    """How the converted model is trained. A list of stages stands for a mapping with them, and
    the name of a stage preset for a list of one."""

    @model_validator(mode="after")
    def _names_differ(self) -> Recipe:
        names: set[str] = set()
        for i, swap in enumerate(self.swaps):
            if swap.name in names:
                words = f"a second swap named {swap.name!r}; names must differ"
                raise refuse(words, at=("swaps", i, "name"))
            names.add(swap.name)
        return self

    @classmethod
    def load(
        cls, name_or_path: str | os.PathLike[str], overrides: Iterable[str | Change] = ()
    ) -> Recipe:
        """Load a built-in recipe by name, or a file.

        Text with a slash or ending in ``.yaml`` or ``.yml`` is a path. Otherwise a built-in of
        that name comes first, then a file of that name.

        Args:
            name_or_path: ``"convnext"``, ``"my/recipe.yaml"``.
            overrides: ``"swaps.late.replace.kernel_size=5"``; swaps by name or index.

        Raises:
            InputError: not found, not valid, with file, line, column and the nearest valid thing.
        """
        text, origin = source_text(name_or_path)
        return cls.from_yaml(text, origin, overrides)

    @classmethod
    def from_yaml(
        cls, text: str, name: str = "<string>", overrides: Iterable[str | Change] = ()
    ) -> Recipe:
        """Read a recipe from YAML text; errors begin with ``name``."""
        return cls.from_data(*read_document(text, name), overrides)

    @classmethod
    def from_data(
        cls, data: dict[str, Any], origins: Origins, overrides: Iterable[str | Change] = ()
    ) -> Recipe:
        """Build a recipe from a document that was read; ``origins`` has the places of its keys."""
        recipe = build(*apply_overrides(data, origins, overrides, cls), cls)
        if recipe.finetune is not None:
            recipe.finetune._origins = recipe.origins.within(("finetune",))
        return recipe

    def warning_by_default(self) -> Recipe:
        """The recipe, with a ``require`` of the output that only warns unless it says what it does.

        For a conversion that is trained on at once: its output is not what will be used.
        """
        require = self.require
        if require is None or "on_violation" in require.model_fields_set:
            return self
        return self.model_copy(
            update={"require": require.model_copy(update={"on_violation": "warn"})}
        )

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out; `from_yaml` is its inverse."""
        return to_yaml(self)

    @property
    def sha256(self) -> str:
        """Digest of `to_yaml`: equal for recipes that mean the same."""
        return hashlib.sha256(self.to_yaml().encode()).hexdigest()


@on_register
def _rebuild() -> None:
    """Let recipes name a role that is registered after this module was imported."""
    adopt_roles()
    Swap.model_rebuild(force=True)
    Recipe.model_rebuild(force=True)
