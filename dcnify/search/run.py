"""Run a search: score every candidate, choose, verify, and write the recipe and the artifact."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from dcnify.artifact import save
from dcnify.errors import CheckError, InputError
from dcnify.progress import Progress, silent
from dcnify.search.choose.budget import Bound, Budget, misses
from dcnify.search.choose.decide import Decision
from dcnify.search.choose.methods import names_of
from dcnify.search.choose.prediction import Prediction
from dcnify.search.costs import costs_of
from dcnify.search.folder import ARTIFACT, RECIPE, check_folder, clear, write_result, write_text
from dcnify.search.measured import Measured, Store, size_of
from dcnify.search.place import Place, open_place
from dcnify.search.result import Candidate, ChosenSet, SearchResult, Values
from dcnify.search.rounds import Outcome, choose_and_verify
from dcnify.search.scores import Scores, score
from dcnify.search.spec import SearchSpec
from dcnify.search.verify import Verified, check_finite, values_of, verify
from dcnify.surgery import ConvertResult
from dcnify.surgery.fidelity.informative import why_untrained
from dcnify.surgery.require.floor import shortfall
from dcnify.surgery.require.revert import worst_first
from dcnify.surgery.result import OutputRequirement, SiteFidelity
from dcnify.surgery.table import module_label

Say = Callable[[str], None]


def run(
    spec: SearchSpec,
    *,
    progress: Progress = silent,
    say: Say = lambda text: None,
) -> SearchResult:
    """Choose which layers to swap within a budget, convert them, and write what came out.

    Every measurement is kept in the folder as it is made. Called again, also with another budget,
    the search measures what is missing.

    Args:
        spec: the request.
        progress: progress callback.
        say: called with remarks and measurements, one line each.

    Raises:
        InputError: something given is wrong, or the folder holds something else.
        CheckError: no set of layers is within the budget. What was measured is kept.
    """
    spec.check()
    check_folder(spec)
    place = open_place(spec, progress)
    for note in (*place.source.notes, *place.batch.remarks()):
        say(note)
    if spec.recipe is None:
        say(f"recipe {place.recipe.name}, for want of -r: it selects most layers of the model")
    budget = (*spec.bounds, *_implied(place, spec.bounds))
    store = Store(spec.folder, place.identity)
    costs, machine = costs_of(place, spec.folder)
    scores = score(place, store, say)
    _check_measurable(budget, scores)
    places = [place.paths.index(path) for path in scores.usable]
    usable = {
        name: dataclasses.replace(cost, added=cost.added[places]) for name, cost in costs.items()
    }
    prediction = Prediction(scores.effects, usable)
    outcome = choose_and_verify(
        prediction,
        budget,
        scores.usable,
        _worst_first(place, scores),
        scores.sets,
        lambda paths: verify(place, store, scores.original, paths),
        say,
    )
    result = SearchResult(
        request=spec.to_dict(),
        folder=spec.folder,
        budget=tuple(str(bound) for bound in spec.bounds),
        goal=outcome.first.goal,
        recipe=place.recipe.name,
        source=place.source.spec,
        images={"origin": place.batch.origin, "measured": place.images.count},
        machine=machine,
        measure=scores.effects.measure,
        original=_original(prediction),
        candidates=tuple(_candidates(place, scores, prediction)),
        sets=tuple(_sets(outcome.first, prediction, scores.usable)),
        rounds=outcome.rounds,
        notes=(*_notes(place, scores, budget[len(spec.bounds) :]), *outcome.refused),
    )
    if outcome.verified is None:
        failure = _failure(budget, outcome)
        clear(spec.folder)
        write_result(spec.folder, dataclasses.replace(result, failure=failure))
        raise CheckError(f"{failure}; what was measured is in {spec.output}")
    result = dataclasses.replace(result, chosen=outcome.verified.measured.paths)
    final, values = _final(place, store, scores, outcome.verified, budget)
    clear(spec.folder)
    write_text(spec.folder / RECIPE, final.recipe.to_yaml())
    save(final, spec.folder / ARTIFACT, source=place.source)
    result = dataclasses.replace(result, artifact=values)
    write_result(spec.folder, result)
    return result


def _implied(place: Place, budget: Budget) -> list[Bound]:
    """What the recipe requires of the output, unless the budget bounds it or gradients help yet."""
    require = place.recipe.require
    untrained = place.source.random_weights
    if require is None or require.on_violation == "warn" or not place.starts_as_recipe or untrained:
        return []
    named = {bound.quantity for bound in budget}
    asked = (("agreement", ">=", require.agreement), ("kl", "<=", require.kl))
    return [
        Bound(name, sense, value, is_implied=True)
        for name, sense, value in asked
        if value is not None and name not in named and place.found.capture.classes
    ]


def _notes(place: Place, scores: Scores, implied: Sequence[Bound]) -> Iterator[str]:
    for bound in implied:
        yield f"{bound} is what the recipe requires"
    outputs = [scores.original.original]
    if why := why_untrained(outputs, place.model, place.source.random_weights):
        yield f"the damage says little: {why}"


def _check_measurable(budget: Budget, scores: Scores) -> None:
    for bound in budget:
        if bound.quantity in ("kl", "agreement") and not scores.original.are_logits:
            raise InputError(
                f"--budget {bound}: the model's output is not (B, classes); bound a cost or sites"
            )


def _worst_first(place: Place, scores: Scores) -> list[int]:
    sites = [
        SiteFidelity(path, scores.alone[path].sqnr_db.get(path, float("nan")), float("nan"))
        for path in scores.usable
    ]
    swaps = tuple(swap for swap in place.plan.swaps if swap.site.path in scores.usable)
    ranked = worst_first(dataclasses.replace(place.plan, swaps=swaps), sites)
    return [scores.usable.index(one.path) for one in ranked]


def _original(prediction: Prediction) -> Values:
    return prediction.values(np.zeros(prediction.count, bool))


def _candidates(place: Place, scores: Scores, prediction: Prediction) -> list[Candidate]:
    found = []
    for swap in place.plan.swaps:
        path = swap.site.path
        alone: Measured = scores.alone[path]
        values: Values = {}
        added: dict[str, float] = {}
        if path in scores.usable:
            index = scores.usable.index(path)
            values = prediction.values(np.arange(prediction.count) == index)
            added = {
                name: float(cost.added[index] / cost.original) if cost.original else 0.0
                for name, cost in prediction.costs.items()
            }
        found.append(
            Candidate(
                path,
                module_label(swap),
                added,
                values,
                alone.sqnr_db.get(path),
                alone.refused,
                alone.seconds,
            )
        )
    return found


def _sets(decision: Decision, prediction: Prediction, paths: Sequence[str]) -> list[ChosenSet]:
    found = []
    for method, chosen in decision.chosen.items():
        names = None if chosen is None else names_of(chosen, paths)
        values = {} if chosen is None else prediction.values(chosen)
        found.append(ChosenSet(method, names, values))
    everything = np.ones(prediction.count, bool)
    return [*found, ChosenSet("all", tuple(paths), prediction.values(everything))]


def _failure(budget: Budget, outcome: Outcome) -> str:
    wanted = ", ".join(map(str, budget))
    if outcome.refused and not outcome.rounds:
        sets = f"{len(outcome.refused)} set{'' if len(outcome.refused) == 1 else 's'}"
        return f"no set of layers within {wanted} is left: {sets} refused, {outcome.refused[-1]}"
    said = ", ".join(misses(budget, outcome.closest)) or "no set was found"
    size = outcome.closest.get("sites")
    layers = "" if size is None else f", {size_of(round(size))},"
    how = "measured" if outcome.rounds else "predicted"
    return f"no set of layers is within {wanted}: the nearest{layers} misses {said}, {how}"


def _final(
    place: Place, store: Store, scores: Scores, verified: Verified, budget: Budget
) -> tuple[ConvertResult, Values]:
    """The conversion to be saved, by the recipe that is written; and what was measured of it.

    Raises:
        CheckError: it misses what its recipe requires, or gives NaN.
    """
    paths = verified.measured.paths
    recipe = place.final(paths)
    if not place.starts_as_recipe:
        trained = place.convert(recipe)
        outputs = place.outputs(trained.model)
        check_finite(outputs, paths)
        found = dataclasses.replace(verified.measured, outputs=outputs)
        return trained, values_of(place, found, scores.original)
    if verified.result is None:  # measured by an earlier call
        verified = verify(place, store, scores.original, paths, again=True)
    assert verified.result is not None
    result = verified.result
    required = None
    if recipe.require is not None and result.report.output is not None:
        asked: dict[str, Any] = recipe.require.model_dump()
        missed = shortfall(asked, result.report.output)
        if missed and recipe.require.on_violation != "warn":
            raise CheckError(f"require not met: {missed}; --set require=null goes on without it")
        required = OutputRequirement(asked, not missed, missed)
    report = dataclasses.replace(result.report, require=required)
    return dataclasses.replace(result, recipe=recipe, report=report), verified.values
