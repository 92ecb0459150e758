"""From a site and a recipe's ``replace`` to the exact arguments of the module that goes there."""

from __future__ import annotations

from typing import Any

from dcnify.errors import InputError
from dcnify.roles import ROLES, Site
from dcnify.roles.base import Found, Keys
from dcnify.surgery.plan import ModuleSpec

LARGEST_KERNEL = 63
"""Beyond any published kernel; the offset projection grows with its square."""


_ARGUMENTS = (
    "offset_scale",
    "dw_kernel_size",
    "softmax",
    "remove_center",
    "center_feature_scale",
    "pointwise",
)
"""Keys of a recipe's ``replace`` that are arguments of adapters."""


def resolve(
    found: Found, site: Site, replacement: str, keys: Keys
) -> tuple[ModuleSpec, tuple[str, ...]]:
    """Return the module for ``site``, and notes on what was adapted to it.

    Args:
        found: what ``site`` is one of.
        site: where the module goes.
        replacement: the recipe's ``with``.
        keys: the other keys of its ``replace``.
    """
    made = ROLES[site.role].replacements[replacement]
    kernel = keys["kernel_size"]
    own, notes = made.arguments(found, site, kernel, keys)
    if made.exact:
        return ModuleSpec(made.adapter, own), notes
    if max(kernel) > LARGEST_KERNEL:
        raise InputError(f"kernel_size {max(kernel)} at {site.path}: at most {LARGEST_KERNEL}")
    wanted = keys["group_channels"]
    channels = own.get("channels", site.channels)
    width = group_width(channels, wanted)
    if width != wanted and "groups" not in own:
        text = f"{width} channels per group: {wanted} does not divide {channels}"
        notes = (text, *notes)
    args: dict[str, Any] = {
        "channels": channels,
        "kernel_size": list(kernel),
        "groups": channels // width,
        **{name: keys[name] for name in _ARGUMENTS},
    }
    rank, points = keys["offset_rank"], kernel[0] * kernel[1] - keys["remove_center"]
    outputs = 3 * args["groups"] * points
    if rank is not None and rank * (site.channels + outputs) < site.channels * outputs:
        args["offset_rank"] = rank
    return ModuleSpec(made.adapter, {**args, **own}), notes


def group_width(channels: int, wanted: int) -> int:
    """The divisor of ``channels`` nearest below ``wanted``; multiples of 8, then 4, come first.

    Those widths are read with 16-byte loads at 16 and 32 bits per number.
    """
    if channels % wanted == 0:
        return wanted
    divisors = [d for d in range(1, min(wanted, channels) + 1) if channels % d == 0]
    for multiple in (8, 4, 1):
        fitting = [d for d in divisors if d % multiple == 0]
        if fitting:
            return fitting[-1]
    return 1
