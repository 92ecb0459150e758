"""The centre feature scale of a freshly converted layer."""

from __future__ import annotations

from torch import nn

from dcnify.nn import DCNv4

_SHUT = -12.0


def shut_gate(dcn: DCNv4) -> None:
    """Let the centre feature scale pass the operator's output unchanged to begin with."""
    if dcn.center_feature_scale:
        nn.init.zeros_(dcn.center_feature_scale_proj_weight)
        nn.init.constant_(dcn.center_feature_scale_proj_bias, _SHUT)
