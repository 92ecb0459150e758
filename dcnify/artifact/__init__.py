"""Sources that models come from, and artifacts that converted models are kept in."""

from dcnify.artifact.atomic import check_output
from dcnify.artifact.base import Base
from dcnify.artifact.load import load
from dcnify.artifact.record import Artifact, read_artifact
from dcnify.artifact.save import save
from dcnify.artifact.source import Source, open_source

__all__ = [
    "Artifact",
    "Base",
    "Source",
    "check_output",
    "load",
    "open_source",
    "read_artifact",
    "save",
]
