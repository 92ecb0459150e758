"""Budgets: the grammar, what is refused, and when a bound is met."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcnify.errors import InputError
from dcnify.search.choose.budget import Bound, misses, parse_budget


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        ("latency<=0.8", Bound("latency", "<=", 0.8, True)),
        ("latency<=80%", Bound("latency", "<=", 0.8, True)),
        ("latency <= 12ms", Bound("latency", "<=", 12.0)),
        ("latency<=0.5s", Bound("latency", "<=", 500.0)),
        ("FLOPs<=2G", Bound("flops", "<=", 2e9)),
        ("flops≤1.5x", Bound("flops", "<=", 1.5, True)),
        ("params<=5M", Bound("params", "<=", 5e6)),
        ("kl<=0.1", Bound("kl", "<=", 0.1)),
        ("agreement>=90%", Bound("agreement", ">=", 0.9)),
        ("agreement>=0.9", Bound("agreement", ">=", 0.9)),
        ("sites>=4", Bound("sites", ">=", 4)),
        ("sites<=50%", Bound("sites", "<=", 0.5, True)),
    ],
)
def test_a_bound_is_a_name_a_sense_and_a_number_with_or_without_a_unit(text, bound):
    assert parse_budget([text]) == (bound,)


def test_several_bounds_come_with_commas_or_one_by_one():
    joined = parse_budget(["latency<=0.8,agreement>=90%"])
    assert joined == parse_budget(["latency<=0.8", "agreement>=90%"])
    assert [bound.quantity for bound in joined] == ["latency", "agreement"]


def test_equal_numbers_of_sites_are_two_bounds():
    assert [bound.sense for bound in parse_budget(["sites=3"])] == ["<=", ">="]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("latency", "expected NAME<=NUMBER"),
        ("latncy<=0.8", "did you mean 'latency'"),
        ("latency>=0.8", "write latency<=0.8"),
        ("latency<0.8", "write latency<=0.8"),
        ("agreement<=0.8", "write agreement>=0.8"),
        ("agreement>=90", "from 0 to 1"),
        ("latency<=12kg", "unknown unit 'kg'; units are us, ms, s, x, %"),
        ("flops<=2000000000", "an absolute number has a unit"),
        ("flops<=0", "above 0"),
        ("kl<=-1", "from 0"),
        ("kl<=5%", "nats"),
        ("sites>=2.5", "counted"),
        ("latency<=1..2", "not a number"),
        ("latency<=0.8,latency<=2ms", "bounded twice"),
    ],
)
def test_whatever_cannot_be_read_is_refused_in_one_line(text, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(")) as caught:
        parse_budget([text])
    assert "\n" not in str(caught.value)


@given(st.sampled_from(["latency", "flops", "params"]), st.floats(0.01, 99, allow_subnormal=False))
def test_a_written_bound_reads_as_the_same(quantity, value):
    bound = Bound(quantity, "<=", float(f"{value:.3g}"), True)
    assert parse_budget([str(bound)]) == (bound,)


def test_a_missed_bound_says_what_was_found():
    budget = parse_budget(["latency<=0.8,agreement>=90%,sites>=2"])
    values = {"latency_ratio": 0.9, "agreement": 0.95, "sites": 1}
    assert misses(budget, values) == ["latency<=0.8 (0.9)", "sites>=2 (1)"]


def test_what_was_not_measured_is_missed():
    assert misses(parse_budget(["kl<=0.1"]), {}) == ["kl<=0.1 (not known)"]


def test_a_latency_may_exceed_its_bound_by_the_noise_of_a_timing_and_nothing_else_may():
    (latency, flops) = parse_budget(["latency<=1", "flops<=1"])
    assert latency.is_met({"latency_ratio": 1.01}, slack=0.02)
    assert not latency.is_met({"latency_ratio": 1.03}, slack=0.02)
    assert not flops.is_met({"flops_ratio": 1.01}, slack=0.02)
