"""A recipe from end to end: convert, fine-tune, time, report."""

from typing import TYPE_CHECKING

from dcnify.lazy import load_on_use
from dcnify.pipeline.spec import RunSpec

if TYPE_CHECKING:
    from dcnify.pipeline.end_to_end import RunResult, run
    from dcnify.pipeline.timing import time_artifact

__all__ = ["RunResult", "RunSpec", "run", "time_artifact"]

__getattr__ = load_on_use(__name__)
