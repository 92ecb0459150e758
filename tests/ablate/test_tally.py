"""What a person hears while a sweep runs: a line for each trial, and the time that is left."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from dcnify.ablate.state.store import DONE, Row
from dcnify.ablate.state.tally import Tally


class Clock:
    """Time that a test moves, and a storage of which each look may take some."""

    def __init__(self, monkeypatch, count):
        self.now, self.took, self.rows = 1000.0, 0.0, {}
        self.names = [f"h{number}" for number in range(count)]
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def latest(self):
        self.now += self.took
        return dict(self.rows)

    def end(self, *numbers):
        for number in numbers:
            name, result = f"h{number}", {"values": {"accuracy": 0.5, "seconds": 4.0}}
            spec = {"hash": name, "changes": {"swaps.a.init": f"v{number}"}, "seed": 0}
            self.rows[name] = Row(number, number, name, DONE, result, spec, None)


@pytest.fixture
def following(monkeypatch, tmp_path):
    clock, said = Clock(monkeypatch, 10), []
    record = SimpleNamespace(paths=["swaps.a.init"], hashes=clock.names, seeds=(0,))
    return clock, Tally(clock, record, tmp_path, say=said.append), said


def test_time_left_is_told_after_a_few_trials(following):
    clock, tally, said = following
    for number in range(4):
        clock.now += 10
        clock.end(number)
        tally.update()
    assert [line.partition(", about ")[2] for line in said] == ["", "", "1:10 left", "1:00 left"]
    assert said[0] == "[1/10] init=v0: accuracy 50.0%, 4.0 s"


def test_of_trials_that_end_together_the_last_line_has_the_time_left(following):
    clock, tally, said = following
    clock.end(0, 1, 2)
    tally.update()
    assert "left" not in "".join(said)  # all of them at once say nothing about their time
    clock.now += 20
    clock.end(3, 4)
    tally.update()
    assert said[-2].startswith("[4/10] init=v3")
    assert "left" not in said[-2]
    assert said[-1].endswith("about 0:50 left")


def test_a_slow_look_at_the_storage_does_not_silence_the_next(following):
    clock, tally, said = following
    clock.took = 60.0  # another process had locked it
    tally.update()
    clock.took = 0.0
    clock.now += 6
    clock.end(0)
    tally.update()
    assert len(said) == 1
