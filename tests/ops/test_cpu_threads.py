"""Sharing work between threads: all of it, once, whatever happens to the threads."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time

import pytest
import torch

from dcnify.ops.numba.threads import share_out


@pytest.fixture(autouse=True)
def _thread_count():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("tasks", [0, 1, 2, 3, 7, 100])
def test_every_task_is_done_once(threads, tasks):
    torch.set_num_threads(threads)
    done = []
    share_out(tasks, lambda first, last: done.extend(range(first, last)))
    assert sorted(done) == list(range(tasks))


def test_the_calling_thread_and_others_take_part():
    torch.set_num_threads(3)
    together, names = threading.Barrier(3, timeout=20), set()

    def work(first: int, last: int) -> None:
        if threading.current_thread().name not in names:
            names.add(threading.current_thread().name)
            together.wait()

    share_out(100, work)
    assert threading.current_thread().name in names
    assert len(names) == 3


def test_work_too_small_for_two_threads_stays_on_one():
    torch.set_num_threads(2)
    calls = []
    share_out(9, lambda first, last: calls.append((first, last)), at_least=5)
    assert calls == [(0, 9)]


@pytest.mark.parametrize("where", ["caller", "helper"])
def test_an_error_reaches_the_caller_and_stops_the_rest(where):
    torch.set_num_threads(2)
    caller, started = threading.current_thread(), threading.Barrier(2, timeout=20)
    done, first_of = [], set()

    def work(first: int, last: int) -> None:
        thread = threading.current_thread()
        if thread not in first_of:
            first_of.add(thread)
            started.wait()
            if (thread is caller) == (where == "caller"):
                raise ArithmeticError(where)
        time.sleep(0.01)
        done.append(first)

    with pytest.raises(ArithmeticError, match=where):
        share_out(800, work)
    assert len(done) < 7
    share_out(8, lambda first, last: done.append(first))


def test_many_callers_at_once_all_finish():
    torch.set_num_threads(4)
    sums = {}

    def caller(name: int) -> None:
        for _ in range(20):
            done: list[range] = []
            share_out(50, lambda first, last, done=done: done.append(range(first, last)))
            sums.setdefault(name, []).append(sum(map(sum, done)))

    callers = [threading.Thread(target=caller, args=(name,)) for name in range(40)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(timeout=60)
    assert sums == {name: [1225] * 20 for name in range(40)}


def test_work_may_itself_be_shared_out():
    torch.set_num_threads(3)
    done = []

    def outer(first: int, last: int) -> None:
        share_out(20, lambda a, b: done.extend([1] * (b - a) * (last - first)))

    share_out(60, outer)
    assert len(done) == 60 * 20


def _report(queue) -> None:
    torch.set_num_threads(3)
    together = threading.Barrier(2, timeout=20)
    met = []

    def work(first: int, last: int) -> None:
        if not met:
            together.wait()
            met.append(first)

    share_out(64, work)
    queue.put(bool(met))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_starts_threads_of_its_own():
    torch.set_num_threads(3)
    share_out(64, lambda first, last: time.sleep(0.001))
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_report, args=(queue,))
    child.start()
    assert queue.get(timeout=60)
    child.join(timeout=60)
    assert child.exitcode == 0


@pytest.mark.slow
def test_work_is_done_while_python_shuts_down():
    program = """
import atexit, threading, torch
from dcnify.ops.numba.threads import share_out
torch.set_num_threads(3)
def total(when):
    done = []
    share_out(100, lambda first, last: done.extend(range(first, last)))
    print(when, sum(done), flush=True)
atexit.register(total, "late")
total("early")
threading._register_atexit(total, "between")
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.stderr == ""
    assert run.stdout.split("\n")[:3] == ["early 4950", "between 4950", "late 4950"]
