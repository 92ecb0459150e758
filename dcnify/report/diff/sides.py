"""Open the two sides of a comparison, which are two artifacts or two recipes, and compare them."""

from __future__ import annotations

from pathlib import Path

from dcnify.artifact import Artifact, read_artifact
from dcnify.artifact.record import is_artifact
from dcnify.errors import InputError
from dcnify.files import near_files
from dcnify.progress import Progress, silent
from dcnify.recipe import Recipe, builtins, resolved
from dcnify.recipe.load import SUFFIXES
from dcnify.report.diff.artifacts import artifact_changes
from dcnify.report.diff.difference import Difference, changes
from dcnify.report.diff.weights import weight_changes


def compare(a: str, b: str, progress: Progress = silent) -> Difference:
    """Say what differs between two artifacts or two recipes.

    Weights are read where they lie, a tensor at a time; nothing is built and no code is run.

    Args:
        a: an artifact, the name of a built-in recipe, or the path of one.
        b: another of the same kind.
        progress: progress callback.

    Raises:
        InputError: one is neither, they are of two kinds, or one is damaged.
    """
    one, other = _opened(a), _opened(b)
    if isinstance(one, Artifact) and isinstance(other, Artifact):
        found = artifact_changes(one, other)
        return Difference("artifact", a, b, found, tuple(weight_changes(one, other, progress)))
    if isinstance(one, Recipe) and isinstance(other, Recipe):
        return Difference(
            "recipe", a, b, {"recipe": tuple(changes(resolved(one), resolved(other)))}
        )
    artifact, recipe = (a, b) if isinstance(one, Artifact) else (b, a)
    inside = Path(artifact, "recipe.yaml")
    hint = f"; the artifact's recipe is {inside}" if inside.is_file() else ""
    raise InputError(f"{artifact} is an artifact, {recipe} a recipe: give two of a kind{hint}")


def _opened(text: str) -> Artifact | Recipe:
    path = Path(text)
    named = text in builtins() or path.suffix.lower() in SUFFIXES
    if named or not (path.exists() or path.name != text):
        return Recipe.load(text)
    if not path.exists():
        raise InputError(f"{text} does not exist{near_files(path)}")
    if path.is_dir() and not is_artifact(path):
        inside = (one for one in sorted(path.iterdir()) if one.is_dir() and is_artifact(one))
        near = next(inside, None)
        hint = f"; did you mean {str(near)!r}?" if near else ""
        raise InputError(f"{text} is neither an artifact nor a recipe{hint}")
    return read_artifact(path)
