"""Fine-tuning: the stages of a recipe train a converted model until its accuracy is back."""

from typing import TYPE_CHECKING

from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.artifact.layout import TRAINING
    from dcnify.finetune.interrupt import StoppedError
    from dcnify.finetune.metrics import StepMetrics
    from dcnify.finetune.run_folder import CURVE, METRICS
    from dcnify.finetune.session import finetune, train
    from dcnify.finetune.spec import Options, TrainSpec
    from dcnify.finetune.summary import Summary

__all__ = [
    "CURVE",
    "METRICS",
    "TRAINING",
    "Options",
    "StepMetrics",
    "StoppedError",
    "Summary",
    "TrainSpec",
    "finetune",
    "train",
]

__getattr__ = load_on_use(__name__)
