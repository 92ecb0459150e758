"""Artifacts that converted models are kept in, and the sources that models come from.

What `dcnify.verify` adds loads on first use: it needs this package itself.
"""

from typing import TYPE_CHECKING

from dcnify.artifact.load import load
from dcnify.artifact.open import open_source
from dcnify.artifact.output import check_output
from dcnify.artifact.record import Artifact, read_artifact
from dcnify.artifact.save import save, save_again
from dcnify.lazy import load_on_use
from dcnify.sources.base import Base
from dcnify.sources.open import OpenedModel
from dcnify.sources.spec import SourceSpec

if TYPE_CHECKING:
    from dcnify.verify.result import Check, Fidelity, Verification
    from dcnify.verify.verification import images_reported, verify

Source = OpenedModel
"""The name of `OpenedModel` up to dcnify 0.1."""

__all__ = [
    "Artifact",
    "Base",
    "Check",
    "Fidelity",
    "OpenedModel",
    "Source",
    "SourceSpec",
    "Verification",
    "check_output",
    "images_reported",
    "load",
    "open_source",
    "read_artifact",
    "save",
    "save_again",
    "verify",
]

__getattr__ = load_on_use(__name__)
