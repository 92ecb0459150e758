"""A folder is replaced whole, or stays as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from dcnify import atomic, files
from dcnify.files import hidden_beside, replace_folder, sweep


def folder(path, **files):
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def texts(path):
    return {one.name: one.read_text() for one in path.iterdir()}


def test_a_new_folder_gets_its_name(tmp_path):
    replace_folder(folder(tmp_path / ".new", a="1"), tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert texts(tmp_path / "out") == {"a": "1"}


def test_an_old_folder_goes_but_for_what_is_kept(tmp_path):
    target = folder(tmp_path / "out", a="old", b="old", mine="old")
    replace_folder(folder(tmp_path / ".new", a="new"), target, lambda name: name == "mine")
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert texts(target) == {"a": "new", "mine": "old"}


def test_an_old_folder_stays_if_the_new_one_cannot_be_renamed(tmp_path, monkeypatch):
    target, new = folder(tmp_path / "out", a="old"), folder(tmp_path / ".new", a="new")
    rename = os.rename

    def refuse(before, after):
        if before == new:
            raise OSError(28, "No space left on device")
        rename(before, after)

    monkeypatch.setattr("dcnify.files.exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        replace_folder(new, target)
    assert texts(target) == {"a": "old"}


@pytest.mark.parametrize("exchanged", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_between_the_renames_leaves_a_whole_folder(
    tmp_path, monkeypatch, exchanged, number
):
    target = folder(tmp_path / "out", a="old", mine="old")
    new = folder(tmp_path / ".new", a="new")
    if not exchanged:
        monkeypatch.setattr("dcnify.files.exchange", lambda one, other: False)
    for name in ("rename", "exchange"):
        where, done = (os, "rename") if name == "rename" else (files, "exchange")
        real = getattr(where, done)

        def then_interrupt(*args, real=real):
            result = real(*args)
            os.kill(os.getpid(), number)
            return result

        monkeypatch.setattr(where, done, then_interrupt)
    before = signal.signal(number, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            replace_folder(new, target, lambda name: name == "mine")
    finally:
        signal.signal(number, before)
    assert texts(target) == {"a": "new", "mine": "old"}


def test_an_exception_between_the_renames_brings_the_old_folder_back(tmp_path, monkeypatch):
    target, new = folder(tmp_path / "out", a="old"), folder(tmp_path / ".new", a="new")
    rename = os.rename

    def once(before, after):
        rename(before, after)
        if before == target:
            raise KeyboardInterrupt

    monkeypatch.setattr("dcnify.files.exchange", lambda one, other: False)
    monkeypatch.setattr(os, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        replace_folder(new, target)
    assert texts(target) == {"a": "old"}


def test_a_folder_is_there_at_every_moment_where_names_can_be_exchanged(tmp_path, monkeypatch):
    target, new = folder(tmp_path / "out", a="old"), folder(tmp_path / ".new", a="new")
    if not atomic.exchange(folder(tmp_path / "x"), folder(tmp_path / "y")):
        pytest.skip("this system cannot exchange names")
    monkeypatch.setattr(os, "rename", lambda *args: pytest.fail("renamed"))
    replace_folder(new, target)
    assert texts(target) == {"a": "new"}


def left_by(path, process, mark=""):
    """A hidden name as a process of that number would have given it."""
    return path.with_name(hidden_beside(path, mark).name.replace(str(os.getpid()), str(process)))


def test_what_a_killed_run_left_is_swept_and_a_live_one_s_is_not(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    target = folder(tmp_path / "out", a="old")
    folder(left_by(target, gone.pid), a="half", mine="log")
    (left_by(tmp_path / "out.pt", gone.pid)).write_text("half")
    alive = folder(hidden_beside(target), a="half")
    sweep(target, lambda name: name == "mine")
    sweep(tmp_path / "out.pt")
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(["out", alive.name])
    assert texts(target) == {"a": "old", "mine": "log"}


def test_an_output_that_a_killed_run_had_put_aside_comes_back(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    folder(left_by(tmp_path / "out", gone.pid, "old"), a="old")
    sweep(tmp_path / "out")
    assert texts(tmp_path / "out") == {"a": "old"}
