"""Role ``attention``: plain self-attention over all tokens of the image."""

from __future__ import annotations

from dataclasses import dataclass

from dcnify.graph.site import Facts, Site, fact
from dcnify.roles.base import Key, Replacement, Role, lazy, register


@dataclass(frozen=True)
class AttentionFacts(Facts, role="attention"):
    """Facts of a self-attention."""

    heads: int = fact(where="Heads of the attention.")
    prefix_tokens: int = fact(0, where="Class and register tokens in front of the token grid.")
    returns: str = "tensor"
    """What the caller expects back: ``tensor``, or ``tuple[n]`` whose first item is the tensor."""

    def __str__(self) -> str:
        return f"{self.heads} heads"


def _label(site: Site) -> str:
    prefix = f" +{site.prefix_tokens}" if site.prefix_tokens else ""
    return f"attention {site.heads}h {site.grid[0]}x{site.grid[1]}{prefix}"


register(
    Role(
        name="attention",
        label=_label,
        find=lazy(f"{__name__}.find:find_attention"),
        replacements={
            "dcnv4": Replacement(
                adapter="tokens",
                module=lazy("dcnify.nn:TokenDCNv4"),
                arguments=lazy(f"{__name__}.replace:arguments"),
                transfer=lazy(f"{__name__}.replace:transfer"),
                fit=lazy(f"{__name__}.fit:fit"),
                calibrate=lazy(f"{__name__}.calibrate:calibrate"),
                always=lazy(f"{__name__}.replace:carry_prefix"),
                takes_original=True,
                flops=lazy(f"{__name__}.replace:flops"),
                keys={
                    "prefix": Key(
                        choices=("attend", "mean", "identity"),
                        default="attend",
                        help="Attention only: what becomes of class and register tokens. "
                        "``attend`` (the default)\nkeeps the original attention for them, "
                        "``mean`` gives them the mean of the tokens,\n"
                        "``identity`` passes them on.",
                    )
                },
            )
        },
    )
)
