"""Which published FlashInternImage an InternImage becomes, and what that prescribes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import nn

from dcnify.errors import InputError
from dcnify.graph.site import Site
from dcnify.models import FLASH, INTERN_IMAGE
from dcnify.roles.base import Found, Keys
from dcnify.roles.dcnv3.find import sampling_at

FAMILY = "flash_intern_image"


@dataclass(frozen=True)
class Like:
    """A published architecture that the result is to be."""

    architecture: str
    """Its name with timm."""
    offset_scale: float
    dw_kernel_size: int | None
    output_bias: bool
    fc2_bias: bool

    def arguments(self, found: Found, site: Site) -> dict[str, Any]:
        """`DCNv4`'s arguments at a site, but for stride, padding and dilation.

        Raises:
            InputError: the layer has what that architecture's layers have not.
        """
        layer = found.model.get_submodule(site.path)
        if getattr(layer, "center_feature_scale", False):
            raise InputError(
                f"{site.path} has a centre feature scale, {self.architecture} has none: "
                "use recipe internimage-exact"
            )
        how = sampling_at(found.nodes[site.path])
        return {
            "channels": site.channels,
            "kernel_size": list(site.kernel),
            "groups": site.groups,
            "offset_scale": self.offset_scale,
            "dw_kernel_size": self.dw_kernel_size,
            "softmax": False,
            "remove_center": how["remove_center"],
            "center_feature_scale": False,
            "pointwise": True,
            "output_bias": self.output_bias,
        }


def decide(found: Found, sites: Sequence[Site], keys: Keys) -> Keys:
    """Return the keys with the architecture that their ``like`` means, if they have it."""
    if keys.get("like") is None:
        return keys
    return {**keys, "like": like(keys["like"], found.model, sites)}


def like(wanted: str, model: nn.Module, sites: Sequence[Site]) -> Like:
    """Return the architecture that a recipe's ``like`` means for a model with these sites.

    Args:
        wanted: ``flash_intern_image``, or that with ``_t``, ``_s``, ``_b`` or ``_l``.
        model: whose timm name says the size where the sites do not.
        sites: those that are swapped, in order.

    Raises:
        InputError: no FlashInternImage of that size is published.
    """
    size = wanted.removeprefix(FAMILY).removeprefix("_") or _size_of(model, sites)
    if size not in FLASH:
        known = ", ".join(f"{FAMILY}_{one}" for one in FLASH)
        what = f"intern_image_{size}" if size else "a model of this size"
        raise InputError(
            f"no FlashInternImage is published for {what}: use recipe internimage-exact, or name "
            f"what its layers shall be like: {known}"
        )
    given = FLASH[size]
    return Like(
        architecture=f"{FAMILY}_{size}",
        offset_scale=given.get("offset_scale", 1.0),
        dw_kernel_size=given.get("dw_kernel_size"),
        output_bias=given.get("dcn_output_bias", True),
        fc2_bias=given.get("mlp_fc2_bias", True),
    )


def _size_of(model: nn.Module, sites: Sequence[Site]) -> str:
    """``t``, ``s``, ... by the channels, groups and number of the layers, else by timm's name."""
    stages = [list(of) for _, of in groupby(sites, lambda site: site.stage)]
    seen = (
        stages[0][0].channels,
        tuple(len(of) for of in stages),
        tuple(of[0].groups for of in stages),
    )
    for size, published in INTERN_IMAGE.items():
        if seen == (published["channels"], published["depths"], published["groups"]):
            return size
    for one in (model, getattr(model, "model", None)):
        config = getattr(one, "pretrained_cfg", None)
        name = str(config.get("architecture")) if isinstance(config, dict) else ""
        if name.startswith("intern_image_"):
            return name.removeprefix("intern_image_")
    return ""


def biases(found: Found, site: Site, keys: Keys) -> Iterator[str]:
    """Find the MLP's second layer beside a site that has a bias, where ``like`` has none."""
    if keys.get("like") is None or keys["like"].fc2_bias:
        return
    path = f"{site.path.rpartition('.')[0]}.mlp.fc2"
    linear = found.model.get_submodule(path) if path in found.sites.module_paths else None
    if isinstance(linear, nn.Linear) and linear.bias is not None:
        yield path
