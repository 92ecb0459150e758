"""Calls are timed in turns."""

from __future__ import annotations

import gc

import pytest
import torch

from dcnify.bench.timing import CpuClock, interleave


class Counting:
    """A clock that says each call took as long as the call returns."""

    def round(self, calls):
        return [call() for call in calls]


def recording():
    made = []

    def call(name, microseconds):
        def run():
            made.append(name)
            return microseconds

        return run

    return made, call


def test_every_round_runs_every_call_once():
    made, call = recording()
    timed = interleave({name: call(name, 1.0) for name in "abc"}, Counting(), seconds=0.01)
    rounds = timed["a"].rounds
    assert rounds >= 5
    assert len(made) == 3 * rounds
    for start in range(0, len(made), 3):
        assert sorted(made[start : start + 3]) == ["a", "b", "c"]


def test_the_order_changes_from_round_to_round_and_repeats_with_the_seed():
    orders = []
    for seed in (0, 0, 1):
        made, call = recording()
        interleave({name: call(name, 1.0) for name in "abcd"}, Counting(), 0.01, seed)
        orders.append(made[:20])
    assert orders[0] == orders[1] != orders[2]
    assert len({tuple(orders[0][i : i + 4]) for i in range(0, 20, 4)}) > 1


def test_slow_calls_still_get_five_rounds():
    made, call = recording()
    timed = interleave({"slow": call("slow", 7.0)}, Counting(), seconds=1e-9)
    assert timed["slow"].rounds == len(made) == 5
    assert timed["slow"].p50_us == 7.0


def test_percentiles_are_of_all_rounds():
    times = iter(range(1, 6))
    timing = interleave({"one": lambda: float(next(times))}, Counting(), seconds=1e-9)["one"]
    assert (timing.p20_us, timing.p50_us, timing.p80_us) == pytest.approx((1.8, 3.0, 4.2))


def test_garbage_is_collected_again_even_after_a_call_that_fails():
    def fail():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        interleave({"fail": fail}, Counting(), seconds=0.01)
    assert gc.isenabled()


def test_the_cpu_clock_warms_up_and_then_measures_each_call():
    clock, runs = CpuClock(), []
    assert clock.warm_up(lambda: runs.append(0)) >= 0
    assert len(runs) >= 2
    matrix = torch.ones(200, 200)
    short, long = clock.round([lambda: None, lambda: [matrix @ matrix for _ in range(50)]])
    assert 0 < short < long
