"""Role ``attention``: calibrate a new layer on calls of the old one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dcnify.graph.calls import Call
from dcnify.inherit.calibrate import calibrate_in_turns

_SLACK = 0.02
"""A layer of a few points resembles attention little. The last hundredths of its error are bought
with a projection that is many times larger, which the model has to unlearn as a whole."""


def calibrate(module: Any, old: nn.Module, calls: Sequence[Call], steps: int) -> None:
    """Calibrate as `calibrate_in_turns` does, with the nearest projection that does nearly best."""
    calibrate_in_turns(module, old, calls, steps, _SLACK)
