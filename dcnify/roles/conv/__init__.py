"""Role ``conv``: a convolution over all channels, 3x3 for one, stride 1 or more."""

from __future__ import annotations

from dataclasses import dataclass

from dcnify.graph.site import Site, fact
from dcnify.roles.base import ConvolutionFacts, Key, Replacement, Role, lazy, register


@dataclass(frozen=True)
class ConvFacts(ConvolutionFacts, role="conv"):
    """Facts of a convolution over all channels."""

    out_channels: int = fact(0, where="Channels that a convolution over all channels makes.")

    def __str__(self) -> str:
        return f"{super().__str__()} to {self.out_channels}"


def _label(site: Site) -> str:
    stride = f" /{site.stride[0]}" if site.stride != (1, 1) else ""
    return f"conv {site.kernel[0]}x{site.kernel[1]}{stride}"


register(
    Role(
        name="conv",
        label=_label,
        find=lazy(f"{__name__}.find:find_dense"),
        counts_stages=False,
        replacements={
            "dcnv4": Replacement(
                adapter="conv",
                module=lazy("dcnify.nn:ConvDCNv4"),
                arguments=lazy(f"{__name__}.replace:arguments"),
                transfer=lazy(f"{__name__}.replace:transfer"),
                calibrate=lazy(f"{__name__}.calibrate:calibrate"),
                keys={
                    "inner_width": Key(
                        choices=("x1", "x2", "x3"),
                        default="x1",
                        help="Convolutions over all channels only: channels that are sampled, "
                        "times the fewer of\ninput and output. ``x2`` holds more of a kernel than "
                        "``x1``, and costs twice as much.",
                    )
                },
                refuses={
                    "pointwise": "a convolution over all channels needs the projections: nothing "
                    "else mixes channels",
                    "softmax": "a softmax has no negative weights, which kernels need",
                },
            )
        },
    )
)
