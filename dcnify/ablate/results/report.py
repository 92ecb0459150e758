"""Write what came out of a sweep: tables as CSV, a page as Markdown and HTML, recipes that run."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dcnify.ablate.points import level_text
from dcnify.ablate.results.outcome import Results
from dcnify.ablate.results.page import page_of
from dcnify.ablate.results.points import PointResult
from dcnify.ablate.results.quantities import ALL
from dcnify.ablate.state.record import FILE, REPORT, read_record, storage_url
from dcnify.ablate.state.store import Store, open_store
from dcnify.ablate.trial import Setting
from dcnify.errors import InputError
from dcnify.files import write_file
from dcnify.report.view import Figure, Page

CSV, POINTS, MARKDOWN, HTML, RECIPES = (
    "trials.csv",
    "points.csv",
    "report.md",
    "report.html",
    "recipes",
)


@dataclass(frozen=True)
class Report:
    """What came out, and where it was written."""

    folder: Path
    page: Page
    rows: list[dict[str, Any]]
    """A mapping for each point: its values, and mean, spread and difference of each quantity."""
    best: Path | None
    """The recipe of the best point."""
    left_out: tuple[str, ...] = ()
    """What could not be written, and why."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "report": str(self.folder),
            "points": self.rows,
            "best": str(self.best) if self.best else None,
        }


def read_results(folder: Path, storage: str | None = None, store: Store | None = None) -> Results:
    """Read what the trials of a folder have come to.

    Raises:
        InputError: it is not the folder of an ablation, or its storage cannot be read.
    """
    record = read_record(folder)
    store = store or open_store(storage_url(folder, record, storage), record.sweep)
    return Results(record, store.latest())


def is_ablation(path: Path) -> bool:
    """Whether a folder is that of an ablation."""
    return (path / FILE).is_file()


def read_ablation(folder: Path) -> Page:
    """The folder of an ablation as a page."""
    return page_of(read_results(folder.resolve()))


def write_report(folder: Path, store: Store | None = None, storage: str | None = None) -> Report:
    """Write tables, page and recipes to the folder ``report`` of an ablation.

    Raises:
        InputError: as `read_results`.
        DcnifyError: the disk is full.
    """
    from dcnify.report.render import html, markdown

    found = read_results(folder, storage, store)
    out = folder / REPORT
    out.mkdir(exist_ok=True)
    rows = list(_point_rows(found))
    _write(out / CSV, _csv(list(_trial_rows(found))))
    _write(out / POINTS, _csv(rows))
    best = _write_recipes(found, out / RECIPES)
    page, left_out = page_of(found), []
    try:
        _draw(page, out)
        _write(out / HTML, html(page))
    except InputError as error:  # a package of the pages is missing
        left_out.append(str(error))
    _write(out / MARKDOWN, markdown(page))
    return Report(out, page, rows, best, tuple(left_out))


def _trial_rows(found: Results) -> Iterator[dict[str, Any]]:
    for point in found.points:
        for trial in point.trials:
            yield {
                "point": point.index,
                **{path: _cell(point.changes.get(path)) for path in found.record.paths},
                "seed": trial.seed,
                "state": trial.state,
                **{name: trial.values.get(name) for name in found.measured},
                "error": trial.error,
                "hash": trial.hash,
            }


def _point_rows(found: Results) -> Iterator[dict[str, Any]]:
    for point in found.points:
        row: dict[str, Any] = {
            "point": point.index,
            "base": point.index == found.record.base,
            **{path: _cell(point.changes.get(path)) for path in found.record.paths},
            "seeds": point.done,
        }
        for name in found.measured:
            difference = point.differences.get(name)
            row[name] = point.means.get(name)
            row[f"{name}_spread"] = point.spreads.get(name)
            row[f"{name}_difference"] = difference.mean if difference else None
            row[f"{name}_low"] = difference.low if difference else None
            row[f"{name}_high"] = difference.high if difference else None
        yield row


def _cell(value: Any) -> Any:
    return level_text(value) if isinstance(value, list | dict | bool) else value


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _write_recipes(found: Results, folder: Path) -> Path | None:
    """Write the recipe of the best point, and of the best at each cost."""
    shutil.rmtree(folder, ignore_errors=True)
    if found.best is None:
        return None
    folder.mkdir()
    setting = Setting.from_dict(found.record.setting)
    _write(folder / "best.yaml", _recipe(found, setting, found.best))
    for cost in found.costs:
        for i, point in enumerate(found.front(cost), 1):
            _write(folder / f"{cost}-{i}.yaml", _recipe(found, setting, point, cost))
    return folder / "best.yaml"


def _recipe(found: Results, setting: Setting, point: PointResult, cost: str = "") -> str:
    """A point's recipe as YAML, with what it reached in front."""
    recipe = setting.recipe_with(point.changes)
    told = [ALL[name] for name in (found.objective, cost) if name]
    reached = ", ".join(
        f"{one.title} {one.quantity.with_unit(point.means[one.name])}" for one in told
    )
    which = f"The best up to this {ALL[cost].title}" if cost else "The best point"
    lines = [
        f"# {which} of the ablation {found.record.sweep}: {found.label(point)}.",
        f"# Measured: {reached}; {point.done} of {len(point.trials)} seeds.",
    ]
    return "\n".join(lines) + "\n" + recipe.to_yaml()


def _draw(page: Page, folder: Path) -> None:
    """Write the figures beside the page."""
    from dcnify.report.render.drawing import figure_of, save

    for part in (part for section in page.sections for part in section.parts):
        if isinstance(part, Figure):
            write_file(folder / part.file, partial(save, figure_of(part.charts)), overwrite=True)


def _write(path: Path, text: str) -> None:
    write_file(path, lambda new: new.write_text(text, "utf-8"), overwrite=True)
