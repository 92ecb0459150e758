"""What a sweep says: means, paired differences, fronts, effects and importances."""

from __future__ import annotations

import itertools
import random

import pytest
from scipy.stats import ttest_1samp

from dcnify.ablate.results.effects import effects
from dcnify.ablate.results.factor_page import factor_sections
from dcnify.ablate.results.outcome import Results
from dcnify.ablate.results.page import page_of
from dcnify.ablate.state.record import AblationRecord
from dcnify.ablate.state.store import DONE, FAILED, Row
from dcnify.report.render import markdown

KERNEL, GROUPS = "swaps.dw7.replace.kernel_size", "swaps.dw7.replace.group_channels"
SEEDS = (0, 1, 2)


def outcome(value, *, points=None, failed=(), seeds=SEEDS, uninformative=None, factors=None):
    """Results of a grid; ``value`` gives a trial's values from its point and seed."""
    points = points or [{KERNEL: k, GROUPS: g} for k, g in itertools.product((3, 5, 7), (8, 16))]
    hashes = [[f"{i}-{seed}" for seed in seeds] for i in range(len(points))]
    rows = {}
    for i, point in enumerate(points):
        for seed, name in zip(seeds, hashes[i], strict=True):
            state = FAILED if name in failed else DONE
            result = {"error": "it broke"} if name in failed else {"values": value(point, seed)}
            result["uninformative"] = uninformative
            spec = {"hash": name, "changes": point, "seed": seed}
            rows[name] = Row(i, i, name, state, result, spec, None)
    record = AblationRecord(
        version="0",
        sweep="s",
        description="Which?",
        factors={KERNEL: [3, 5, 7], GROUPS: [8, 16], **(factors or {})},
        seeds=seeds,
        measure=("fidelity",),
        points=[{"values": p, "trials": tuple(h)} for p, h in zip(points, hashes, strict=True)],
        base=0,
        setting={
            "run": {"source": {"source": "x"}, "data": {"data": None}, "images": {"images": None}},
            "source_sha256": "0" * 64,
            "recipe_name": "r",
            "changes": {},
        },
        storage=None,
    )
    return Results(record, rows)


def test_differences_are_paired_by_seed():
    luck = {0: 0.1, 1: -0.2, 2: 0.3}
    noise = {0: 0.001, 1: -0.002, 2: 0.003}
    found = outcome(
        lambda point, seed: {
            "accuracy": 0.5 + luck[seed] + (0.01 + noise[seed]) * (point[KERNEL] == 5)
        }
    )
    difference = found.points[2].differences["accuracy"]
    expected = ttest_1samp([0.01 + one for one in noise.values()], 0).confidence_interval(0.95)
    assert difference.mean == pytest.approx(0.01 + 0.002 / 3)
    assert (difference.low, difference.high) == pytest.approx((expected.low, expected.high))
    assert found.points[2].spreads["accuracy"] > 0.2  # unpaired, nothing could be told


def test_one_seed_has_no_interval():
    found = outcome(lambda point, seed: {"kl": point[KERNEL]}, seeds=(0,))
    difference = found.points[-1].differences["kl"]
    assert (difference.mean, difference.low, difference.high) == (4, None, None)


def test_the_front_is_what_no_other_point_beats():
    cost = {(3, 8): 1, (3, 16): 2, (5, 8): 3, (5, 16): 4, (7, 8): 5, (7, 16): 6}
    gain = {(3, 8): 0.5, (3, 16): 0.4, (5, 8): 0.7, (5, 16): 0.7, (7, 8): 0.9, (7, 16): 0.8}

    def value(point, seed):
        key = point[KERNEL], point[GROUPS]
        return {"agreement": gain[key], "flops": cost[key]}

    found = outcome(value)
    assert [one.index for one in found.front("flops")] == [0, 2, 4]
    assert found.best.index == 4


def test_latency_is_a_cost_against_the_original_whatever_held_a_trial_up():
    def value(point, seed):
        quick = point[KERNEL] == 3
        return {
            "agreement": 0.5 if quick else 0.9,
            "latency_ratio": 0.8 if quick else 1.2,
            "latency_ms": 9.0 if quick else 2.0,
        }

    found = outcome(value)
    (figure, _table) = next(one for one in page_of(found).sections if "latency" in one.title).parts
    (_others, best) = figure.charts[0].series
    assert best.labels == ("base", "2")  # as in the table
    assert found.costs == ["latency_ratio"]
    assert [one.changes[KERNEL] for one in found.front("latency_ratio")] == [3, 5]


def test_a_quantity_that_should_be_small_is_best_when_it_is():
    found = outcome(lambda point, seed: {"kl": 1 / point[KERNEL]})
    assert found.best.changes[KERNEL] == 7


@pytest.mark.parametrize(("quantity", "sign"), [("agreement", 1), ("kl", -1)])
def test_importance_is_the_same_in_both_directions(quantity, sign):
    random.seed(0)
    noise = {i: random.gauss(0, 1e-4) for i in range(100)}

    def value(point, seed):
        gain = 0.1 * point[KERNEL] + 0.02 * (point[GROUPS] == 8)
        return {quantity: sign * (gain + noise[seed])}

    found = effects(outcome(value).points, [KERNEL, GROUPS], quantity)
    assert found.importance[KERNEL] > 0.9
    assert sum(found.importance.values()) == pytest.approx(1)
    by_level = {(one.path, one.level): sign * one.effect for one in found.levels}
    assert by_level[KERNEL, "7"] == pytest.approx(0.2)
    assert by_level[KERNEL, "3"] == pytest.approx(-0.2)
    assert by_level[GROUPS, "8"] == pytest.approx(0.01)
    assert not found.interactions


