"""What all parts of a recipe share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, PrivateAttr

from dcnify.recipe.reading.origins import Origins


class Part(BaseModel):
    """A part of a recipe: no unknown keys, no changes, docstrings that describe the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Document(Part):
    """A part that is written as a document of its own, and knows where each value came from."""

    _origins: Origins = PrivateAttr(default_factory=Origins)

    @property
    def origins(self) -> Origins:
        """Where keys and values were written, by paths from here: ``("stages", 0, "train")``."""
        return self._origins
