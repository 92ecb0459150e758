"""Several workers on one machine: each gets a GPU of its own, and its share of the cores."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest
import torch

from dcnify.ablate.processes import work_in_processes
from dcnify.ablate.state.record import LOGS


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts workers that only say what they were given; returns their words in order."""
    script = tmp_path / "python"
    script.write_text(
        '#!/bin/sh\nread told\necho "${CUDA_VISIBLE_DEVICES-none} $OMP_NUM_THREADS"\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    store = SimpleNamespace(name="s", take_back=lambda: [])
    tally = SimpleNamespace(update=lambda now=False: None, failed=[])

    def start(count):
        work_in_processes(count, tmp_path, "sqlite:///x", store, tally, fail_fast=False)
        logs = [tmp_path / LOGS / f"{number}.log" for number in range(count)]
        return [tuple(log.read_text().split()) for log in logs]

    return start


@pytest.mark.parametrize(
    ("visible", "gpus", "count", "expected"),
    [
        (None, 3, 3, ["0", "1", "2"]),
        (None, 2, 3, ["0", "1", "0"]),
        ("4,GPU-7f", 2, 2, ["4", "GPU-7f"]),
        ("5", 1, 2, ["5", "5"]),
        (None, 1, 2, ["none", "none"]),
        ("", 0, 2, ["", ""]),
    ],
)
def test_each_worker_sees_one_gpu_where_there_are_several(
    started, monkeypatch, visible, gpus, count, expected
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    told = started(count)
    assert [words[0] if len(words) == 2 else "" for words in told] == expected


def test_workers_share_the_cores(started, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [words[-1] for words in started(3)] == ["2", "2", "2"]
