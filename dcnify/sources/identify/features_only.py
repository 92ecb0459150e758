"""The names that timm's ``features_only`` models give to the weights of the whole model."""

from __future__ import annotations

from collections.abc import Iterable


def whole_names(names: Iterable[str], have: Iterable[str]) -> dict[str, str]:
    """Map ``names`` of a features-only model to those that the whole model has.

    timm either holds the model under ``model.`` or lifts its stages, ``stages.0`` as ``stages_0``.

    Args:
        names: of the features-only model.
        have: names that the whole model may have, a file's for instance.
    """
    flat = {name.replace(".", "_"): name for name in have}
    whole = {name: name.removeprefix("model.") for name in names}
    return {name: flat.get(short.replace(".", "_"), short) for name, short in whole.items()}
