"""The parts of a fine-tuning stage: optimizer, schedule, losses, augmentation, handover.

Plain data; optimizers, schedules and augmentation are timm's.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from dcnify.recipe.part import Part
from dcnify.recipe.reading.explain import did_you_mean
from dcnify.recipe.reading.shorthand import Number, Size, Text, refuse, shown

Share = Annotated[Number, Field(ge=0, le=1)]
Weight = Annotated[Number, Field(ge=0)]

_Schedule = Literal["cosine", "tanh", "step", "multistep", "poly", "none"]
SCHEDULES = get_args(_Schedule)
USUAL_OPTIMIZERS = ("adamw", "sgd", "adam", "nadamw", "lamb", "lion", "adafactor", "muon")
"""Known without importing timm, which takes seconds."""
_ELSEWHERE = {
    **{key: f"give it as optimizer.{key}" for key in ("lr", "weight_decay", "layer_decay")},
    **dict.fromkeys(("params", "model_or_params"), "what is trained is the stage's 'train'"),
    "opt": "give it as optimizer.name",
}


def _schedule_name(value: Any) -> Any:
    if value == "plateau":
        raise refuse(
            "plateau follows a measure of the model, so it cannot be laid out over the steps of a "
            f"stage; there is {', '.join(SCHEDULES)}"
        )
    return value


class Schedule(Part):
    """The learning rate over the steps of a stage."""

    name: Annotated[_Schedule, BeforeValidator(_schedule_name)] = "cosine"
    """One of timm's schedulers; ``none`` keeps the learning rate after the warm-up."""
    warmup: Share = 0.05
    """Share of the stage's steps in which the learning rate rises."""
    warmup_lr: Share = 0.0
    """Learning rate of the first step, as a share of ``lr``."""
    min_lr: Share = 0.0
    """Learning rate at the end, as a share of ``lr``."""


def _optimizer_name(name: str) -> str:
    if name not in USUAL_OPTIMIZERS:
        from timm.optim import list_optimizers

        known = list_optimizers()
        if name not in known:
            hint = did_you_mean(name, known) or f". Usual: {', '.join(USUAL_OPTIMIZERS)}"
            raise refuse(f"timm has no optimizer {shown(name)}{hint}")
    return name


def _rate(value: float) -> float:
    if value == 0:
        raise refuse("a learning rate of 0 trains nothing")
    if value < 0:
        raise refuse(f"expected more than 0, got {shown(value)}")
    return value


def _is_argument(value: Any) -> bool:
    if isinstance(value, int | float):
        return abs(value) < 2**63 if isinstance(value, int) else math.isfinite(value)
    return isinstance(value, str)


def _options(value: Any) -> dict[str, Any]:
    """Return the options sorted by name, with lists as tuples."""
    if not isinstance(value, dict):
        raise refuse(f"expected a mapping such as {{betas: [0.9, 0.95]}}, got {shown(value)}")
    found = {}
    for key in sorted(value):
        given = value[key]
        if not key.isidentifier():
            raise refuse(f"{shown(key)} is not the name of an argument", at=(key,))
        if key in _ELSEWHERE:
            raise refuse(_ELSEWHERE[key], at=(key,))
        listed = isinstance(given, list | tuple)
        if not all(map(_is_argument, given if listed else [given])):
            raise refuse(f"expected a value or a list of values, got {shown(given)}", at=(key,))
        found[key] = tuple(given) if listed else given
    return found


_VALUE = {"type": ["boolean", "number", "string"]}
Options = Annotated[
    dict[str, Any],
    BeforeValidator(_options),
    WithJsonSchema(
        {
            "type": "object",
            "additionalProperties": {"anyOf": [_VALUE, {"type": "array", "items": _VALUE}]},
        }
    ),
]


class Optimizer(Part):
    """The optimizer and its learning rate."""

    name: Annotated[Text, AfterValidator(_optimizer_name)] = "adamw"
    """Any optimizer that timm knows (``timm.optim.list_optimizers()``)."""
    lr: Annotated[
        Number, AfterValidator(_rate), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})
    ]
    """The largest learning rate of the stage."""
    lr_scaling: Literal["none", "sqrt", "linear"] = "none"
    """How ``lr`` grows with ``batch_size / lr_base``: not at all, with its root, or with it."""
    lr_base: Size = 256
    """Batch size at which ``lr`` is as written; for ``lr_scaling``."""
    weight_decay: Weight = 0.05
    """Decay of weights; biases and norms have none."""
    offset_lr: Weight = 0.1
    """Factor on the learning rate of the layers that predict offsets and weights in DCNv4; 0.1
    as published."""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] | None = None
    """Factor on the learning rate from each group of layers to the one before it, from the
    head to the stem. null for one rate everywhere."""
    clip: Annotated[Number, Field(gt=0)] | None = 1.0
    """Largest norm of the gradient; null for no limit."""
    options: Options = Field(default_factory=dict)
    """More arguments of the optimizer, such as {betas: [0.9, 0.95]}."""

    def __hash__(self) -> int:
        return hash(tuple(tuple(v.items()) if isinstance(v, dict) else v for _, v in self))


