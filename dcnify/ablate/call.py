"""`dcnify.ablate`: a sweep from Python, in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcnify.ablate.results.report import Report, write_report
from dcnify.ablate.run import prepare, work
from dcnify.ablate.spec import AblateSpec
from dcnify.ablate.sweep import Sweep
from dcnify.data.spec import DataSpec, ImageSpec
from dcnify.progress import Progress, silent
from dcnify.sources.spec import SourceSpec


@dataclass(frozen=True)
class Ablation:
    """A sweep that was run: its folder, and what came out."""

    folder: Path
    report: Report


def ablate(
    sweep: Sweep | str | os.PathLike[str] | Mapping[str, Any],
    source: SourceSpec | str,
    *,
    output: str | os.PathLike[str],
    data: DataSpec | str | None = None,
    images: ImageSpec | str | None = None,
    recipe: str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress = silent,
    say: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Ablation:
    """Try every point of a sweep on a model, measure and compare.

    Called again with the same output, it does what is missing, failed or new.

    Args:
        sweep: a built-in sweep, the path of a YAML file, or a mapping with the keys of one.
        source: the model, as the command line names it.
        output: folder of the trials and the report.
        data: images to fine-tune on.
        images: images to measure fidelity on.
        recipe: the recipe to vary, in place of the sweep's.
        overrides: changes to that recipe for every trial: ``"swaps.dw7.init=fit"``.
        progress: progress callback.
        say: called with a line for each trial that ends.
        **options: other fields of `dcnify.ablate.AblateSpec`, such as ``jobs=4``.

    Raises:
        InputError: something given is wrong; nothing was run then.
        DcnifyError: the trials cannot be carried out.
    """
    found = Sweep.of(sweep)
    spec = AblateSpec(
        sweep=found.name,
        source=source if isinstance(source, SourceSpec) else SourceSpec(source),
        data=data if isinstance(data, DataSpec) else DataSpec(data),
        images=images if isinstance(images, ImageSpec) else ImageSpec(images),
        output=os.fspath(output),
        recipe=recipe,
        overrides=tuple(overrides),
        **options,
    )
    prepared = prepare(spec, found, progress=progress, say=say)
    work(prepared, jobs=spec.jobs, fail_fast=spec.fail_fast, progress=progress, say=say)
    return Ablation(prepared.folder, write_report(prepared.folder, prepared.store))
