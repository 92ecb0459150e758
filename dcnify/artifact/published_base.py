"""Recognise a converted InternImage that is itself a published FlashInternImage."""

import dataclasses

from torch import nn

from dcnify.errors import InputError
from dcnify.nn import DCNv4
from dcnify.sources.base import Base
from dcnify.sources.construct import on_meta
from dcnify.sources.state_dict import shapes_of

_FAMILY, _FLASH = "intern_image_", "flash_intern_image_"


def published_base(base: Base, model: nn.Module) -> Base:
    """The base of the FlashInternImage that ``model`` became, or ``base`` if it is not one.

    Names and shapes of the weights must be the same, and the layers must sample alike.
    """
    if base.kind != "timm" or not base.name.startswith(_FAMILY):
        return base
    name = base.name.partition(".")[0].replace(_FAMILY, _FLASH)
    flash = dataclasses.replace(base, name=name)
    try:
        skeleton = on_meta(flash.build)
    except InputError:  # no FlashInternImage of that size
        return base
    if shapes_of(skeleton) != shapes_of(model):
        return base
    theirs = dict(skeleton.named_modules())
    for path, module in model.named_modules():
        if isinstance(theirs[path], DCNv4):
            same = isinstance(module, DCNv4) and module.sampling == theirs[path].sampling
            if not same:
                return base
    return flash
