"""The state of trials: no trial goes to two workers, and that of a killed worker is taken again."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections import Counter

import pytest
from support.claims import claim_all, claim_and_hang
from support.processes import processes

from dcnify.ablate.state import owner, store
from dcnify.ablate.state.store import (
    DONE,
    FAILED,
    INFEASIBLE,
    PREEMPTED,
    RUNNING,
    VOID,
    WAITING,
    open_store,
)
from dcnify.errors import InputError

SERVER = os.environ.get("DCNIFY_TEST_POSTGRESQL", "postgresql+psycopg://t:t@127.0.0.1/t")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.db'}"
    try:
        open_store(SERVER, f"probe-{uuid.uuid4().hex}", create=True)
    except InputError as error:
        pytest.skip(f"no PostgreSQL server: {error}")
    return SERVER


@pytest.fixture
def trials(url):
    """A study of a name of its own, with a way to enqueue."""
    return open_store(url, f"s-{uuid.uuid4().hex}", create=True)


def specs(*names):
    return [{"hash": name, "changes": {}} for name in names]


def states(found):
    return {row.hash: row.state for row in found.latest().values()}


def test_two_workers_never_get_the_same_trial(url, trials, tmp_path):
    names = [f"h{i}" for i in range(30)]
    trials.enqueue(specs(*names))
    notes = tmp_path / "notes"
    workers = [
        processes().Process(target=claim_all, args=(url, trials.name, str(notes), seed))
        for seed in range(2)
    ]
    for one in workers:
        one.start()
    for one in workers:
        one.join()
    assert [one.exitcode for one in workers] == [0, 0]
    assert Counter(notes.read_text().split()) == Counter(names)
    assert Counter(row.state for row in trials.rows()) == {DONE: 30}


def test_the_trial_of_a_killed_worker_is_taken_again_at_once(url, trials):
    trials.enqueue(specs("a"))
    worker = processes().Process(target=claim_and_hang, args=(url, trials.name))
    worker.start()
    while not any(row.owner for row in trials.running()):
        time.sleep(0.05)
    assert trials.take_back() == []
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    assert [row.hash for row in trials.take_back()] == ["a"]
    assert [row.state for row in trials.rows()] == [PREEMPTED, WAITING]
    assert trials.claim().spec["kills"] == 1


def test_a_worker_without_a_heartbeat_loses_its_trial_and_cannot_write_it(trials, monkeypatch):
    trials.enqueue(specs("a"))
    late = trials.claim()
    time.sleep(2.1)  # SQLite tells the time in whole seconds
    monkeypatch.setattr(trials._storage, "grace_period", 1)
    assert [row.hash for row in trials.take_back()] == ["a"]
    again = trials.claim()
    assert trials.finish(again, {"values": {}})
    assert not trials.finish(late, {"values": {}})
    assert states(trials) == {"a": DONE}


def test_what_was_measured_by_a_worker_killed_at_the_last_step_is_kept(trials, monkeypatch):
    trials.enqueue(specs("a"))
    row = trials.claim()
    trials._storage.set_trial_user_attr(row.id, "result", {"values": {"kl": 1.0}})
    monkeypatch.setattr(store, "is_gone", lambda owner: True)
    assert trials.take_back() == []
    assert trials.latest()["a"].state == DONE


def test_a_trial_that_kills_every_worker_fails_in_the_end(trials, monkeypatch):
    trials.enqueue(specs("a"))
    monkeypatch.setattr(store, "is_gone", lambda owner: True)
    for _ in range(store.MOST_KILLS):
        assert trials.claim() is not None
        trials.take_back()
    assert trials.claim() is None
    assert "killed" in trials.latest()["a"].result["error"]


def test_states_are_told_apart(trials):
    trials.enqueue(
        specs("done", "failed", "infeasible", "given back", "dropped", "running", "left")
    )
    done, failed, infeasible, given_back = (trials.claim() for _ in range(4))
    trials.finish(done, {"values": {}})
    trials.fail(failed, "out of memory")
    trials.fail(infeasible, "require not met", infeasible=True)
    trials.give_back(given_back)
    trials.drop([trials.latest()["dropped"]])
    trials.claim()
    assert states(trials) == {
        "done": DONE,
        "failed": FAILED,
        "infeasible": INFEASIBLE,
        "given back": PREEMPTED,
        "running": RUNNING,
        "left": WAITING,
    }
    assert VOID in {row.state for row in trials.rows()}


def test_what_waits_runs_or_is_done_is_not_enqueued_again(trials):
    trials.enqueue(specs("a", "b", "c"))
    trials.finish(trials.claim(), {"values": {}})
    trials.claim()
    trials.enqueue(specs("a", "b", "c", "d"))
    assert [row.hash for row in trials.rows()] == ["a", "b", "c", "d"]


def test_what_was_given_back_is_enqueued_again(trials):
    trials.enqueue(specs("a"))
    trials.give_back(trials.claim())
    assert trials.claim() is None
    trials.requeue()
    assert trials.claim().hash == "a"


def test_a_process_is_known_by_its_number_and_when_it_began():
    mine = owner.this_process()
    assert not owner.is_gone(mine)
    assert owner.is_gone({**mine, "started": mine["started"] - 1}) is bool(owner.machine())
    assert not owner.is_gone({**mine, "started": 0, "machine": "another"})


def test_of_a_study_that_is_not_there_the_nearest_is_named_not_all(tmp_path):
    url = f"sqlite:///{tmp_path / 'state.db'}"
    for number in range(8):
        open_store(url, f"study{number}", create=True)
    with pytest.raises(InputError, match="did you mean 'study1'"):
        open_store(url, "studi1")
    with pytest.raises(InputError) as caught:
        open_store(url, "kernels")
    assert str(caught.value).endswith("there is study0, study1, study2, study3, study4, ...")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "expected the URL of a database"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", "me:***@127.0.0.1:1/x"),
        ("oracle+cx_oracle://me@nowhere/x", "pip install"),
        ("sqlite:////nowhere/at/all.db", "there is no such file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line_without_its_password(url, said):
    if "psycopg" in url:
        pytest.importorskip("psycopg")
    with pytest.raises(InputError) as caught:
        open_store(url, "x")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
