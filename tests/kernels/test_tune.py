"""Autotuning: off unless asked for, measured once, kept on disk, whatever becomes of the disk."""

from __future__ import annotations

import json
import runpy
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("triton")

from dcnify.kernels.config import Block, Window, blocks_around, windows_around
from dcnify.kernels.plan import Geometry, KernelCall, plan_backward, plan_forward
from dcnify.kernels.tools import tune

CALL = KernelCall(2, (56, 56), (56, 56), 4, 32, "float16", True, True, False, "sm_90")
GEOMETRY = Geometry(3, 3, 1, 1, 1, 1, 1, 1, False, False)
CANDIDATES = (Block(16, 64, 4), Block(16, 32, 2), Block(32, 32, 4))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DCNIFY_CACHE", str(tmp_path / "cache"))
    tune.results_of.cache_clear()
    tune._warn_once.cache_clear()
    yield tmp_path / "cache"
    tune.results_of.cache_clear()


def times(**of):
    """A stand-in for measuring: rows decide, and every look is counted."""

    def time(candidate):
        time.looks += 1
        return of.get(f"rows{candidate.rows}", 1.0)

    time.looks = 0
    return time


@pytest.mark.parametrize(("told", "on"), [(None, False), ("0", False), ("1", True)])
def test_it_is_off_unless_asked_for(told, on, monkeypatch):
    monkeypatch.delenv("DCNIFY_AUTOTUNE", raising=False)
    if told is not None:
        monkeypatch.setenv("DCNIFY_AUTOTUNE", told)
    assert runpy.run_path(tune.__file__)["ON"] is on


def test_the_fastest_is_found_once_and_remembered_across_processes(cache):
    time = times(rows32=0.5)
    assert tune.results_of("H200").best("a", CANDIDATES, time) == CANDIDATES[1]
    assert time.looks == 3
    tune.results_of.cache_clear()
    assert tune.results_of("H200").best("a", CANDIDATES, time) == CANDIDATES[1]
    assert time.looks == 3
    assert tune.results_of("A100").best("a", CANDIDATES, times()) == CANDIDATES[0]
    assert len(list(cache.glob("*.json"))) == 2


def test_what_is_remembered_but_no_longer_offered_is_measured_again():
    tune.results_of("H200").best("a", CANDIDATES, times(rows32=0.5))
    time = times()
    assert tune.results_of("H200").best("a", CANDIDATES[:1], time) == CANDIDATES[0]
    assert time.looks == 1


def test_with_no_time_to_measure_the_default_is_taken_and_not_remembered():
    results = tune.results_of("H200")
    assert results.best("a", CANDIDATES, None) == CANDIDATES[0]
    assert results.best("a", CANDIDATES, times(rows32=0.5)) == CANDIDATES[1]
    assert results.best("a", CANDIDATES, None) == CANDIDATES[1]


def test_a_candidate_that_does_not_fit_the_gpu_is_passed_over():
    from triton.runtime.errors import OutOfResources

    def time(candidate):
        if candidate.rows == 32:
            raise OutOfResources(300_000, 232_448, "shared memory")
        return 1.0

    assert tune.results_of("H200").best("a", CANDIDATES, time) == CANDIDATES[0]


def test_processes_that_tune_at_once_keep_each_others_results(cache):
    def one(number):
        tune.Results(cache / "shared.json").best(f"key {number}", CANDIDATES, times())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(40)))
    assert len(json.loads((cache / "shared.json").read_text())) == 40
    assert not [file for file in cache.iterdir() if file.suffix not in (".json", ".lock")]


@pytest.mark.parametrize("text", ["{", "[1, 2]", "\x00\xff"])
def test_a_file_that_is_not_readable_is_reported_once_and_written_anew(cache, text):
    cache.mkdir()
    file = cache / "some.json"
    file.write_text(text)
    with pytest.warns(UserWarning, match="start anew") as told:
        tune.Results(file).best("a", CANDIDATES, times())
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tune.Results(file).known == {"a": [16, 64, 4]}


def test_where_nothing_can_be_written_it_works_and_says_so_once(tmp_path):
    (tmp_path / "file").write_text("")
    results = tune.Results(tmp_path / "file" / "below" / "some.json")
    with pytest.warns(UserWarning, match="not kept") as told:
        found = [results.best(key, CANDIDATES, times(rows32=0.5)) for key in ("a", "b")]
    assert found == [CANDIDATES[1]] * 2
    assert len(told) == 1
    time = times()
    assert results.best("a", CANDIDATES, time) == CANDIDATES[1]
    assert time.looks == 0


def test_the_default_comes_first_and_every_candidate_can_be_planned():
    default = plan_forward(CALL, GEOMETRY)
    blocks = blocks_around(Block(16, 64, 4), 32)
    assert plan_forward(CALL, GEOMETRY, blocks[0]) == default
    assert len({plan_forward(CALL, GEOMETRY, one).constants["ROWS"] for one in blocks}) > 1
    for one in windows_around(Window(4, 8, 16, 16, 16, 4)):
        assert plan_backward(CALL, GEOMETRY, 1.0, True, None, one).value.warps == one.warps


def test_a_tuned_launch_is_the_one_that_was_fastest(monkeypatch):
    monkeypatch.setattr(tune, "seconds", lambda run: run())
    slow_unless = lambda right: lambda launch: 0.1 if right(launch) else 1.0  # noqa: E731
    forward = tune.tuned_forward(CALL, GEOMETRY, "H200", slow_unless(lambda one: one.warps == 8))
    assert forward.warps == 8
    backward = tune.tuned_backward(
        CALL,
        GEOMETRY,
        1.0,
        True,
        "H200",
        slow_unless(lambda one: one.constants["ROWS"] == 128),
        slow_unless(lambda one: one.constants["TILE_W"] == 4),
    )
    assert backward.points.constants["ROWS"] == 128
    assert backward.value.constants["TILE_W"] == 4
    assert tune.tuned_backward(CALL, GEOMETRY, 1.0, False, "H200", None, None).value is None


def test_calls_of_like_size_share_a_result_and_others_do_not():
    key = tune.key_of("forward", CALL, GEOMETRY)
    assert tune.key_of("forward", CALL._replace(out_size=(50, 50)), GEOMETRY) == key
    for other in (
        CALL._replace(out_size=(14, 14)),
        CALL._replace(groups=8),
        CALL._replace(group_channels=16),
        CALL._replace(dtype="float32"),
        CALL._replace(batch=64),
    ):
        assert tune.key_of("forward", other, GEOMETRY) != key
    assert tune.key_of("forward", CALL, GEOMETRY._replace(softmax=True)) != key
