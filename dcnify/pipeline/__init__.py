"""A recipe from end to end: convert, fine-tune, time, report."""

from dcnify.pipeline.run import Asked, Outcome, run

__all__ = ["Asked", "Outcome", "run"]
