"""Fine-tuning: the stages of a recipe train a converted model until its accuracy is back.

Names load on first use, so that a command line can read `TrainSpec` without importing torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "CURVE": "dcnify.finetune.run_folder",
    "METRICS": "dcnify.finetune.run_folder",
    "Options": "dcnify.finetune.spec",
    "StepMetrics": "dcnify.finetune.metrics",
    "StoppedError": "dcnify.finetune.interrupt",
    "Summary": "dcnify.finetune.summary",
    "TRAINING": "dcnify.artifact.layout",
    "TrainSpec": "dcnify.finetune.spec",
    "finetune": "dcnify.finetune.session",
    "train": "dcnify.finetune.session",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
