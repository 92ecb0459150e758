"""A recipe from end to end: convert, fine-tune, time, report."""

from dcnify.pipeline.run import Asked, Outcome, run
from dcnify.pipeline.timing import time_artifact

__all__ = ["Asked", "Outcome", "run", "time_artifact"]
