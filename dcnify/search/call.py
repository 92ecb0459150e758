"""`dcnify.search`: a search from Python, in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from dcnify.bench.spec import ModelBenchSpec
from dcnify.data.spec import ImageSpec
from dcnify.progress import Progress, silent
from dcnify.search.result import SearchResult
from dcnify.search.run import run
from dcnify.search.spec import SearchSpec
from dcnify.sources.spec import SourceSpec


def search(
    source: SourceSpec | str,
    budget: str | Sequence[str],
    *,
    output: str | os.PathLike[str],
    images: ImageSpec | str | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    bench: ModelBenchSpec | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> SearchResult:
    """Choose which layers of a model to swap within a budget, and convert them.

    Called again with the same output, also with another budget, it measures what is missing.

    Args:
        source: the model, as the command line names it.
        budget: ``"latency<=0.8"``, ``"flops<=1.2,agreement>=90%"``, or several.
        output: folder of the recipe, the artifact and what was measured.
        images: images to measure and to calibrate on.
        recipe: the recipe whose layers are candidates; the built-in one that selects most by
            default.
        overrides: changes to it: ``"swaps.dw7.init=fit"``.
        bench: how latency is measured.
        progress: progress callback.
        say: called with a line for each measurement.
        **options: other fields of `dcnify.search.SearchSpec`, such as ``score="fisher"``.

    Raises:
        InputError: something given is wrong.
        CheckError: no set of layers is within the budget.
    """
    spec = SearchSpec(
        source=source if isinstance(source, SourceSpec) else SourceSpec(source),
        budget=(budget,) if isinstance(budget, str) else tuple(budget),
        recipe=recipe,
        overrides=tuple(overrides),
        output=os.fspath(output),
        images=images if isinstance(images, ImageSpec) else ImageSpec(images),
        bench=bench or ModelBenchSpec(),
        **options,
    )
    return run(spec, progress=progress, say=say)
