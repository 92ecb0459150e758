"""Files and folders of other formats are named, each with the way out; shards are joined."""

import io
import json
import tarfile

import pytest
import torch
from safetensors.torch import save_file
from support.artifact_standin import assert_same, tiny

from dcnify.artifact import open_source
from dcnify.errors import InputError

NAMED = {
    "arch": "convnext_atto",
    "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "num_classes": 10},
}


def refused(path, match, **options):
    with pytest.raises(InputError, match=match) as error:
        open_source(path, **options)
    assert len(str(error.value).splitlines()) == 1
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("m.h5", b"\x89HDF\r\n\x1a\n", r"is an HDF5 file, of Keras perhaps"),
        ("m.tflite", b"\x1c\0\0\0TFL3", r"is a TensorFlow Lite model"),
        ("m.gguf", b"GGUF\3\0", r"is a GGUF file, of quantised weights"),
        ("m.npy", b"\x93NUMPY", r"is one NumPy array"),
        ("m.pt", b"\x1f\x8b\x08", r"is compressed with gzip: unpack it"),
        ("m.pt.zst", b"\x28\xb5\x2f\xfd", r"is compressed with zstd: unpack it"),
        ("m.7z", b"7z\xbc\xaf\x27\x1c", r"is a 7z archive"),
        ("m.png", b"\x89PNG\r\n", r"is a picture, not weights"),
        ("m.onnx", b"\x08\x07\x12\x07pytorch", r"is an ONNX model"),
        ("m.pt", b"\x08\x07\x12\x07pytorch\x1a", r"is an ONNX model"),
        ("m.pb", b"\x0a\x07", r"is a TensorFlow graph"),
        ("m.msgpack", b"\x83\xa5", r"is of Flax"),
        ("m.engine", b"\0\1", r"is a TensorRT engine"),
        ("0_0.distcp", b"\0\1", r"merge its folder with .*dcp_to_torch"),
        ("config.json", b'{"a": 1}', r"is JSON, not weights"),
        ("readme.txt", b"hello", r"is text, not weights"),
        ("m.bin", b"\0\1\2", r"neither PyTorch nor safetensors wrote it"),
    ],
)
def test_a_file_of_another_format_is_named(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data + b"\n" * 20 if b"\0" not in data else data)
    refused(tmp_path / name, match)


def test_a_tar_with_weights_inside_says_so(tmp_path):
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("x/model.pt"), io.BytesIO())
    refused(tmp_path / "m.tar", r"is a tar archive \(it holds x/model.pt\): unpack it")


@pytest.mark.parametrize(
    ("files", "match"),
    [
        (["model.pth"], r"has no config.json, but one weight file: give .*model.pth, with --arch"),
        (["weights/best.pt", "args.yaml"], r"one weight file: give .*weights/best.pt"),
        (["a.pt", "b.pt"], r"2 weight files: give one of a.pt, b.pt"),
        ([".metadata", "__0_0.distcp"], r"shards of torch.distributed.checkpoint .*dcp_to_torch"),
        (["latest", "zero_to_fp32.py"], r"a checkpoint of DeepSpeed: merge .*zero_to_fp32.py"),
        (["global_step9/mp_rank_00_model_states.pt"], r"a checkpoint of DeepSpeed"),
        (["saved_model.pb"], r"holds a TensorFlow model"),
        (["ckpt.index", "ckpt.data-00000-of-00001"], r"holds a TensorFlow checkpoint"),
    ],
)
def test_a_folder_of_another_kind_says_what_it_holds(tmp_path, files, match):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, match)


def sharded(tmp_path, state):
    """Half of the tensors in each of two files, and the index of both."""
    names, places = list(state), {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        save_file({name: state[name] for name in part}, tmp_path / file)
        places |= dict.fromkeys(part, file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def test_shards_with_an_index_are_joined(tmp_path):
    model = tiny()
    assert_same(model, open_source(sharded(tmp_path, model.state_dict()), **NAMED).model)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda said: said["weight_map"].update(x="../m.safetensors"), r"names a file elsewhere"),
        (lambda said: said["weight_map"].update(x="gone.safetensors"), r"gone.* does not exist"),
        (lambda said: said["weight_map"].update(x="model-00001-of-00002.safetensors"), r"x is not"),
        (lambda said: said.pop("weight_map"), r"has no weight_map"),
    ],
)
def test_an_index_that_does_not_hold_is_one_line(tmp_path, change, match):
    index = sharded(tmp_path, tiny().state_dict())
    said = json.loads(index.read_text())
    change(said)
    index.write_text(json.dumps(said))
    refused(index, match, **NAMED)


def test_a_shard_of_deepspeed_is_named(tmp_path):
    held = {"module": {"a.weight": torch.ones(0)}, "param_shapes": [], "ds_version": "0.15"}
    torch.save(held, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", r"a shard of DeepSpeed.*zero_to_fp32.py", **NAMED)
