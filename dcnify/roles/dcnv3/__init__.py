"""Role ``dcnv3``: the deformable convolutions of InternImage."""

from __future__ import annotations

from dataclasses import dataclass

from dcnify.graph.site import Site, fact
from dcnify.roles.base import KernelFacts, Key, Replacement, Role, lazy, register


@dataclass(frozen=True)
class Dcnv3Facts(KernelFacts, role="dcnv3"):
    """Facts of a DCNv3 layer."""

    groups: int = fact(where="Groups of channels of a DCNv3 layer.")
    """Groups of channels that share their sampling points."""


def _label(site: Site) -> str:
    return f"dcnv3 {site.kernel[0]}x{site.kernel[1]} G{site.groups}"


_LIKE = Key(
    choices=("flash_intern_image", *(f"flash_intern_image_{size}" for size in "tsbl")),
    decides=True,
    help="Role dcnv3 only: make the layers those of the published FlashInternImage of the model's\n"
    "size, or of the size that is named. It decides every other key here, and which biases go.",
)

register(
    Role(
        name="dcnv3",
        label=_label,
        find=lazy(f"{__name__}.find:find_dcnv3"),
        prepare=lazy(f"{__name__}.find:on_our_operator"),
        swallows=("depthwise_conv",),
        originals=("dcnify.nn.dcnv3.DCNv3",),
        replacements={
            "dcnv4": Replacement(
                adapter="dcnv4",
                module=lazy(f"{__name__}.replace:layer"),
                arguments=lazy(f"{__name__}.replace:arguments"),
                transfer=lazy(f"{__name__}.replace:transfer"),
                calibrate=lazy(f"{__name__}.replace:calibrate"),
                keys={"like": _LIKE},
                refuses={
                    "offset_rank": "not for role dcnv3, whose new layers inherit the old ones' "
                    "whole projection of offsets and weights"
                },
                decide=lazy(f"{__name__}.flash_internimage:decide"),
                biases=lazy(f"{__name__}.flash_internimage:biases"),
            ),
            "fused_dcnv3": Replacement(
                adapter="fused_dcnv3",
                module=lazy("dcnify.nn:FusedDCNv3"),
                arguments=lazy(f"{__name__}.replace:fused_arguments"),
                transfer=lazy(f"{__name__}.replace:fuse"),
                takes_original=True,
                exact="the same, fused",
            ),
        },
    )
)
