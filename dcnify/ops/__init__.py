"""The operators: `dcnv4` and `dcnv3` for use, `reference` for what they mean."""

from dcnify.ops import reference
from dcnify.ops.dcnv3_op import dcnv3
from dcnify.ops.dcnv4_op import dcnv4

__all__ = ["dcnv3", "dcnv4", "reference"]
