"""Fit a checkpoint to torchvision's models, by name or by trying those that it could be of."""

from __future__ import annotations

import dataclasses
from contextlib import suppress

from torchvision import models

from dcnify.errors import InputError
from dcnify.sources.base import Base
from dcnify.sources.identify.fit import Fitted, NoPartFits, fit_base
from dcnify.sources.identify.model_files import explained
from dcnify.sources.reading.checkpoint import Checkpoint
from dcnify.sources.state_dict import shapes_of
from dcnify.sources.torchvision_models import TRANSFORMS_INPUT

_CLOSE = 0.02


def fit_torchvision(checkpoint: Checkpoint, what: str, base: Base) -> Fitted:
    """Fit torchvision's model, with as many classes as its last layer has rows."""
    notes: tuple[str, ...] = ()
    if base.name in TRANSFORMS_INPUT and "transform_input" not in base.args:
        base = Base(base.kind, base.name, {**base.args, "transform_input": False})
        words = "assumed transform_input=false, which the weights do not show; torchvision's own "
        notes = (f"{words}want --model-arg transform_input=true",)
    try:
        found = fit_base(checkpoint, what, base)
    except NoPartFits as error:
        reshaped = error.mismatch.reshaped
        rows = {file[0] for _, file, model in reshaped if file[1:] == model[1:]}
        if len(rows) != 1 or "num_classes" in base.args:
            raise
        try:
            more = Base(base.kind, base.name, {**base.args, "num_classes": rows.pop()})
            found = fit_base(checkpoint, what, more)
        except InputError:
            raise error from None
        notes = (*notes, "read from the shapes: num_classes")
    return dataclasses.replace(found, notes=(*found.notes, *notes))


def torchvision_fits(checkpoint: Checkpoint, what: str) -> list[str]:
    """Options that open a checkpoint as a classifier of torchvision's, one per model that fits."""
    names = models.list_models(module=models)
    files = {name: models.get_model_builder(name).__module__ for name in names}
    keys = shapes_of(checkpoint.tensors)
    scores = {file: explained(file, keys) for file in dict.fromkeys(files.values())}
    best = max(scores.values())
    found = []
    for name in names if best > 0.5 else []:
        if scores[files[name]] < best - _CLOSE:
            continue
        with suppress(InputError, OverflowError):
            fit_torchvision(checkpoint, what, Base("torchvision", name, {}))
            found.append(f"--arch torchvision:{name}")
    return found
