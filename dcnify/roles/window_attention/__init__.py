"""Role ``window_attention``: self-attention in windows of the image, shifted or not."""

from __future__ import annotations

from dataclasses import dataclass

from dcnify.graph.site import Facts, Pair, Site, fact
from dcnify.roles.base import Replacement, Role, lazy, register


@dataclass(frozen=True)
class WindowAttentionFacts(Facts, role="window_attention"):
    """Facts of a self-attention in windows."""

    heads: int = fact(where="Heads of the attention.")
    window: Pair = fact(where="Size of the attention's windows: 7, [7, 14] or {max: 8}.")
    dilation: Pair = fact((1, 1), where="Dilation of the convolution, or of windows on a grid.")
    returns: str = "tensor"
    """What the caller expects back: ``tensor``, or ``tuple[n]`` whose first item is the tensor."""

    def __str__(self) -> str:
        return f"{self.heads} heads, {self.window[0]}x{self.window[1]}"


def _label(site: Site) -> str:
    window, dilation = ("x".join(map(str, pair)) for pair in (site.window, site.dilation))
    apart = "" if site.dilation == (1, 1) else f" dilation {dilation}"
    return f"window attention {site.heads}h {window}{apart}"


register(
    Role(
        name="window_attention",
        label=_label,
        find=lazy(f"{__name__}.find:find_windows"),
        replacements={
            "dcnv4": Replacement(
                adapter="windows",
                module=lazy("dcnify.nn:TokenDCNv4"),
                arguments=lazy(f"{__name__}.replace:arguments"),
                transfer=lazy(f"{__name__}.replace:transfer"),
                fit=lazy(f"{__name__}.fit:fit"),
                calibrate=lazy("dcnify.roles.attention.calibrate:calibrate"),
            )
        },
    )
)
