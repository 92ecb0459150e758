"""Checks of the arguments of `InternImage`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dcnify.errors import InputError


def check_arguments(
    core_op: str,
    depths: Sequence[int],
    groups: Sequence[int],
    layer_scale: float | None,
    res_post_norm: bool,
) -> None:
    """Raise `InputError` unless the arguments of `InternImage` go together."""
    if not re.fullmatch("dcnv[34]", core_op):
        raise InputError(f"core_op is 'dcnv3' or 'dcnv4', not {core_op!r}")
    if len(depths) != len(groups) or not depths:
        raise InputError(f"depths {tuple(depths)} and groups {tuple(groups)} differ in length")
    if layer_scale is not None and res_post_norm:
        raise InputError("layer_scale and res_post_norm do not go together")


def check_block_ids(block_ids: Sequence[int], depths: Sequence[int]) -> None:
    """Raise `InputError` unless ``block_ids`` are different blocks of the third level."""
    deep = depths[2] if len(depths) > 2 else 0
    wrong = [number for number in block_ids if not 0 <= number < deep]
    if wrong or len(set(block_ids)) != len(block_ids):
        raise InputError(
            f"post_norm_block_ids {tuple(block_ids)} must be different blocks of the third level, "
            f"which has {deep}"
        )
