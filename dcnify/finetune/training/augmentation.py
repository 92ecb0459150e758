"""timm's training transform, checked so that it cannot fail in the middle of an epoch."""

from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image
from timm.data.auto_augment import (
    AugmentOp,
    augment_and_mix_transform,
    auto_augment_transform,
    posterize,
    rand_augment_transform,
)

from dcnify.data import random_state
from dcnify.data.decode import reason_of
from dcnify.errors import InputError


def check_policy(auto: str) -> None:
    """Raise `InputError` if timm does not know this policy of auto-augment."""
    makers = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    try:
        makers.get(auto.split("-")[0], auto_augment_transform)(auto, {})
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise InputError(f"augment.auto {auto!r}: {reason_of(error)}") from error


def guard(transform: Any) -> None:
    """Allow the auto-augment policy of a timm transform to posterize to 0 bits, a black image.

    Policies do so at one end of their magnitudes. Pillow up to 12.3 returned a black image, and
    13.0 refuses 0 bits.
    """
    for op in _ops(transform):
        if op.aug_fn is posterize:
            op.aug_fn = keep_bits


def keep_bits(image: Image.Image, bits_to_keep: int, **given: Any) -> Image.Image:
    """Posterize as timm does, with a black image for 0 bits."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return posterize(image, bits_to_keep, **given)


def try_out(transform: Callable[[Image.Image], Any], channels: int) -> None:
    """Transform one small image; raise `InputError` for settings that fail for every image.

    The image is grey for one channel, else RGB. The random state is restored afterwards.
    """
    image = Image.new("L" if channels == 1 else "RGB", (8, 8))
    try:
        with random_state.kept():
            transform(image)
    except Exception as error:
        raise InputError(f"augment: no image can be changed so: {reason_of(error)}") from error


def _ops(transform: Any) -> Iterator[AugmentOp]:
    """Yield the operations of RandAugment and AugMix (``ops``) or AutoAugment (``policy``)."""
    for step in getattr(transform, "transforms", ()):
        yield from getattr(step, "ops", ())
        for together in getattr(step, "policy", ()):
            yield from together
