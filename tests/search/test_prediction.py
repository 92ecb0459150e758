"""Predictions of sets: outputs are added up, and what was measured rescales them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dcnify.search.choose.budget import Bound, parse_budget
from dcnify.search.choose.decide import GREEDY, MILP, REVERT, decide
from dcnify.search.choose.prediction import Cost, Effects, Prediction, agreement, damage


@pytest.fixture
def effects():
    logits = 3 * torch.randn(32, 5)
    return Effects(logits, 0.3 * torch.randn(4, 32, 5), True)


def pick(*indices, count=4):
    return np.isin(np.arange(count), indices)


def prediction_of(effects, added=(-0.1, -0.2, -0.3, -0.4), **more):
    cost = Cost(1.0, np.array(added))
    return Prediction(effects, {"latency": cost, "flops": cost, "params": cost, **more})


def test_the_changes_of_the_output_add_up(effects):
    expected = damage(effects.original, effects.original + effects.changes[[0, 2]].sum(0), True)
    assert effects.damage(pick(0, 2)) == pytest.approx(expected)


def test_a_swap_alone_has_its_own_damage_in_the_matrix(effects):
    assert np.diag(effects.matrix()) == pytest.approx([effects.damage(pick(i)) for i in range(4)])


def test_of_small_changes_the_matrix_gives_the_damage_of_every_set(effects):
    small = replace(effects, changes=0.02 * effects.changes)
    matrix = small.matrix()
    for chosen in (pick(0, 1), pick(1, 2, 3), pick(0, 1, 2, 3)):
        assert chosen @ matrix @ chosen == pytest.approx(small.damage(chosen), rel=0.05)


def test_opposite_changes_cancel(effects):
    opposite = replace(effects, changes=torch.stack([effects.changes[0], -effects.changes[0]]))
    both = np.ones(2, bool)
    assert opposite.damage(both) == pytest.approx(0, abs=1e-9)
    assert both @ opposite.matrix() @ both < 0.2 * np.trace(opposite.matrix())


def test_without_classes_the_damage_is_the_squared_relative_error():
    features = Effects(torch.ones(2, 4), torch.full((1, 2, 4), 0.5), False)
    assert features.damage(np.array([True])) == pytest.approx(0.25)
    assert features.agreement(np.array([True])) is None


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_a_measured_set_rescales_the_damage(effects, factor):
    chosen = pick(0, 1, 3)
    wanted = factor * effects.damage(chosen)
    scaled = effects.scaled_to(chosen, wanted)
    assert scaled.damage(chosen) == pytest.approx(wanted, rel=5e-3)
    assert (scaled.damage(pick(2)) > effects.damage(pick(2))) == (factor > 1)


def test_later_swaps_that_make_up_for_earlier_errors_are_learned_from_measured_sets():
    torch.manual_seed(0)
    plain = Effects(3 * torch.randn(64, 5), 0.3 * torch.randn(8, 64, 5), True)
    truth = replace(plain, kept=(0.4, 0.8), fading=0.6)
    seen = [pick(*one, count=8) for one in (range(8), range(0, 8, 2), range(4), range(4, 8))]
    fitted = plain.fitted_to([(one, truth.damage(one)) for one in seen])
    for one in (pick(0, 1, 5, count=8), pick(2, 3, 4, 7, count=8), pick(1, 6, count=8)):
        assert fitted.damage(one) == pytest.approx(truth.damage(one), rel=0.1)
        assert plain.damage(one) > 1.2 * truth.damage(one)
    alone = pick(3, count=8)
    assert fitted.damage(alone) == pytest.approx(plain.damage(alone))


def test_changes_that_simply_add_up_are_left_so(effects):
    sets = [(one, effects.damage(one)) for one in (pick(0, 1, 2, 3), pick(0, 2))]
    assert effects.fitted_to(sets).kept == pytest.approx((1, 1), abs=0.05)


def test_a_measured_set_rescales_what_swaps_cost():
    cost = Cost(10.0, np.array([-1.0, -2.0]))
    assert cost.scaled_to(np.array([True, True]), 4.0).of(np.array([True, False])) == 8.0


def test_a_measurement_of_the_other_sign_is_no_factor():
    cost = Cost(10.0, np.array([-1.0]))
    assert cost.scaled_to(np.array([True]), 11.0) == cost


def decided(effects, budget, **costs):
    prediction = prediction_of(effects, **costs)
    return decide(prediction, parse_budget([budget]), [3, 2, 1, 0]), prediction


def test_a_bound_on_a_cost_is_met_with_least_damage(effects):
    decision, prediction = decided(effects, "latency<=0.65")
    chosen = decision.chosen[MILP]
    assert decision.goal == "least damage"
    assert prediction.values(chosen)["latency_ratio"] <= 0.65 + 1e-9
    for method in (GREEDY, REVERT):
        other = decision.chosen[method]
        if other is not None:
            matrix = effects.matrix()
            assert chosen @ matrix @ chosen <= other @ matrix @ other + 1e-9


def test_a_bound_on_agreement_is_held_by_the_cheapest_set(effects):
    decision, prediction = decided(effects, "agreement>=85%")
    values = prediction.values(decision.chosen[MILP])
    assert decision.goal == "lowest latency"
    assert values["agreement"] >= 0.85
    assert values["latency_ratio"] < 1


def test_what_a_recipe_requires_holds_and_does_not_decide_what_is_best(effects):
    prediction = prediction_of(effects)
    asked = parse_budget(["sites>=2"])
    required = Bound("agreement", ">=", 0.5, is_implied=True)
    decision = decide(prediction, (*asked, required), [3, 2, 1, 0])
    assert decision.goal == "least damage"
    alone = decide(prediction, asked, [3, 2, 1, 0])
    assert (decision.chosen[MILP] == alone.chosen[MILP]).all()


def test_where_no_swap_is_a_gain_as_many_as_fit_are_swapped(effects):
    decision, prediction = decided(effects, "flops<=1.35", added=(0.1, 0.1, 0.1, 0.1))
    assert decision.goal == "most layers"
    assert prediction.values(decision.chosen[MILP])["sites"] == 3


def test_a_number_of_sites_is_swapped_with_least_damage(effects):
    decision, _ = decided(effects, "sites>=50%", added=(0.1, 0.1, 0.1, 0.1))
    assert decision.goal == "least damage"
    assert decision.chosen[MILP].sum() == 2


def test_a_budget_that_nothing_meets_names_the_nearest_set(effects):
    decision, prediction = decided(effects, "latency<=0.5", added=(-0.1,) * 4)
    assert decision.chosen[MILP] is None
    assert prediction.values(decision.nearest)["latency_ratio"] == pytest.approx(0.6)


def test_agreement_and_cost_that_exclude_each_other_leave_no_set(effects):
    decision, _ = decided(effects, "latency<=0.1,agreement>=100%")
    assert decision.chosen[MILP] is None
    assert decision.nearest is not None


def test_where_a_change_is_another_in_a_set_it_is_damages_that_add_up():
    torch.manual_seed(0)
    logits, shared = 3 * torch.randn(64, 5), 0.2 * torch.randn(64, 5)
    alone = shared + 0.1 * torch.randn(8, 64, 5)
    alike = Effects(logits, alone, True)
    sets = [pick(*one, count=8) for one in (range(8), range(0, 8, 2), range(4), range(4, 8))]
    same = [(one, logits + alone[torch.from_numpy(one)].sum(0)) for one in sets]
    other = [(one, logits + 0.3 * int(one.sum()) ** 0.5 * torch.randn(64, 5)) for one in sets]
    assert alike.cohering_as(same).coherence == pytest.approx(1)
    apart = alike.cohering_as(other)
    assert apart.coherence < 0.1
    every = pick(0, 3, 5, count=8)
    added = sum(alike.damage(pick(i, count=8)) for i in (0, 3, 5))
    assert apart.damage(every) == pytest.approx(added, rel=0.2)
    assert alike.damage(every) > 2 * added
    assert every @ apart.matrix() @ every == pytest.approx(added, rel=0.2)


def test_agreement_counts_changes_as_far_as_they_cohere():
    torch.manual_seed(0)
    logits, shared = torch.randn(2000, 5), 0.2 * torch.randn(2000, 5)
    alone = shared + 0.05 * torch.randn(8, 2000, 5)
    apart = Effects(logits, alone, True, coherence=0.0)
    every = np.ones(8, bool)
    found = logits + 0.21 * 8**0.5 * torch.randn(2000, 5)  # of the same size, anywhere
    added = agreement(logits, apart.output(every))
    assert added < agreement(logits, found) - 0.1
    assert apart.agreement(every) == pytest.approx(agreement(logits, found), abs=0.05)
    assert apart.agreement(every) == apart.agreement(every)
    assert replace(apart, coherence=1.0).agreement(every) == pytest.approx(added)
    assert added < replace(apart, coherence=0.5).agreement(every) < apart.agreement(every)
    single = pick(3, count=8)
    assert apart.agreement(single) == agreement(logits, logits + alone[3])


def test_agreement_is_corrected_by_sets_that_were_measured():
    torch.manual_seed(0)
    logits = torch.randn(2000, 5)
    effects = Effects(logits, 0.2 * torch.randn(4, 2000, 5), True)
    sets = [pick(0, 1), pick(1, 2, 3)]
    told = [(one, 1 - 0.5 * (1 - effects.agreement(one))) for one in sets]
    found = effects.agreeing_as(told)
    assert found.flips == pytest.approx(0.5, rel=0.01)
    assert [found.agreement(one) for one in sets] == pytest.approx(
        [one for _, one in told], abs=0.01
    )
    assert found.agreement(pick(2)) == effects.agreement(pick(2))  # measured as it is
    assert found.agreeing_as(told).flips == found.flips
    few = replace(effects, original=logits[:20], changes=effects.changes[:, :20])
    none = [(one, 1.0) for one in sets]  # no image of 20 changed its class
    assert 0 < few.agreeing_as(none).flips < 1
