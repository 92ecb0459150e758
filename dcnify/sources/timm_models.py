"""Build timm models by name, with one-line errors."""

from collections.abc import Mapping
from typing import Any

import timm
from timm.models import split_model_name_tag
from torch import nn

from dcnify.errors import DcnifyError, InputError
from dcnify.words import closest, first_line


def create(name: str, args: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    """Call `timm.create_model`, with one-line errors.

    ``pretrained`` fetches the weights that timm has for the name, which may have a tag
    (``convnext_tiny.fb_in1k``) or be ``hf-hub:owner/name``.

    Raises:
        InputError: unknown name or tag, or arguments that the model does not take.
        DcnifyError: the weights could not be fetched.
    """
    if ":" not in name:
        check_name(name)
    if pretrained and ":" not in name and not timm.models.is_model_pretrained(name):
        raise InputError(f"timm has no pretrained weights for {name}")
    try:
        return timm.create_model(name, pretrained=pretrained, **args)
    except OverflowError:
        raise
    except Exception as error:
        if pretrained or ":" in name:
            raise DcnifyError(f"cannot fetch timm:{name}: {first_line(error)}") from error
        given = ", ".join(f"{key}={value!r}" for key, value in args.items())
        raise InputError(f"timm cannot build {name}({given}): {first_line(error)}") from error


def check_name(name: str) -> None:
    """Raise `InputError` for a name or tag that timm does not know, with the nearest ones."""
    architecture, tag = split_model_name_tag(name)
    if not timm.is_model(architecture):
        names = timm.list_models()
        start = architecture.lower()
        within = [known for known in names if len(start) > 2 and known.startswith(start)]
        near = within[:3] or closest(architecture, names, count=3)
        hint = f", did you mean {' or '.join(near)}?" if near else "; see timm.list_models()"
        raise InputError(f"timm has no model {name!r}{hint}")
    if tag:
        tagged = timm.list_models(f"{architecture}.*", include_tags=True)
        tags = [one.partition(".")[2] for one in tagged]
        if tag not in tags:
            have = ", ".join(filter(None, tags)) or "none"
            raise InputError(f"timm has no weights {tag!r} for {architecture}; it has: {have}")
