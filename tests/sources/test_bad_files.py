"""Whatever is wrong with a file is said in one line, before anything in it runs."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from support.artifact_standin import tiny

from dcnify.artifact import open_source
from dcnify.errors import InputError


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as error:
        open_source(path, **options)
    assert len(str(error.value).splitlines()) == 1
    assert len(str(error.value)) < 500
    assert error.value.exit_code == 2


def test_a_missing_file_names_its_neighbour(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "model_best.pth")
    refused(tmp_path / "model_bset.pth", r"does not exist, did you mean .*model_best.pth")


def test_an_empty_file(tmp_path):
    (tmp_path / "model.pt").touch()
    refused(tmp_path / "model.pt", r"is empty")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_a_truncated_checkpoint(tmp_path, zipped, part):
    path = tmp_path / "model.pt"
    torch.save(tiny().state_dict(), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    refused(path, r"truncated|cannot be read")


@pytest.mark.parametrize("keep", [4, 60, -5])
def test_truncated_safetensors(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_file(tiny().state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, r"truncated or not safetensors")


@pytest.mark.parametrize("text", ["<!DOCTYPE html><html>", "  <html>", "<?xml version='1.0'?>"])
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_a_web_page_saved_as_weights(tmp_path, text, name):
    (tmp_path / name).write_text(text)
    refused(tmp_path / name, r"is a web page, not weights")


def test_a_git_lfs_pointer(tmp_path):
    (tmp_path / "model.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    refused(tmp_path / "model.pt", r"Git LFS pointer.*git lfs pull")


@pytest.mark.parametrize("data", [b"\x00" * 100, b"hello", os.urandom(999) + b"x", b"PK\x03\x04xx"])
def test_bytes_that_are_no_weights(tmp_path, data):
    (tmp_path / "model.pt").write_bytes(data)
    refused(tmp_path / "model.pt", r"not a weight file|not weights|truncated|cannot be read")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_does_not_run(tmp_path, zipped):
    held = {"state_dict": Touch(tmp_path / "ran")}
    torch.save(held, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "model.pt", r"holds Python objects \(.*mkdir\).*--trust-pickle")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_code_in_a_bare_pickle_does_not_run(tmp_path, protocol):
    data = pickle.dumps({"a": Touch(tmp_path / "ran")}, protocol=protocol)
    (tmp_path / "model.pkl").write_bytes(data)
    refused(tmp_path / "model.pkl", r"model.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_torchscript_program(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "model.pt")
    refused(tmp_path / "model.pt", r"is a TorchScript program")


@pytest.mark.parametrize(
    ("held", "match"),
    [
        ([1, 2], r"of type list, not a state dict"),
        (torch.ones(2), r"of type Tensor, not a state dict"),
        ({}, r"holds no state dict; at its top level it has nothing"),
        ({"student": {"a": 1}, "epoch": 3}, r"at its top level it has 'student'"),
        ({"model_ema": {"a": torch.ones(1)}}, r"only averaged \(EMA\) weights.*--use-ema"),
    ],
)
def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path, held, match):
    torch.save(held, tmp_path / "model.pt")
    refused(tmp_path / "model.pt", match)


def test_a_whole_module_needs_trust(tmp_path):
    torch.save(tiny(), tmp_path / "model.pt")
    refused(tmp_path / "model.pt", r"holds Python objects .*timm.*--trust-pickle")


def test_a_trusted_module_is_taken_with_its_base(tmp_path):
    torch.save(tiny(), tmp_path / "model.pt")
    source = open_source(tmp_path / "model.pt", trust_pickle=True)
    assert source.base.name == "convnext_atto"
    assert source.base.args["dims"] == [8, 16, 24, 32]


def test_a_trusted_module_of_no_known_architecture_says_what_saving_needs(tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), tmp_path / "model.pt")
    source = open_source(tmp_path / "model.pt", trust_pickle=True)
    assert source.base is None
    assert "saving its conversion needs a base" in source.notes[0]


def test_a_folder_of_something_else(tmp_path):
    refused(tmp_path, r"neither an artifact nor a timm model: it has no config.json")
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    refused(tmp_path, r"neither an artifact nor a timm model")


def test_a_file_that_cannot_be_opened(tmp_path):
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    refused(tmp_path / "loop.pt", r"loop.pt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a Unix thing")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_named_pipe_inside_a_folder_is_not_waited_for(tmp_path, name):
    (tmp_path / "config.json").write_text('{"architecture": "test_convnext"}')
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    refused(tmp_path, r"has no (config.json|weights)")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")
def test_a_device_is_not_read():
    refused("/dev/zero", r"^/dev/zero is neither a regular file nor a folder")
