"""An output is there whole or not at all, and nothing else is ever destroyed."""

import importlib
import os
import stat

import pytest
import torch
from support.artifact_standin import SITES, assert_same, converted, replay, tiny

from dcnify.artifact import check_output, load, save
from dcnify.errors import DcnifyError, InputError

saving = importlib.import_module("dcnify.artifact.save")  # the name is also the function's


@pytest.mark.parametrize("name", ["out", "out.pt"])
def test_an_existing_output_needs_overwrite(result, tmp_path, name):
    save(result, tmp_path / name)
    with pytest.raises(InputError, match=r"exists; pass --overwrite"):
        save(result, tmp_path / name)
    other = converted(tiny(), *SITES)
    assert_same(other.model, load(save(other, tmp_path / name, overwrite=True)))
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_folder_of_other_things_is_never_replaced(result, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"not a dcnify artifact \(it holds thesis.tex\)"):
        save(result, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_what_others_put_into_an_artifact_survives_overwriting(result, tmp_path):
    out = save(result, tmp_path / "out")
    (out / "runs").mkdir()
    (out / "runs" / "log.txt").write_text("epoch 1")
    save(result, out, overwrite=True)
    assert (out / "runs" / "log.txt").read_text() == "epoch 1"
    assert_same(result.model, load(out))


def test_an_empty_folder_needs_no_overwrite(result, tmp_path):
    (tmp_path / "out").mkdir()
    assert_same(result.model, load(save(result, tmp_path / "out")))


def test_parents_are_made(result, tmp_path):
    assert_same(result.model, load(save(result, tmp_path / "a" / "b" / "out.pth")))


def test_a_link_stays_a_link_to_the_new_output(result, tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "store")
    save(result, tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert_same(result.model, load(tmp_path / "store"))


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["out", "out.pt"])
def test_a_failure_while_writing_leaves_what_was_there(
    result, tmp_path, monkeypatch, name, overwrite
):
    if overwrite:
        save(result, tmp_path / name)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "sha256_file", full)
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DcnifyError, match=r"could not be written: No space left") as error:
        save(converted(tiny(), *SITES), tmp_path / name, overwrite=overwrite)
    assert error.value.exit_code == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ([name] if overwrite else [])
    if overwrite:
        monkeypatch.undo()
        monkeypatch.setattr("dcnify.surgery.replay", replay)
        assert_same(result.model, load(tmp_path / name))


def test_an_interrupt_while_writing_leaves_nothing(result, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "sha256_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(result, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_place_taken_meanwhile_is_not_overwritten(result, tmp_path, monkeypatch):
    def take(*args, **kwargs):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").write_text("x")
        return "0" * 64

    monkeypatch.setattr(saving, "sha256_file", take)
    with pytest.raises(DcnifyError, match=r"could not be written"):
        save(result, tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "mine").exists()


def test_an_artifact_is_as_readable_as_any_new_file(result, tmp_path):
    out = save(result, tmp_path / "out")
    (tmp_path / "plain").mkdir()
    assert stat.S_IMODE(out.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_file_and_a_folder_are_not_mistaken(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(InputError, match=r"exists and is a file"):
        check_output(tmp_path / "file", True)
    with pytest.raises(InputError, match=r"exists and is a folder"):
        check_output(tmp_path / "folder.pt", True)
    with pytest.raises(InputError, match=r"file is a file"):
        check_output(tmp_path / "file" / "out", True)


@pytest.mark.parametrize("name", ["model.safetensors", "model.onnx", "model.bin"])
def test_another_format_is_refused_by_its_name(tmp_path, name):
    with pytest.raises(InputError, match=r"a folder, or a file ending in .pt or .pth"):
        check_output(tmp_path / name)


@pytest.mark.skipif(os.name == "nt" or not os.path.isdir("/proc"), reason="needs /proc")
def test_a_place_that_cannot_be_written_is_told_early():
    with pytest.raises(InputError, match=r"/proc/out cannot be written: /proc: "):
        check_output("/proc/out")


def test_checking_leaves_no_trace(tmp_path):
    check_output(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
