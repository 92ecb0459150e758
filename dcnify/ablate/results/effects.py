"""Which factors matter: the effect of each level, the importance of each factor, interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dcnify.ablate.points import level_text
from dcnify.ablate.results.points import PointResult
from dcnify.ablate.results.quantities import ALL

MATTERS = 0.05
"""Share of the variance between points from which an interaction is worth telling."""
_FEWEST = 4
"""Points that an importance needs."""


@dataclass(frozen=True)
class Effect:
    """One value of a factor: how far the points that have it lie above or below the mean."""

    path: str
    level: str
    effect: float
    points: int


@dataclass(frozen=True)
class Interaction:
    """Two factors whose effects do not add up."""

    paths: tuple[str, str]
    share: float
    """Of the variance between points, beyond that of both factors by themselves."""
    levels: tuple[tuple[str, ...], tuple[str, ...]]
    """The values of each of them."""
    means: tuple[tuple[float | None, ...], ...]
    """Of the points that have both values: a row for each value of the first factor. None where
    there is no such point."""


@dataclass(frozen=True)
class Effects:
    """What the factors do to one quantity."""

    quantity: str
    levels: tuple[Effect, ...]
    importance: dict[str, float]
    """By path, as Optuna estimates it; the sum is 1. Empty with too few points to tell."""
    interactions: tuple[Interaction, ...]
    """Those that matter, the largest first."""
    untold: bool = False
    """Whether there are too few points to tell whether some two factors interact."""


def effects(points: Sequence[PointResult], paths: Sequence[str], quantity: str) -> Effects | None:
    """What each factor does to a quantity; None if nothing varies.

    The effects of all factors are estimated together by least squares, so that they stay right
    where some combinations are missing.
    """
    having = [one for one in points if quantity in one.means and set(paths) <= one.changes.keys()]
    texts = {path: [level_text(one.changes[path]) for one in having] for path in paths}
    varied = [path for path in paths if len(set(texts[path])) > 1]
    if not varied or len(having) < 2:
        return None
    values = np.array([one.means[quantity] for one in having])
    coded = {path: _coded(texts[path]) for path in varied}
    columns = [np.ones((len(having), 1)), *(coded[path] for path in varied)]
    design = np.concatenate(columns, 1)
    solution = np.linalg.lstsq(design, values, rcond=None)[0]
    levels: list[Effect] = []
    at = 1
    for path in varied:
        names = list(dict.fromkeys(texts[path]))
        found = solution[at : at + len(names) - 1]
        at += len(names) - 1
        for name, effect in zip(names, [*found, -found.sum()], strict=True):
            levels.append(Effect(path, name, float(effect), texts[path].count(name)))
    interactions, untold = _interactions(design, coded, texts, values)
    importance = _importance(texts, varied, values, quantity)
    return Effects(quantity, tuple(levels), importance, interactions, untold)


def _coded(texts: Sequence[str]) -> np.ndarray:
    """A column for each level but the last, whose effect is minus the sum of the others."""
    names = list(dict.fromkeys(texts))
    rows = np.vstack([np.eye(len(names) - 1), -np.ones(len(names) - 1)])
    return rows[[names.index(text) for text in texts]]


def _interactions(
    design: np.ndarray,
    coded: dict[str, np.ndarray],
    texts: dict[str, list[str]],
    values: np.ndarray,
) -> tuple[tuple[Interaction, ...], bool]:
    """The interactions that matter, and whether there are pairs of which nothing can be told."""
    total = float(((values - values.mean()) ** 2).sum())
    if not total:
        return (), False
    alone = _unexplained(design, values)
    found, untold = [], False
    for one, other in combinations(coded, 2):
        products = np.einsum("ni,nj->nij", coded[one], coded[other]).reshape(len(values), -1)
        both = np.concatenate([design, products], 1)
        if np.linalg.matrix_rank(both) >= len(values):
            untold = True  # it would explain anything
            continue
        share = (alone - _unexplained(both, values)) / total
        if share >= MATTERS:
            found.append(
                Interaction((one, other), share, *_cells(texts[one], texts[other], values))
            )
    return tuple(sorted(found, key=lambda one: -one.share)), untold


def _cells(
    one: Sequence[str], other: Sequence[str], values: np.ndarray
) -> tuple[tuple[tuple[str, ...], tuple[str, ...]], tuple[tuple[float | None, ...], ...]]:
    """The values of two factors, and the mean of the points with each pair of them."""
    levels = tuple(dict.fromkeys(one)), tuple(dict.fromkeys(other))
    pairs = list(zip(one, other, strict=True))
    return levels, tuple(
        tuple(
            float(values[[pair == (row, column) for pair in pairs]].mean())
            if (row, column) in pairs
            else None
            for column in levels[1]
        )
        for row in levels[0]
    )


def _unexplained(design: np.ndarray, values: np.ndarray) -> float:
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(((values - fitted) ** 2).sum())


def _importance(
    texts: dict[str, list[str]], varied: Sequence[str], values: np.ndarray, quantity: str
) -> dict[str, float]:
    """The importances of Optuna's fANOVA, the same in both directions of the quantity."""
    if len(values) < _FEWEST or np.ptp(values) == 0:
        return {}
    import optuna
    from optuna.distributions import CategoricalDistribution

    from dcnify.ablate.state.storage import quiet

    known = {path: CategoricalDistribution(sorted(set(texts[path]))) for path in varied}
    with quiet():
        study = optuna.create_study(
            direction="maximize" if ALL[quantity].higher_is_better else "minimize"
        )
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={path: texts[path][i] for path in varied},
                    distributions=known,
                    value=float(value),
                )
                for i, value in enumerate(values)
            ]
        )
        # Shares of the variance between points. The default evaluator looks at the best tenth only,
        # which of two dozen points is two.
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {path: float(found.get(path, 0.0)) for path in varied}
