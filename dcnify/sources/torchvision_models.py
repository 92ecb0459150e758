"""Build torchvision models by name, with one-line errors."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models import WeightsEnum

from dcnify.data.statistics import expect
from dcnify.errors import DcnifyError, InputError
from dcnify.words import did_you_mean, first_line

TRANSFORMS_INPUT = ("googlenet", "inception_v3")
"""Architectures that may normalise the image themselves, which their weights do not show."""
_SET_BY_WEIGHTS = ("transform_input", "aux_logits", "image_size")
"""Arguments that torchvision sets with some published weights; attributes of the model too."""


def create(name: str, args: Mapping[str, Any], *, pretrained: bool = False) -> nn.Module:
    """Call `torchvision.models.get_model`, with one-line errors.

    The model carries what its weights expect of images as timm's do, in ``pretrained_cfg``.
    ``pretrained`` fetches the weights that ``name`` names after a dot
    (``resnet50.IMAGENET1K_V2``), or else torchvision's default ones.

    Raises:
        InputError: unknown name or weights, or arguments that the model does not take.
        DcnifyError: the weights could not be fetched.
    """
    architecture, weights = weights_of(name)
    given: dict[str, Any] = {**args, "weights": weights if pretrained else None}
    if "weights_backbone" in signature(models.get_model_builder(architecture)).parameters:
        given["weights_backbone"] = None  # those of the whole model replace them
    if architecture in TRANSFORMS_INPUT:
        given.setdefault("init_weights", False)  # slow, and weights come afterwards
    try:
        model = models.get_model(architecture, **given)
    except OverflowError:
        raise
    except Exception as error:
        if pretrained:
            raise DcnifyError(f"cannot fetch torchvision:{name}: {first_line(error)}") from error
        told = ", ".join(f"{key}={value!r}" for key, value in args.items())
        said = f"torchvision cannot build {architecture}({told}): {first_line(error)}"
        raise InputError(said) from error
    expect(model, preprocessing_of(name))
    return model


def settings_of(model: nn.Module, name: str) -> dict[str, Any]:
    """The arguments that made ``model`` where its weights decided them."""
    found = {key: getattr(model, key) for key in _SET_BY_WEIGHTS if hasattr(model, key)}
    builder = models.get_model_builder(weights_of(name)[0])
    if "aux_loss" in signature(builder).parameters:
        found["aux_loss"] = getattr(model, "aux_classifier", None) is not None
    return found


def weights_of(name: str) -> tuple[str, WeightsEnum | None]:
    """The architecture and the weights of ``resnet50`` or ``resnet50.IMAGENET1K_V2``.

    Weights are None where torchvision has none for the architecture.

    Raises:
        InputError: torchvision knows one or the other not, with the nearest names.
    """
    architecture, _, tag = name.partition(".")
    known = models.list_models()
    if architecture not in known:
        near = did_you_mean(architecture, known, otherwise="; see torchvision.models.list_models()")
        raise InputError(f"torchvision has no model {architecture!r}{near}")
    every = {one.name: one for one in models.get_model_weights(architecture)}
    if tag and tag not in every:
        have = ", ".join(every) or "none"
        raise InputError(f"torchvision has no weights {tag!r} for {architecture}; it has: {have}")
    if tag:
        return architecture, every[tag]
    return architecture, getattr(models.get_model_weights(architecture), "DEFAULT", None)


def preprocessing_of(name: str) -> dict[str, Any]:
    """What the weights of ``name`` expect of images, as timm's ``pretrained_cfg`` would say it."""
    weights = weights_of(name)[1]
    expected = weights.transforms() if weights is not None else None
    size = getattr(expected, "crop_size", None) or getattr(expected, "resize_size", None)
    if expected is None or not size or not hasattr(expected, "mean"):
        return {}
    rows, columns = size * 2 if len(size) == 1 else size
    return {
        "input_size": (3, rows, columns),
        "mean": tuple(expected.mean),
        "std": tuple(expected.std),
        "interpolation": expected.interpolation.value,
    }
