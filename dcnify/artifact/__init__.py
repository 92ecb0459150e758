"""Sources that models come from, and artifacts that converted models are kept in."""

from dcnify.artifact.atomic import check_output
from dcnify.artifact.base import Base
from dcnify.artifact.load import load
from dcnify.artifact.record import Artifact, read_artifact
from dcnify.artifact.save import save, save_again
from dcnify.artifact.source import Source, open_source
from dcnify.artifact.verify import images_reported, verify
from dcnify.artifact.verify_result import Check, Fidelity, Verification

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
