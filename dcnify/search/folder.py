"""The folder of a search: what may be there before, and what is written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from dcnify.errors import InputError
from dcnify.files import read_json, write_file
from dcnify.search.costs import FILE as TIMINGS
from dcnify.search.measured import FOLDER as MEASURED
from dcnify.search.result import SearchResult
from dcnify.search.spec import SearchSpec

RECIPE, ARTIFACT, RESULT = "recipe.yaml", "artifact", "search.json"
_OURS = (RECIPE, ARTIFACT, RESULT, MEASURED, TIMINGS)


def check_folder(spec: SearchSpec) -> None:
    """Refuse a folder of something else, or of a finished search with another budget.

    Raises:
        InputError: the folder cannot take this search.
    """
    out = spec.folder
    place = Path(os.path.realpath(spec.source.source))
    if place.exists() and place.is_relative_to(out):
        raise InputError(f"{spec.source.source} lies in {spec.output}: choose another folder")
    if out.is_file():
        raise InputError(f"{spec.output} is a file; a search is written to a folder")
    found = sorted(one.name for one in out.iterdir()) if out.is_dir() else []
    strange = [name for name in found if name not in _OURS]
    if strange:
        shown = ", ".join(strange[:3])
        raise InputError(f"{spec.output} holds something else ({shown}): choose another folder")
    if ARTIFACT in found and not spec.overwrite:
        before = _budget_of(out / RESULT)
        if before != [str(bound) for bound in spec.bounds]:
            raise InputError(
                f"{spec.output} holds the search for {', '.join(before) or 'another budget'}: pass "
                "--overwrite to replace its artifact (what was measured is kept), or choose "
                "another folder"
            )


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, lambda one: one.write_text(text, "utf-8"), True)


def write_result(folder: Path, result: SearchResult) -> None:
    """Write ``search.json``."""
    write_text(folder / RESULT, json.dumps(_finite(result.to_dict()), indent=2) + "\n")


def clear(folder: Path) -> None:
    """Delete the recipe and the artifact of an earlier choice; measurements stay."""
    shutil.rmtree(folder / ARTIFACT, ignore_errors=True)
    (folder / RECIPE).unlink(missing_ok=True)


def _budget_of(path: Path) -> list[str]:
    try:
        return list(map(str, read_json(path)["budget"]))
    except (InputError, KeyError, TypeError):
        return []


def _finite(data: Any) -> Any:
    """JSON-ready data, with None for infinities and NaN."""
    return json.loads(json.dumps(data), parse_constant=lambda _word: None)
