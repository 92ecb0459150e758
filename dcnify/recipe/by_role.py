"""The parts of a recipe that ask the roles: what a swap may select, and what may take its place.

Facts and keys that a role declares become fields here, so that errors, the JSON Schema and a
written recipe treat them like any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from dcnify.graph.site import Facts, Pair
from dcnify.recipe.part import Part
from dcnify.recipe.reading.shorthand import (
    Flag,
    Kernel,
    Number,
    Odd,
    OneOrMore,
    Pattern,
    Size,
    StageIndex,
    refuse,
)
from dcnify.recipe.selection.where import IntFact, PairFact, Where
from dcnify.roles import ROLES, Key


class Select(Part):
    """Which sites a swap takes: those that pass every condition given here."""

    role: str
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

    with_: str = Field(alias="with")
    """``dcnv4``, or a replacement of one role that computes the same as the old layer, to which no
    other key here applies."""
    kernel_size: Kernel = (3, 3)
    """Sampling points per query: 3 samples 3x3 of them. An integer or [h, w]."""
    group_channels: Size = 16
    """Channels that share one set of offsets and weights; the layer has channels divided by
    this many groups. Fewer channels per group fit the old layer better and cost more. Where
    the number does not divide a layer's channels, the plan takes a smaller one and says so."""
    dw_kernel_size: Odd | None = None
    """Kernel of the depthwise convolution that looks around before offsets are predicted.
    null predicts them from each position alone, which is the fastest."""
    offset_rank: Size | None = None
    """Predict offsets and weights through a bottleneck of this many channels, which bounds the
    parameters and FLOPs of wide layers. null predicts them from all channels at once, as does any
    layer in which the bottleneck would save nothing."""
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

    @model_validator(mode="after")
    def _center_exists(self) -> Replace:
        if self.remove_center and not all(k % 2 for k in self.kernel_size):
            height, width = self.kernel_size
            words = f"an even kernel ({height}x{width}) has no center point to remove"
            raise refuse(words, at=("remove_center",))
        return self


def fitted(replace: Replace, role: str) -> Replace:
    """Return ``replace`` with the defaults of ``role``.

    Raises:
        PydanticCustomError: it says something that sites of this role cannot be given.
    """
    replacement = ROLES[role].replacements.get(replace.with_)
    if replacement is None:
        homes = [one.name for one in ROLES.values() if replace.with_ in one.replacements]
        raise _not_for(role, homes, "with")
    known = Replace.model_fields
    given = [key for key in known if key != "with_" and getattr(replace, key) != known[key].default]
    decides = next(
        (key for key in given if key in replacement.keys and replacement.keys[key].decides), None
    )
    by = "with_" if replacement.exact else decides
    for key in given:
        homes = [one for one in ROLES if key in _keys_of(one)]
        if homes and role not in homes:
            raise _not_for(role, homes, key)
        if key in replacement.refuses:
            raise refuse(replacement.refuses[key], at=("replace", key))
        if by is not None and key != by:
            free = (n for n, one in ROLES[role].replacements.items() if not one.exact)
            other = f"with: {next(free, 'dcnv4')}" if replacement.exact else f"{by}: null"
            words = f"{by.rstrip('_')}: {getattr(replace, by)} decides this by itself"
            words += f"; '{other}' lets you choose"
            raise refuse(words, at=("replace", key))
    own = {key: one.default for key, one in replacement.keys.items() if one.default}
    defaults = {key: default for key, default in own.items() if key not in given}
    return replace.model_copy(update=defaults) if defaults else replace


def _keys_of(role: str) -> dict[str, Key]:
    return {k: key for one in ROLES[role].replacements.values() for k, key in one.keys.items()}


def _not_for(role: str, homes: Iterable[str], key: str) -> Exception:
    words = f"only for role {' or '.join(homes)}; this swap selects {role}"
    return refuse(words, at=("replace", key))


def adopt_roles() -> None:
    """Give the parts of a recipe the fields and words of all registered roles."""
    roles: list[Any] = list(Facts.of_role.values())
    facts = {one.name: one for kind in roles if is_dataclass(kind) for one in fields(kind)}
    for name, one in facts.items():
        if one.metadata.get("where"):
            kind = PairFact if one.type in (Pair, "Pair") else IntFact
            Where.model_fields[name] = _optional(kind, one.metadata["where"])
    for name in Where.__annotations__:  # facts that all sites have come last
        Where.model_fields[name] = Where.model_fields.pop(name)
    for role in ROLES:
        for name, key in _keys_of(role).items():
            Replace.model_fields[name] = _optional(Literal[key.choices], key.help)
    words = dict.fromkeys(word for role in ROLES.values() for word in role.replacements)
    # Known only at run time, so no static type.
    Replace.model_fields["with_"].annotation = cast(Any, Literal[tuple(words)])
    Select.model_fields["role"].annotation = cast(Any, Literal[tuple(ROLES)])
    Where.model_rebuild(force=True)
    Replace.model_rebuild(force=True)
    Select.model_fields["where"].default = Where()
    Select.model_rebuild(force=True)


def _optional(kind: Any, description: str) -> FieldInfo:
    return FieldInfo(annotation=kind | None, default=None, description=description)


adopt_roles()
