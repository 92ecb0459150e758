"""The three methods on small problems, against all sets there are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcnify.search.choose.methods import (
    Problem,
    by_greed,
    by_milp,
    by_reverting,
    nearest,
    with_agreement,
)


def every_set(count):
    return [np.array(bits, bool) for bits in itertools.product([0, 1], repeat=count)]


@st.composite
def problems(draw):
    """Damage as of changes of an output; costs up and down; limits that some sets meet."""
    count, size = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    changes = rng.normal(size=(count, size)) * rng.uniform(0.1, 1, size=(count, 1))
    rows = rng.normal(size=(draw(st.integers(1, 3)), count))
    limits = np.quantile([rows @ one for one in every_set(count)], draw(st.floats(0, 1)), axis=0)
    damage = changes @ changes.T
    most = draw(st.sampled_from([np.inf, 0.5 * damage.sum(), 0.2 * np.trace(damage)]))
    cost = rng.normal(size=count)
    goal = draw(
        st.sampled_from([("damage",), (cost, "damage"), (-np.ones(count), "damage"), (cost,)])
    )
    return Problem(damage, rows, limits, max(most, 1e-3), goal)


def best_of_all(problem):
    allowed = [one for one in every_set(problem.count) if problem.allows(one)]
    return min((problem.value_of(one) for one in allowed), default=None)


@settings(max_examples=60, deadline=None)
@given(problems())
def test_the_program_finds_the_best_of_all_sets(problem):
    found, best = by_milp(problem), best_of_all(problem)
    if best is None:
        assert found is None
        return
    assert problem.violation(found) < 1e-4
    assert problem.value_of(found)[0] <= best[0] + 1e-4 * max(1, abs(best[0]))
    if len(best) > 1 and problem.value_of(found)[0] >= best[0] - 1e-6:
        assert problem.value_of(found)[1] <= best[1] + 1e-4 * max(1, best[1])


@settings(max_examples=60, deadline=None)
@given(problems())
def test_the_other_methods_give_allowed_sets_and_never_better_ones(problem):
    best = best_of_all(problem)
    worst_first = np.argsort(-np.diag(problem.damage))
    for found in (by_greed(problem), by_reverting(problem, worst_first)):
        if found is not None:
            assert problem.allows(found)
            assert problem.value_of(found)[0] >= best[0] - 1e-9


@settings(max_examples=40, deadline=None)
@given(problems())
def test_the_nearest_set_exceeds_the_limits_by_least(problem):
    def excess(one):
        return np.maximum(problem.rows @ one - problem.limits, 0).sum()

    least = min(excess(one) for one in every_set(problem.count))
    assert excess(nearest(problem)) <= least + 1e-4


def test_swaps_that_make_up_for_each_other_are_chosen_together():
    changes = np.array([[1.0], [-0.9], [0.5]])
    problem = Problem(changes @ changes.T, -np.ones((1, 3)), np.array([-2.0]))
    assert by_milp(problem).tolist() == [True, True, False]
    linear = Problem(np.diag(np.diag(problem.damage)), problem.rows, problem.limits)
    assert by_milp(linear).tolist() == [False, True, True]


def test_greed_takes_most_gain_for_its_damage():
    problem = Problem(np.diag([1.0, 1.0, 9.0]), np.array([[-1.0, -3.0, -3.0]]), np.array([-3.0]))
    assert by_greed(problem).tolist() == [False, True, False]


def test_reverting_goes_on_while_the_limit_holds_and_damage_falls():
    problem = Problem(np.diag([1.0, 2.0, 3.0]), -np.ones((1, 3)), np.array([-2.0]))
    assert by_reverting(problem, [2, 1, 0]).tolist() == [True, True, False]


def test_reverting_that_never_holds_finds_nothing():
    problem = Problem(np.eye(2), -np.ones((1, 2)), np.array([-3.0]))
    assert by_reverting(problem, [0, 1]) is None


@pytest.mark.parametrize("most", [2, 5])
def test_agreement_bounds_the_damage_by_bisection(most):
    damage = np.diag(np.arange(1.0, 7.0))
    problem = Problem(damage, np.zeros((1, 6)), np.ones(1), minimise=(-np.ones(6), "damage"))
    found = with_agreement(problem, by_milp, lambda one: problem.damage_of(one) <= most**2)
    best = max(one.sum() for one in every_set(6) if problem.damage_of(one) <= most**2)
    assert found.sum() == best


def test_agreement_that_no_set_reaches_finds_nothing():
    problem = Problem(np.eye(2), -np.ones((1, 2)), np.array([-1.0]))
    assert with_agreement(problem, by_milp, lambda one: False) is None
