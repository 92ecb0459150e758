"""Role ``depthwise_conv``: a convolution whose groups equal its input and output channels."""

from __future__ import annotations

from dataclasses import dataclass

from dcnify.graph.site import Site
from dcnify.roles.base import ConvolutionFacts, Replacement, Role, lazy, register


@dataclass(frozen=True)
class DepthwiseFacts(ConvolutionFacts, role="depthwise_conv"):
    """Facts of a depthwise convolution."""


def _label(site: Site) -> str:
    stride = f" /{site.stride[0]}" if site.stride != (1, 1) else ""
    return f"dw conv {site.kernel[0]}x{site.kernel[1]}{stride}"


register(
    Role(
        name="depthwise_conv",
        label=_label,
        find=lazy(f"{__name__}.find:find_depthwise"),
        replacements={
            "dcnv4": Replacement(
                adapter="depthwise",
                module=lazy("dcnify.nn:DepthwiseDCNv4"),
                arguments=lazy(f"{__name__}.replace:arguments"),
                transfer=lazy(f"{__name__}.replace:transfer"),
                fit=lazy(f"{__name__}.fit:fit"),
                always=lazy(f"{__name__}.replace:keep_order"),
                neighbours=lazy(f"{__name__}.replace:neighbours"),
                share=lazy(f"{__name__}.share:share"),
                calibrate=lazy("dcnify.inherit.calibrate:calibrate_in_turns"),
            )
        },
    )
)
