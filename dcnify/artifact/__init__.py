"""Artifacts that converted models are kept in, and the sources that models come from."""

import importlib
from typing import Any

from dcnify.artifact.load import load
from dcnify.artifact.open import open_source
from dcnify.artifact.output import check_output
from dcnify.artifact.record import Artifact, read_artifact
from dcnify.artifact.save import save, save_again
from dcnify.sources.base import Base
from dcnify.sources.open import OpenedModel
from dcnify.sources.spec import SourceSpec

Source = OpenedModel
"""The name of `OpenedModel` up to dcnify 0.1."""

_VERIFY = {
    "Check": "dcnify.verify.result",
    "Fidelity": "dcnify.verify.result",
    "Verification": "dcnify.verify.result",
    "images_reported": "dcnify.verify.verification",
    "verify": "dcnify.verify.verification",
}

__all__ = [
    "Artifact",
    "Base",
    "OpenedModel",
    "Source",
    "SourceSpec",
    "check_output",
    "load",
    "open_source",
    "read_artifact",
    "save",
    "save_again",
    *_VERIFY,
]


def __getattr__(name: str) -> Any:
    """Load what `dcnify.verify` adds, which itself needs this package."""
    if name not in _VERIFY:
        raise AttributeError(f"module 'dcnify.artifact' has no attribute {name!r}")
    return getattr(importlib.import_module(_VERIFY[name]), name)
