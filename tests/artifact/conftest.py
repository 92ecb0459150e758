"""A converted model in miniature."""

from support.artifact_fixtures import result, stand_in

__all__ = ["result", "stand_in"]
