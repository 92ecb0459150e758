"""From a site and a recipe's ``replace`` to the exact arguments of the module that goes there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dcnify.errors import InputError
from dcnify.graph.site import Site
from dcnify.roles.dcnv3.flash_internimage import Like
from dcnify.roles.find import Found
from dcnify.roles.registry import REPLACEMENTS
from dcnify.surgery.plan import ModuleSpec

if TYPE_CHECKING:
    from dcnify.recipe import Replace


LARGEST_KERNEL = 63
"""Beyond any published kernel; the offset projection grows with its square."""


def resolve(
    found: Found, site: Site, replace: Replace, like: Like | None = None
) -> tuple[ModuleSpec, tuple[str, ...]]:
    """The module for ``site``, and notes on what was adapted to it.

    ``like`` is the published architecture whose layer is wanted, where the recipe names one.
    """
    role = REPLACEMENTS[site.role, replace.with_]
    if replace.with_ != "dcnv4":
        args, notes = role.arguments(found, site, site.kernel, replace)
        return ModuleSpec(role.adapter, args), notes
    if like is not None:
        own, notes = role.arguments(found, site, site.kernel, replace)
        return ModuleSpec(role.adapter, {**like.arguments(found, site), **own}), notes
    width = group_width(site.channels, replace.group_channels)
    notes: list[str] = []
    if width != replace.group_channels:
        notes.append(
            f"{width} channels per group: {replace.group_channels} does not divide {site.channels}"
        )
    kernel = replace.kernel_size
    args: dict[str, Any] = {
        "channels": site.channels,
        "kernel_size": list(kernel),
        "groups": site.channels // width,
        "offset_scale": replace.offset_scale,
        "dw_kernel_size": replace.dw_kernel_size,
        "softmax": replace.softmax,
        "remove_center": replace.remove_center,
        "center_feature_scale": replace.center_feature_scale,
        "pointwise": replace.pointwise,
    }
    if max(kernel) > LARGEST_KERNEL:
        raise InputError(f"kernel_size {max(kernel)} at {site.path}: at most {LARGEST_KERNEL}")
    own, more = role.arguments(found, site, kernel, replace)
    return ModuleSpec(role.adapter, {**args, **own}), (*notes, *more)


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
