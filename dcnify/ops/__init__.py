"""The operators: `dcnv4` for use, `reference` for what it means."""

from dcnify.ops import reference
from dcnify.ops.dcnv4_op import dcnv4

__all__ = ["dcnv4", "reference"]
