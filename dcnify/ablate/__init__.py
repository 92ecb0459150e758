"""Scripted ablations: variants of a recipe, tried, measured and compared.

The package itself can be called: ``dcnify.ablate("sweep.yaml", "model.pt", output="runs/x")``.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dcnify.ablate.spec import AblateSpec, JoinSpec
from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.ablate.call import Ablation, ablate
    from dcnify.ablate.results.report import Report, read_ablation, write_report
    from dcnify.ablate.run import join, prepare, work
    from dcnify.ablate.status import Status
    from dcnify.ablate.sweep import Sweep, sweeps

__all__ = [
    "AblateSpec",
    "Ablation",
    "JoinSpec",
    "Report",
    "Status",
    "Sweep",
    "ablate",
    "join",
    "prepare",
    "read_ablation",
    "sweeps",
    "work",
    "write_report",
]

__getattr__ = load_on_use(__name__)


class _Callable(ModuleType):
    """A package that is a function too: `dcnify.ablate` is the name of both."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from dcnify.ablate.call import ablate

        return ablate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
