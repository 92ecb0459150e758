"""The roles that can be swapped: what stands at a site of each, and how it inherits.

A new role adds its finder to `dcnify.graph.find`, its adapter to `dcnify.nn`, a file like
``depthwise.py`` beside this one, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dcnify.graph.find import Found
from dcnify.nn import DepthwiseDCNv4, TokenDCNv4
from dcnify.surgery import attention, depthwise
from dcnify.surgery.plan import Arguments, PlannedSwap

Transfer = Callable[[Any, PlannedSwap, Found, torch.Generator], tuple[str, ...]]


@dataclass(frozen=True)
class Role:
    """How the surgery treats one role."""

    adapter: str
    """Name of the adapter in plans."""
    module: type[nn.Module]
    arguments: Callable[..., Arguments]
    """(found, site, kernel, replace) to the adapter's arguments beyond `DCNv4`'s own."""
    transfer: Transfer
    """The init method ``transfer``; returns warnings."""
    always: Callable[[Any, PlannedSwap, Found], None] | None = None
    """What is carried over whatever the init method."""
    takes_original: bool = False
    """Whether the adapter may keep the replaced layer."""


ROLES = {
    "depthwise_conv": Role(
        adapter="depthwise",
        module=DepthwiseDCNv4,
        arguments=depthwise.arguments,
        transfer=depthwise.transfer,
    ),
    "attention": Role(
        adapter="tokens",
        module=TokenDCNv4,
        arguments=attention.arguments,
        transfer=attention.transfer,
        always=attention.carry_prefix,
        takes_original=True,
    ),
}
ADAPTERS = {role.adapter: role for role in ROLES.values()}
