"""A converted model in miniature, as in the artifact tests."""

from support.artifact_fixtures import result, stand_in

__all__ = ["result", "stand_in"]
