"""Fine-tuning: the stages of a recipe, from a converted model to one that has its accuracy back."""

from typing import TYPE_CHECKING

from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.artifact.layout import TRAINING
    from dcnify.finetune.interrupt import StoppedError
    from dcnify.finetune.metrics import Beat
    from dcnify.finetune.run_folder import CURVE, METRICS
    from dcnify.finetune.session import Options, finetune
    from dcnify.finetune.summary import Summary

__all__ = [
    "CURVE",
    "METRICS",
    "TRAINING",
    "Beat",
    "Options",
    "StoppedError",
    "Summary",
    "finetune",
]

__getattr__ = load_on_use(__name__)