def test_effects_stay_right_where_combinations_are_missing():
    points = [{KERNEL: k, GROUPS: g} for k, g in ((3, 8), (3, 16), (5, 8), (7, 16))]
    found = effects(
        outcome(lambda p, s: {"agreement": p[KERNEL] + p[GROUPS] / 8}, points=points).points,
        [KERNEL, GROUPS],
        "agreement",
    )
    effect = {(one.path, one.level): one.effect for one in found.levels}
    assert effect[KERNEL, "7"] - effect[KERNEL, "3"] == pytest.approx(4)
    assert effect[GROUPS, "16"] - effect[GROUPS, "8"] == pytest.approx(1)


def test_effects_that_do_not_add_up_are_an_interaction():
    def value(point, seed):
        return {"agreement": float((point[KERNEL] == 7) == (point[GROUPS] == 8))}

    found = effects(outcome(value, seeds=(0,)).points, [KERNEL, GROUPS], "agreement")
    assert found.interactions == ()  # six points that six parameters would explain anyway
    points = [{KERNEL: k, GROUPS: g, "x": x} for k in (3, 7) for g in (8, 16) for x in range(3)]
    found = effects(
        outcome(value, points=points, seeds=(0,)).points, [KERNEL, GROUPS, "x"], "agreement"
    )
    (pair,) = found.interactions
    assert pair.paths == (KERNEL, GROUPS)
    assert pair.share == pytest.approx(1)
    assert pair.levels == (("3", "7"), ("8", "16"))
    assert pair.means == ((0, 1), (1, 0))


def test_the_page_says_what_two_factors_do_together_or_that_nothing_can_be_told():
    def value(point, seed):
        return {"agreement": 0.5 + 0.1 * (point[KERNEL] == 7) * (point[GROUPS] == 8) + 0.01 * seed}

    grid = [{KERNEL: k, GROUPS: g, "x": x} for k in (3, 7) for g in (8, 16) for x in range(3)]
    page = markdown(page_of(outcome(value, points=grid, factors={"x": [0, 1, 2]})))
    assert "| kernel_size | group_channels=8 | group_channels=16 |" in page
    assert "| 7 | 61.0% | 51.0% |" in page
    told = "Too few points to tell whether one factor's effect depends on another."
    assert told not in page
    assert told in markdown(page_of(outcome(value)))

    def added(point, seed):
        return {"agreement": 0.1 * point[KERNEL] + 0.02 * point[GROUPS]}

    assert "The effects add up" in markdown(
        page_of(outcome(added, points=grid, factors={"x": [0, 1, 2]}))
    )
    one = [{KERNEL: k, GROUPS: 8} for k in (3, 5, 7)]
    page = markdown(page_of(outcome(value, points=one)))
    assert "add up" not in page
    assert "Too few" not in page


def test_the_difference_from_the_base_stands_beside_what_decides():
    found = outcome(lambda p, s: {"flops": p[KERNEL], "agreement": p[KERNEL] / 10 + s / 100})
    head = next(line for line in markdown(page_of(found)).splitlines() if "95% interval" in line)
    names = [one.strip() for one in head.strip("|").split("|")]
    at = names.index("agreement")
    assert names[at : at + 4] == ["agreement", "from the base", "95% interval", "FLOPs"]
    assert names[-1] == "seeds"


def test_effects_are_drawn_by_importance_with_values_in_their_order():
    found = outcome(lambda p, s: {"agreement": 0.001 * p[KERNEL] + 0.02 * p[GROUPS]})
    (section,) = factor_sections(found)
    axis = section.parts[0].charts[0].y
    assert axis.names == (
        "group_channels=8",
        "group_channels=16",
        "kernel_size=3",
        "kernel_size=5",
        "kernel_size=7",
    )


def test_what_is_missing_is_said_and_the_rest_reported():
    found = outcome(lambda point, seed: {"kl": point[KERNEL] + seed}, failed=("2-0", "2-1", "2-2"))
    assert "15 of 18 trials are done: 3 failed" in found.missing[0]
    page = markdown(page_of(found))
    assert "it broke" in page
    assert "15 of 18" in page
    assert found.best.index == 0


def test_nothing_measured_yet_is_a_page_too():
    names = tuple(f"{i}-{seed}" for i in range(6) for seed in SEEDS)
    assert "Nothing was measured yet" in markdown(page_of(outcome(None, failed=names)))


def test_an_output_that_says_little_does_not_decide_and_the_page_says_so():
    def value(point, _seed):
        return {"agreement": 1.0, "kl": 0.0, "worst_sqnr_db": float(point[KERNEL])}

    found = outcome(value, uninformative="a layer scale of 1e-6")
    assert found.objective == "worst_sqnr_db"
    assert found.best.changes[KERNEL] == 7
    assert "says little about the new layers" in markdown(page_of(found))
    assert "a layer scale of 1e-6" in markdown(page_of(found))
    assert outcome(value).objective == "agreement"
