"""What can stand at a site of each role, and how it inherits.

A new role adds its finder to `dcnify.roles.find`, its adapter to `dcnify.nn`, a file like
``depthwise.py`` beside this one, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcnify.graph.calls import Call
from dcnify.inherit.output_projection import fit_output
from dcnify.inherit.train_layer import train_layer
from dcnify.nn import DepthwiseDCNv4, FusedDCNv3, TokenDCNv4
from dcnify.roles.attention import fit as fit_attention
from dcnify.roles.attention import replace as attention
from dcnify.roles.dcnv3 import replace as dcnv3
from dcnify.roles.depthwise_conv import fit as fit_depthwise
from dcnify.roles.depthwise_conv import replace as depthwise
from dcnify.roles.find import Found
from dcnify.surgery.plan import Arguments, PlannedSwap

Transfer = Callable[[Any, PlannedSwap, Found, torch.Generator], tuple[str, ...]]
Calibrate = Callable[[Any, nn.Module, Sequence[Call], int], None]


@dataclass(frozen=True)
class Replacement:
    """How the surgery treats one kind of replacement at sites of one role."""

    adapter: str
    """Name of the adapter in plans."""
    module: Callable[..., nn.Module]
    arguments: Callable[..., Arguments]
    """(found, site, kernel, replace) to the adapter's arguments beyond `DCNv4`'s own."""
    transfer: Transfer
    """The init method ``transfer``; returns warnings."""
    fit: Transfer | None = None
    """The init method ``fit``; without it ``transfer`` is as close as can be."""
    calibrate: Calibrate | None = None
    """The init method ``calibrate``: (module, old layer, its calls, steps of descent)."""
    always: Callable[[Any, PlannedSwap, Found], None] | None = None
    """What is carried over whatever the init method."""
    takes_original: bool = False
    """Whether the adapter may keep the replaced layer, or parts of it."""


def _calibrate(module: Any, old: nn.Module, inputs: Sequence[Call], steps: int) -> None:
    """Fit the DCNv4 inside; what stands beside it for prefix tokens is exact already.

    By turns, twice: descent brings points and weights nearer, and the output projection takes up
    what it can of the error that they leave.
    """
    dcn = module.dcn
    learned = [*dcn.parameters(), *([] if getattr(module, "bias", None) is None else [module.bias])]
    halves = [some for some in (steps // 2, steps - steps // 2) if some]
    for some in halves or [0]:
        train_layer(module, learned, old, inputs, some)
        fit_output(module, dcn, lambda call: module.image_of(call.on(old)), inputs)


REPLACEMENTS = {
    ("depthwise_conv", "dcnv4"): Replacement(
        adapter="depthwise",
        module=DepthwiseDCNv4,
        arguments=depthwise.arguments,
        transfer=depthwise.transfer,
        fit=fit_depthwise.fit,
        calibrate=_calibrate,
    ),
    ("attention", "dcnv4"): Replacement(
        adapter="tokens",
        module=TokenDCNv4,
        arguments=attention.arguments,
        transfer=attention.transfer,
        fit=fit_attention.fit,
        calibrate=_calibrate,
        always=attention.carry_prefix,
        takes_original=True,
    ),
    ("dcnv3", "dcnv4"): Replacement(
        adapter="dcnv4",
        module=dcnv3.layer,
        arguments=dcnv3.arguments,
        transfer=dcnv3.transfer,
        calibrate=dcnv3.calibrate,
    ),
    ("dcnv3", "fused_dcnv3"): Replacement(
        adapter="fused_dcnv3",
        module=FusedDCNv3,
        arguments=dcnv3.fused_arguments,
        transfer=dcnv3.fuse,
        takes_original=True,
    ),
}
"""By role, and what the recipe puts in its place."""
ADAPTERS = {one.adapter: one for one in REPLACEMENTS.values()}
