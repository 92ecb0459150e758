"""Sources that models come from, and artifacts that converted models are kept in."""

from dcnify.artifact.atomic import check_output
from dcnify.artifact.load import load
from dcnify.artifact.record import Artifact, read_artifact
from dcnify.artifact.save import save, save_again
from dcnify.sources.base import Base
from dcnify.sources.open import Source, open_source
from dcnify.verify.result import Check, Fidelity, Verification
from dcnify.verify.verification import images_reported, verify

__all__ = [
    "Artifact",
    "Base",
    "Check",
    "Fidelity",
    "Source",
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
