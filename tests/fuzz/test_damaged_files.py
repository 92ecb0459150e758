"""Whatever is done to a file, reading it ends soon, in the model or in one line.

`make fuzz` runs this for ten minutes, with other examples each time; the tests, for seconds.
"""

from __future__ import annotations

import json
import os
import resource
import time
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.artifact_standin import tiny
from support.mutations import damaged, edited

from dcnify.artifact import load, open_source, save
from dcnify.errors import DcnifyError
from dcnify.recipe import Recipe, builtins

SECONDS = float(os.environ.get("DCNIFY_FUZZ_SECONDS", 0))
KINDS = 7
LONGEST, MOST_MEMORY = 20, 1 << 20  # seconds, KiB
NAMED = {
    "arch": "convnext_atto",
    "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "num_classes": 10},
}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def fuzzed(strategy, check, examples=25):
    """Check examples of ``strategy``: so many, or as many as this kind's share of time allows."""
    end = time.monotonic() + SECONDS / KINDS
    while True:

        @settings(
            derandomize=not SECONDS,
            max_examples=examples,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def run(value):
            check(value)

        run()
        if time.monotonic() >= end:
            return


@contextmanager
def one_line_or_right(folder):
    """Let out nothing but one line; nothing may be written, take long, or fill memory."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    try:
        yield
    except DcnifyError as error:
        said = str(error)
        assert len(said.splitlines()) == 1
        assert len(said) < 900
    assert time.monotonic() - start < LONGEST
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MOST_MEMORY
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def saved(tmp_path, name="m.pt", **held):
    torch.save({"state_dict": tiny().state_dict(), "epoch": 3, **held}, tmp_path / name)
    return tmp_path / name


def reads(path, data):
    path.write_bytes(data)
    with one_line_or_right(path.parent):
        open_source(path, **NAMED)


def test_headers_of_safetensors(tmp_path):
    from safetensors.torch import save

    whole = save(tiny().state_dict())
    size = int.from_bytes(whole[:8], "little")
    header, rest = json.loads(whole[8 : 8 + size]), whole[8 + size :]

    def written(header):
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + rest

    path = tmp_path / "m.safetensors"
    fuzzed(damaged(header).map(written), lambda data: reads(path, data))
    fuzzed(edited(whole[: 8 + size]).map(lambda head: head + rest), lambda data: reads(path, data))


def test_directories_of_zips(tmp_path):
    whole = saved(tmp_path).read_bytes()
    directory = whole.rfind(b"PK\x01\x02", 0, whole.rfind(b"PK\x05\x06")) - 600
    fuzzed(edited(whole, directory), lambda data: reads(tmp_path / "m.pt", data))


def test_pickles(tmp_path):
    import pathlib

    path = saved(tmp_path, where=pathlib.Path("/x"))
    torch.save(torch.load(path, weights_only=False), path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    head = whole[:6000]
    fuzzed(edited(head).map(lambda start: start + whole[6000:]), lambda data: reads(path, data))


@pytest.mark.parametrize("part", ["plan.json", "config.json", "report.json"])
def test_parts_of_an_artifact(result, tmp_path, part):
    out = save(result, tmp_path / "out")
    whole = json.loads((out / part).read_text())

    def check(data):
        (out / part).write_text(json.dumps(data))
        with one_line_or_right(tmp_path):
            load(out)

    fuzzed(damaged(whole), check)


def test_recipes(tmp_path):
    texts = [recipe.text for recipe in builtins().values()]

    def check(data):
        (tmp_path / "r.yaml").write_bytes(data)
        with one_line_or_right(tmp_path):
            Recipe.load(tmp_path / "r.yaml")

    fuzzed(st.sampled_from(texts).flatmap(lambda text: edited(text.encode())), check)
