"""The recipe: which layers to swap, for what, how to initialise it and what it must satisfy.

The docstrings below the fields are what an editor shows: `dcnify.recipe.schema` turns them into
the descriptions of the JSON Schema.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    model_validator,
)

from dcnify.graph.site import ROLES
from dcnify.recipe.finetune.section import Finetune
from dcnify.recipe.reading.origins import Origins
from dcnify.recipe.reading.shorthand import (
    AlsoWord,
    Count,
    Flag,
    ImageShape,
    Kernel,
    Number,
    Odd,
    OneOrMore,
    Pattern,
    Size,
    StageIndex,
    Text,
    ZeroOrMore,
    is_int,
    refuse,
    shown,
)
from dcnify.recipe.selection.where import Part, Range, Where

Role = Literal[ROLES]
METHODS = ("paper", "transfer", "fit", "calibrate")
FLASH = ("flash_intern_image", *(f"flash_intern_image_{size}" for size in "tsbl"))


class Select(Part):
    """Which sites a swap takes: those that pass every condition given here."""

    role: Role
    """What the layer does, as ``dcnify inspect`` shows it."""
    modules: OneOrMore[Pattern] | None = None
    """Patterns on module paths, one of which must match. ``*`` stands for one component,
    ``**`` for any number; "re:..." is a regular expression. A pattern also covers what lies
    beneath the modules it matches. Without it, every path passes."""
    stages: OneOrMore[StageIndex] | None = None
    """Stage numbers as ``dcnify inspect`` shows them, from 0. Without it, every stage passes."""
    where: Where = Where()
    """Conditions on facts such as the kernel size, which hold across model families."""


class Replace(Part):
    """The module that takes the place of a selected layer."""

    with_: Literal["dcnv4", "fused_dcnv3"] = Field(alias="with")
    """``dcnv4``; or, for role dcnv3, ``fused_dcnv3``: the same layer on the fused kernel, with the
    same outputs, to which no other key here applies."""
    like: Literal[FLASH] | None = None
    """Role dcnv3 only: make the layers those of the published FlashInternImage of the model's
    size, or of the size that is named. It decides every other key here, and which biases go."""
    kernel_size: Kernel = (3, 3)
    """Sampling points per query: 3 samples 3x3 of them. An integer or [h, w]."""
    group_channels: Size = 16
    """Channels that share one set of offsets and weights; the layer has channels divided by
    this many groups. Fewer channels per group fit the old layer better and cost more. Where
    the number does not divide a layer's channels, the plan takes a smaller one and says so."""
    dw_kernel_size: Odd | None = None
    """Kernel of the depthwise convolution that looks around before offsets are predicted.
    null predicts them from each position alone, which is the fastest."""
    pointwise: Flag = True
    """Linear projections before and after sampling. false where 1x1 convolutions already
    surround the layer."""
    offset_scale: Annotated[Number, Field(gt=0)] = 1.0
    """Factor on the sampling grid and on the predicted offsets."""
    softmax: Flag = False
    """Normalise the weights of a group with a softmax, as DCNv3 does."""
    remove_center: Flag = False
    """Leave out the sampling point in the middle; needs an odd kernel."""
    center_feature_scale: Flag = False
    """Blend the sampled value with the one in the middle by a learned gate per group."""
    prefix: Literal["attend", "mean", "identity"] | None = None
    """Attention only: what becomes of class and register tokens. ``attend`` (the default)
    keeps the original attention for them, ``mean`` gives them the mean of the tokens,
    ``identity`` passes them on."""

    @model_validator(mode="after")
    def _center_exists(self) -> Replace:
        if self.remove_center and not all(k % 2 for k in self.kernel_size):
            height, width = self.kernel_size
            words = f"an even kernel ({height}x{width}) has no center point to remove"
            raise refuse(words, at=("remove_center",))
        return self


_USUAL = {"batches": 16, "steps": 100, "model_steps": 100}
_MOST = {"batches": 1024, "steps": 100_000, "model_steps": 1_000_000}