class Losses(Part):
    """The loss: a weighted sum. A weight of 0 leaves a term out."""

    labels: Weight = 1.0
    """Cross-entropy with the labels."""
    logits: Weight = 0.0
    """Distance of the model's logits from the original's: KL divergence of their softmax."""
    temperature: Annotated[Number, Field(gt=0)] = 2.0
    """Temperature of that softmax."""
    features: Weight = 0.0
    """Relative squared error of the swapped layers' outputs in the model, against the original's
    at the same places."""
    layers: Weight = 0.0
    """Relative squared error of each swapped layer alone, on the input of the original layer."""

    @model_validator(mode="after")
    def _some_weight(self) -> Losses:
        if not (self.labels or self.logits or self.features or self.layers):
            words = "every weight is 0, so there is nothing to learn"
            raise refuse(f"{words}; give labels, logits, features or layers one")
        return self


def _span(most: float, words: str) -> BeforeValidator:
    def check(value: Any) -> tuple[float, float]:
        if isinstance(value, list | tuple) and len(value) == 2:
            low, high = value
            numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in value)
            if numbers and 0 < low <= high <= most:
                return (float(low), float(high))
        raise refuse(f"expected {words}, got {shown(value)}")

    return BeforeValidator(check)


def _span_schema(most: float) -> WithJsonSchema:
    number = {"type": "number", "exclusiveMinimum": 0, "maximum": most}
    return WithJsonSchema({"type": "array", "items": number, "minItems": 2, "maxItems": 2})


_Shares = Annotated[
    tuple[float, float],
    _span(1.0, "[smallest, largest] shares of the image, above 0 and up to 1"),
    _span_schema(1.0),
]
_Ratios = Annotated[
    tuple[float, float],
    _span(100.0, "[smallest, largest] ratios, above 0 and up to 100"),
    _span_schema(100.0),
]


_POLICY = re.compile(r"(rand|augmix|originalr?|v0r?|3a)(-t3aw?|-[a-z]+[0-9.]*)*")


def _policy(value: str) -> str:
    if not _POLICY.fullmatch(value):
        words = "a policy of timm such as 'rand-m9-mstd0.5-inc1', 'augmix-m5-w4-d2' or '3a'"
        raise refuse(f"expected {words}, got {shown(value)}")
    return value


class Augment(Part):
    """Augmentation of training images, by timm; ``augment: none`` leaves them as in validation."""

    crop_scale: _Shares = (0.08, 1.0)
    """Share of the image's area that a crop has: [smallest, largest]."""
    crop_ratio: _Ratios = (3 / 4, 4 / 3)
    """Width of a crop over its height: [smallest, largest]."""
    hflip: Share = 0.5
    """Probability that an image is mirrored."""
    vflip: Share = 0.0
    """Probability that an image is turned upside down."""
    color_jitter: Weight | None = None
    """Strength of changes of brightness, contrast and saturation; null for none."""
    auto: Annotated[Text, AfterValidator(_policy)] | None = None
    """A policy of timm's auto-augment, such as "rand-m9-mstd0.5-inc1"; null for none."""
    erase: Share = 0.0
    """Probability that a random rectangle is erased."""
    mixup: Weight = 0.0
    """Alpha of mixup, which blends two images and their labels; 0 for none."""
    cutmix: Weight = 0.0
    """Alpha of CutMix, which pastes a part of one image into another; 0 for none."""
    mix_prob: Share = 1.0
    """Probability that a batch is mixed, where ``mixup`` or ``cutmix`` is given."""
    smoothing: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    """Share of the label that is spread over all classes."""


UNCHANGED = {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0], "hflip": 0.0}
"""What ``augment: none`` stands for."""


class HandOver(Part):
    """The steps in which old layers hand over to the new ones (``handover: true`` on a swap)."""

    until: Annotated[Number, Field(gt=0, le=1)] = 0.8
    """Share of the stage's steps after which only the new layers run."""
    schedule: Literal["cosine", "linear"] = "cosine"
    """Shape of the fall of the old layers' share."""
