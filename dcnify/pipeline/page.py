"""The report of a run as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dcnify.artifact import Artifact, read_artifact
from dcnify.errors import InputError
from dcnify.files import read_json
from dcnify.pipeline.earlier_work import BENCH, FINETUNED, REPORT
from dcnify.recipe import Recipe
from dcnify.report.artifact_page import NO_PICTURES, artifact_page
from dcnify.report.quantity import MICROSECONDS_IN_MS
from dcnify.report.view import Column, Page, Part, Table, Text

_PERCENTILES = ("p20", "p50", "p80")


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run that came to its end."""
    return (
        all((folder / name).is_file() for name in (REPORT, BENCH)) and (folder / FINETUNED).is_dir()
    )


def read_run(folder: Path) -> Page:
    """Describe the run in a folder.

    Raises:
        InputError: it is not one, or damaged.
    """
    told = read_json(folder / REPORT)
    try:
        source, bench = told["request"]["source"]["source"], told["bench"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / REPORT} is not the report of a run: {error!r}") from None
    return run_page(read_artifact(folder / FINETUNED), source, bench)


def run_page(
    record: Artifact,
    source: str,
    bench: Mapping[str, Any],
    pictures: Mapping[str, str] = NO_PICTURES,
) -> Page:
    """Describe a run: accuracies, layers, training, timings.

    Args:
        record: the artifact that was trained.
        source: the name of the original.
        bench: the content of ``bench.json``.
        pictures: files beside the page that show ``fidelity`` and ``curve``.

    Raises:
        InputError: as `dcnify.report.artifact_page.artifact_page`.
    """
    recipe = Recipe.from_yaml(record.recipe, "recipe.yaml")
    try:
        time = tuple(_timing(bench))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{record.path.parent / BENCH} is damaged: {error!r}") from error
    title = f"{recipe.name}: {source}"
    return artifact_page(record, title=title, lead=recipe.description, time=time, pictures=pictures)


def _timing(bench: Mapping[str, Any]) -> Iterator[Part]:
    (forward,) = bench["passes"]
    yield Table(
        (Column("model"), *(Column(name, MICROSECONDS_IN_MS) for name in _PERCENTILES)),
        tuple(
            (name, *(one[f"{key}_us"] for key in _PERCENTILES))
            for name, one in forward["timings"].items()
        ),
    )
    shape = "x".join(map(str, bench["shape"]))
    machine, speedup = bench["machine"], forward["speedup"]
    yield Text(
        f"The converted model is {speedup['p50']:.2f} times as fast as the original "
        f"(p20 {speedup['p20']:.2f}, p80 {speedup['p80']:.2f}), for {shape} in {bench['dtype']} on "
        f"{machine['device_name']} ({machine['threads']} threads, torch {machine['torch']})."
    )
