"""What each choice in a DCNv4 layer costs in time: the layer with one choice undone at a time."""

from typing import TYPE_CHECKING

from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.bench.ablation.result import AblationCase, AblationReport, VariantTiming
    from dcnify.bench.ablation.run import run_ablation

__all__ = ["AblationCase", "AblationReport", "VariantTiming", "run_ablation"]

__getattr__ = load_on_use(__name__)
