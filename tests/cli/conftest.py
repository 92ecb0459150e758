"""The command line in an empty folder, and a checkpoint for it."""

from support.model_verbs import checkpoint, dcnify, weights

__all__ = ["checkpoint", "dcnify", "weights"]
