"""Result files are whole or not there."""

from __future__ import annotations

import os

import pytest

from dcnify.errors import DcnifyError, InputError
from dcnify.files import check_file, write_file


def test_a_file_appears_only_once_it_is_whole(tmp_path):
    path = tmp_path / "a.csv"

    def write(new):
        new.write_text("half")
        assert not path.exists()
        new.write_text("whole")

    write_file(path, write)
    assert path.read_text() == "whole"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_write_that_fails_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")

    def fail(new):
        new.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(DcnifyError, match="No space left"):
        write_file(path, fail, overwrite=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(DcnifyError, match="meanwhile"):
        write_file(path, lambda new: (new.write_text("ours"), path.write_text("theirs")))
    assert path.read_text() == "theirs"


def test_a_link_stays_a_link_to_the_new_file(tmp_path):
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    write_file(tmp_path / "link.csv", lambda new: new.write_text("new"), overwrite=True)
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text() == "new"


def test_what_cannot_be_written_is_refused_beforehand(tmp_path):
    (tmp_path / "there.csv").write_text("")
    with pytest.raises(InputError, match="--overwrite"):
        check_file(tmp_path / "there.csv")
    with pytest.raises(InputError, match="is a folder"):
        check_file(tmp_path, overwrite=True)
    with pytest.raises(InputError, match="there is no folder"):
        check_file(tmp_path / "nowhere" / "a.csv")
    check_file(tmp_path / "there.csv", overwrite=True)
    assert os.listdir(tmp_path) == ["there.csv"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused_beforehand(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        check_file(tmp_path / "a.csv")
