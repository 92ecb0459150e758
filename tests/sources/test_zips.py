"""Zip files: a damaged part is found, and other formats are named."""

import zipfile

import numpy as np
import pytest
import torch
from support.artifact_standin import tiny

from dcnify.artifact import load, open_source, save
from dcnify.errors import InputError


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as error:
        open_source(path, **options)
    assert len(str(error.value).splitlines()) == 1


def damage(path, tensor):
    data = bytearray(path.read_bytes())
    data[data.find(tensor.numpy().tobytes()) + 7] ^= 0x10
    path.write_bytes(data)


def test_one_wrong_bit_in_a_weight_is_found(tmp_path):
    torch.save(tiny().state_dict(), tmp_path / "m.pt")
    damage(tmp_path / "m.pt", torch.load(tmp_path / "m.pt")["stem.0.weight"])
    refused(tmp_path / "m.pt", r"m.pt is damaged: the checksum of its part m/data/0 is wrong")


def test_one_wrong_bit_in_an_artifact_file_is_found(result, tmp_path):
    out = save(result, tmp_path / "out.pt")
    damage(out, result.model.state_dict()["stem.0.weight"])
    with pytest.raises(InputError, match=r"out.pt is damaged: the checksum of its part"):
        load(out)


def test_a_file_without_checksums_opens(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tiny().state_dict(), tmp_path / "m.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    named = {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]}
    open_source(tmp_path / "m.pt", arch="convnext_atto", model_args=named)


def test_a_zip_that_unpacks_to_far_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data.pkl", b"x")
        archive.writestr("m/data/0", bytes(300 << 20))
    refused(tmp_path / "m.pt", r"would unpack to 0.3 GiB")


@pytest.mark.parametrize(
    ("members", "match"),
    [
        (["a.npy"], r"is a NumPy archive"),
        (["x/model.pt"], r"is a zip with x/model.pt inside: unpack it"),
        (["config.json", "model.weights.h5"], r"is a Keras model"),
        (["archive_format", "data/weights/0"], r"is a program of torch.export"),
        (["word/document.xml"], r"is a zip of something else \(it holds word/document.xml\)"),
        (["m/constants.pkl", "m/data.pkl", "m/code/x.py"], r"is a TorchScript program"),
    ],
)
def test_other_archives_are_named_by_what_they_hold(tmp_path, members, match):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        for name in members:
            archive.writestr(name, b"x")
    refused(tmp_path / "m.pt", match)


def test_real_archives_of_other_tools(tmp_path):
    np.savez(tmp_path / "vit.npz", a=np.ones(3))
    refused(tmp_path / "vit.npz", r"is a NumPy archive")
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "m.pt2")
    refused(tmp_path / "m.pt2", r"is a program of torch.export")
