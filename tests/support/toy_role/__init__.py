"""Role ``max_pool``: a max-pooling, as a stranger would add it. This folder is all it takes."""

from dataclasses import dataclass

from dcnify.graph.site import Site, fact
from dcnify.roles.base import KernelFacts, Key, Replacement, Role, lazy, register


@dataclass(frozen=True)
class PoolFacts(KernelFacts, role="max_pool"):
    """Facts of a max-pooling."""

    pixels: int = fact(where="Pixels under the window.")


def _label(site: Site) -> str:
    return f"max pool of {site.pixels} pixels"


register(
    Role(
        name="max_pool",
        label=_label,
        find=lazy(f"{__name__}.find:find_pooling"),
        replacements={
            "dcnv4": Replacement(
                adapter="pooled",
                module=lazy(f"{__name__}.replace:layer"),
                arguments=lazy(f"{__name__}.replace:arguments"),
                transfer=lazy(f"{__name__}.replace:transfer"),
                keys={"start": Key(("mean", "center"), "Where the points start.", default="mean")},
            )
        },
    )
)
