"""What tests of searches share."""

from __future__ import annotations

import pytest

from dcnify.search import verify


@pytest.fixture
def conversions(monkeypatch):
    """The sets that are converted, as their paths."""
    seen = []
    alone, several = verify.Place.converted, verify.Place.convert

    def one(self, paths):
        seen.append(tuple(paths))
        return alone(self, paths)

    def many(self, recipe):
        seen.append(tuple(path for swap in recipe.swaps for path in swap.select.modules))
        return several(self, recipe)

    monkeypatch.setattr(verify.Place, "converted", one)
    monkeypatch.setattr(verify.Place, "convert", many)
    return seen