class Init(Part):
    """One step of how the new module inherits from the old."""

    method: Literal[METHODS]
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
    def _replacement_fits_role(self) -> Swap:
        for key, given in (("with", self.replace.with_ != "dcnv4"), ("like", self.replace.like)):
            if given and self.select.role != "dcnv3":
                words = f"only for role dcnv3; this swap selects {self.select.role}"
                raise refuse(words, at=("replace", key))
        decided = "with" if self.replace.with_ != "dcnv4" else "like" if self.replace.like else ""
        if decided:
            for key in type(self.replace).model_fields:
                plain = Replace.model_fields[key].default
                if key not in ("with_", "like") and getattr(self.replace, key) != plain:
                    words = f"{decided}: {getattr(self.replace, decided.replace('with', 'with_'))}"
                    raise refuse(f"{words} decides this by itself", at=("replace", key))
        return self

    @model_validator(mode="after")
    def _init_can_run(self) -> Swap:
        methods = [step.method for step in self.init]
        if self.replace.with_ == "fused_dcnv3" and methods != ["transfer"]:
            raise refuse("with: fused_dcnv3 is exact and knows only transfer", at=("init",))
        if methods[0] == "calibrate":
            raise refuse("needs a start before it: transfer, fit or paper", at=("init", 0))
        if self.replace.with_ == "fused_dcnv3" and self.handover:
            words = "with: fused_dcnv3 is exact, so there is nothing to hand over"
            raise refuse(words, at=("handover",))
        return self

    @model_validator(mode="after")
    def _prefix_fits_role(self) -> Swap:
        if self.select.role == "attention":
            if self.replace.prefix is None:
                resolved = self.replace.model_copy(update={"prefix": "attend"})
                object.__setattr__(self, "replace", resolved)
        elif self.replace.prefix is not None:
            words = f"only for role attention; this swap selects {self.select.role}"
            raise refuse(words, at=("replace", "prefix"))
        return self


def _version(value: object) -> object:
    if is_int(value, 1) and value == 1:
        return value
    raise refuse(f"this dcnify reads version 1 of the format, got {shown(value)}")


class Recipe(Part):
    """A conversion, written down: ``dcnify convert SOURCE --recipe RECIPE`` carries it out."""

    version: Annotated[Literal[1], BeforeValidator(_version)]
    """Version of the format: 1."""
    name: Annotated[Text, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
    """Name of the recipe, as it appears in plans and reports: letters, digits, . - and _."""
    description: Text = ""
    """What it does, in a sentence."""
    input: ImageShape | None = None
    """Input to capture the model with, [channels, height, width]. Without it, the model's own."""
    swaps: Annotated[tuple[Swap, ...], Field(min_length=1)]
    """What to swap, in order."""
    certify: Certify | None = None
    """What the output must reach, for conversions that shall change nothing."""
    finetune: Finetune | None = None
    """How the converted model is trained. A list of stages stands for a mapping with them, and
    the name of a stage preset for a list of one."""

    _origins: Origins = PrivateAttr(default_factory=Origins)

    @model_validator(mode="after")
    def _names_differ(self) -> Recipe:
        names = [swap.name for swap in self.swaps]
        for i, name in enumerate(names):
            if name in names[:i]:
                words = f"a second swap named {name!r}; names must differ"
                raise refuse(words, at=("swaps", i, "name"))
        return self

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Recipe:
        """Load a built-in recipe by name, or a file.

        Text with a slash or ending in ``.yaml`` or ``.yml`` is a path. Otherwise a built-in of
        that name comes first, then a file of that name.

        Args:
            name_or_path: ``"convnext"``, ``"my/recipe.yaml"``.
            overrides: ``"swaps.late.replace.kernel_size=5"``; swaps by name or index.

        Raises:
            InputError: not found, not valid, with file, line, column and the nearest valid thing.
        """
        from dcnify.recipe.load import load

        return load(name_or_path, overrides)

    @classmethod
    def from_yaml(cls, text: str, name: str = "<string>", overrides: Iterable[str] = ()) -> Recipe:
        """Read a recipe from YAML text; errors begin with ``name``."""
        from dcnify.recipe.load import from_yaml

        return from_yaml(text, name, overrides)

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out; `from_yaml` is its inverse."""
        from dcnify.recipe.dump import to_yaml

        return to_yaml(self)

    @property
    def sha256(self) -> str:
        """Digest of `to_yaml`: equal for recipes that mean the same."""
        from dcnify.recipe.dump import sha256

        return sha256(self)

    @property
    def origins(self) -> Origins:
        """Where the recipe's keys and values were written, for errors about them."""
        return self._origins
