"""Rounds: what is chosen is converted, compared with its prediction, and corrected once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from dcnify.search.choose.budget import parse_budget
from dcnify.search.choose.prediction import Cost, Effects, Prediction
from dcnify.search.costs import latency_cost
from dcnify.search.measured import Measured
from dcnify.search.rounds import choose_and_verify, compare
from dcnify.search.verify import RefusedSetError, Verified

NAMES = tuple("abcdef")


def prediction(added=0.1):
    torch.manual_seed(0)
    logits = 3 * torch.randn(64, 5)
    changes = torch.randn(6, 64, 5) * torch.linspace(0.1, 0.6, 6)[:, None, None]
    cost = Cost(1.0, np.full(6, added))
    costs = {"latency": cost, "flops": cost, "params": cost}
    return Prediction(Effects(logits, changes, True), costs)


def pick(names):
    return np.isin(NAMES, list(names))


def run(budget, truth, made=None, refuses=lambda names: False):
    """Choose and verify where ``truth`` is what is measured, and sets that ``refuses`` is true of
    cannot be used; return the outcome and what was said."""
    said, converted = [], []

    def convert(names):
        converted.append(names)
        if refuses(names):
            raise RefusedSetError(f"{''.join(names)} gives NaN")
        return Verified(Measured(names, None), truth.values(pick(names)), None)

    outcome = choose_and_verify(
        made or prediction(), parse_budget([budget]), NAMES, [5, 4, 3, 2, 1, 0], (), convert,
        said.append,
    )  # fmt: skip
    return outcome, converted, said


def test_what_comes_out_as_predicted_is_converted_once():
    outcome, converted, said = run("sites>=3", prediction())
    assert converted == [outcome.verified.measured.paths]
    assert outcome.rounds[0].is_predicted
    assert "corrected" not in said[0]


def test_damage_that_is_off_is_corrected_and_another_set_is_chosen():
    effects = prediction().effects
    truth = replace(prediction(), effects=replace(effects, factor=1.6))
    budget = f"kl<={effects.damage(pick('abcd')):.4f}"
    outcome, converted, said = run(budget, truth)
    first, second = outcome.rounds
    assert first.off["kl"] < -0.2
    assert first.missed
    assert "predictions are corrected" in said[0]
    assert len(second.paths) < len(first.paths)
    assert not second.missed
    assert abs(second.off["kl"]) <= 0.2
    assert outcome.verified.measured.paths == second.paths == converted[-1]


def test_a_cost_that_is_off_is_corrected():
    outcome, _, _ = run("latency<=1.45", prediction(added=0.2))
    sizes = [len(one.paths) for one in outcome.rounds]
    assert sizes == [4, 2]
    assert outcome.rounds[1].measured["latency_ratio"] == pytest.approx(1.4)


def test_without_a_set_within_the_budget_the_nearest_is_told():
    outcome, converted, _ = run("flops<=0.5", prediction())
    assert outcome.verified is None
    assert converted == []
    assert outcome.closest["sites"] == 1


def test_a_second_miss_leaves_no_set():
    far = Cost(1.0, np.full(6, 2.0))
    truth = replace(prediction(), costs={"latency": far, "flops": far, "params": far})
    outcome, converted, _ = run("latency<=1.3", truth)
    assert outcome.verified is None
    assert outcome.closest["latency_ratio"] > 1.3
    assert len(converted) == 1


def test_a_set_that_cannot_be_used_is_refused_and_another_chosen():
    outcome, converted, said = run("sites>=3", prediction(), refuses=lambda names: "a" in names)
    assert converted[0] == ("a", "b", "c"), "the least damage"
    chosen = outcome.verified.measured.paths
    assert "a" not in chosen
    assert len(chosen) == 3
    assert said[0] == "abc gives NaN; another set is chosen"
    assert outcome.refused[0] == "abc gives NaN"
    assert len(set(converted)) == len(converted), "no set is converted twice"
    assert outcome.rounds[0].paths == chosen, "what is refused is no round"


def test_after_some_sets_the_worst_layer_of_each_is_left_out():
    outcome, converted, said = run("sites>=3", prediction(), refuses=lambda names: len(names) > 2)
    assert outcome.verified is None
    assert len(converted) <= 3 + len(NAMES), "not every set of three is tried"
    assert "the worst of them, is left out from here on" in said[3]


def test_a_set_that_is_refused_after_a_correction_makes_way_for_another():
    effects = prediction().effects
    truth = replace(prediction(), effects=replace(effects, factor=0.5))
    budget = f"kl<={effects.damage(pick('abc')):.4f}"
    outcome, _, said = run(budget, truth, refuses=lambda names: len(names) > 3)
    assert [len(one.paths) for one in outcome.rounds] == [2, 3]
    assert outcome.verified.measured.paths == outcome.rounds[1].paths
    assert any("another set is chosen" in line for line in said)


def test_damage_of_nearly_nothing_is_not_compared():
    values = {"kl": 1e-5, "latency_ratio": 1.0}
    made = compare(("a",), values, {"kl": 3e-5, "latency_ratio": 1.0}, ())
    assert made.off == {"latency": 0.0}


def test_times_of_single_layers_are_scaled_to_that_of_the_whole_model():
    timings = {"original": 10.0, "converted": 13.0, "layers": {"a": [1, 3], "b": [1, 5]}}
    cost = latency_cost(("a", "b", "unreached"), timings)
    assert cost.of(np.array([True, True, False])) == pytest.approx(13)
    assert cost.of(np.array([True, False, False])) == pytest.approx(11)
    assert cost.added[2] == 0


def test_a_whole_model_that_contradicts_its_layers_scales_nothing():
    timings = {"original": 10.0, "converted": 9.0, "layers": {"a": [1, 3]}}
    assert latency_cost(("a",), timings).added[0] == 2
