"""The structure of a converted model: its base, with the plan's swaps replayed."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from dcnify.errors import DcnifyError, InputError
from dcnify.sources.base import Base
from dcnify.surgery.plan import Plan
from dcnify.words import first_line


def structure(base: Base, plan: Plan | None) -> Callable[[], nn.Module]:
    """Return a function that builds ``base`` and replays ``plan`` on it, on the current device."""

    def build() -> nn.Module:
        model = base.build()
        if plan is None or not plan.swaps:
            return model
        from dcnify import surgery

        try:
            return surgery.replay(model, plan)
        except (DcnifyError, OverflowError, NotImplementedError):
            raise
        except Exception as error:
            kind = type(error).__name__
            raise InputError(
                f"the plan cannot be replayed on {base}: {kind}: {first_line(error)}"
            ) from error

    return build
