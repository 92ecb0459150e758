"""A folder is replaced whole, or stays as it was."""

from __future__ import annotations

import os

import pytest

from dcnify.files import replace_folder


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

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="No space"):
        replace_folder(new, target)
    assert texts(target) == {"a": "old"}
