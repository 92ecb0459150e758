"""Name files and folders of other formats, each with the way to weights that can be opened."""

from __future__ import annotations

from pathlib import Path

from dcnify.errors import InputError

_OTHERS = "dcnify converts models of PyTorch"
_ONNX = f"is an ONNX model: {_OTHERS}; give the checkpoint that it was exported from"
# What a file starts with, at an offset, and what it then is.
_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89HDF\r\n\x1a\n", f"is an HDF5 file, of Keras perhaps: {_OTHERS}"),
    (4, b"TFL3", f"is a TensorFlow Lite model: {_OTHERS}"),
    (0, b"GGUF", "is a GGUF file, of quantised weights: convert the float original"),
    (0, b"\x93NUMPY", "is one NumPy array: save a state dict with torch.save"),
    (0, b"\x1f\x8b", "is compressed with gzip: unpack it"),
    (0, b"BZh", "is compressed with bzip2: unpack it"),
    (0, b"\xfd7zXZ\x00", "is compressed with xz: unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it"),
    (0, b"Rar!", "is a RAR archive: unpack it"),
    (0, b"\x89PNG", "is a picture, not weights"),
    (0, b"\xff\xd8\xff", "is a picture, not weights"),
    (0, b"GIF8", "is a picture, not weights"),
    (0, b"%PDF", "is a PDF, not weights"),
    (0, b"\x7fELF", "is a program or library, not weights"),
    (0, b"ftrt", f"is a TensorRT engine: {_OTHERS}; give the checkpoint that it was built from"),
    (0, b"ptrt", f"is a TensorRT engine: {_OTHERS}; give the checkpoint that it was built from"),
    (0, b"SQLite format 3", "is an SQLite database, not weights"),
)
# By the end of the name, where the content does not tell.
_ENDINGS = {
    ".onnx": _ONNX,
    ".pb": f"is a TensorFlow graph: {_OTHERS}",
    ".msgpack": f"is of Flax: {_OTHERS}; transformers can load it with from_flax=True",
    ".caffemodel": f"is a Caffe model: {_OTHERS}",
    ".mlmodel": f"is a Core ML model: {_OTHERS}",
    ".weights": "is of Darknet or Keras: give a checkpoint of PyTorch",
    ".pdparams": f"is of PaddlePaddle: {_OTHERS}",
    ".engine": f"is a TensorRT engine: {_OTHERS}; give the checkpoint that it was built from",
    ".distcp": "is a shard of torch.distributed.checkpoint: merge its folder with 'python -m "
    "torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER model.pt'",
}
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")
_MERGE = "'python -m torch.distributed.checkpoint.format_utils dcp_to_torch {} model.pt'"


def refuse_other_formats(path: Path, head: bytes) -> None:
    """Raise `InputError` if the first bytes or the name of a file are of another format."""
    text = head.lstrip().lower()
    if text.startswith(_PAGES):
        raise InputError(f"{path} is a web page, not weights: the download went wrong")
    if text.startswith(b"version https://git-lfs"):
        raise InputError(f"{path} is a Git LFS pointer, not the weights: run 'git lfs pull'")
    for offset, magic, said in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            raise InputError(f"{path} {said}")


def what_else(path: Path, head: bytes) -> str:
    """What a file is that neither PyTorch nor safetensors wrote, for a message."""
    if path.suffix in _ENDINGS:
        return _ENDINGS[path.suffix]
    if head[:1] == b"\x08" and any(name in head for name in (b"pytorch", b"onnx", b"tf2onnx")):
        return _ONNX
    if head.lstrip()[:1] in (b"{", b"[") and _is_text(head):
        return "is JSON, not weights: give the weight file, or the folder of both"
    if _is_text(head):
        return "is text, not weights"
    return "is not a weight file: neither PyTorch nor safetensors wrote it"


def describe_folder(folder: Path) -> str | None:
    """What a folder without a model's config holds, and the way out; None if nothing is known."""
    names = sorted(entry.name for entry in folder.iterdir())
    if ".metadata" in names or any(name.endswith(".distcp") for name in names):
        merge = _MERGE.format(folder)
        return f"holds shards of torch.distributed.checkpoint (FSDP): merge them with {merge}"
    steps = [name for name in names if name.startswith("global_step")]
    if "zero_to_fp32.py" in names or steps or any("model_states.pt" in name for name in names):
        return (
            "holds a checkpoint of DeepSpeed: merge its shards with 'python zero_to_fp32.py "
            f"{folder} OUT', the script that DeepSpeed put there"
        )
    if "saved_model.pb" in names or "keras_metadata.pb" in names:
        return f"holds a TensorFlow model: {_OTHERS}"
    if any(name.endswith(".index") for name in names) and any(".data-0" in name for name in names):
        return f"holds a TensorFlow checkpoint: {_OTHERS}"
    if any(name.endswith(".mlmodel") for name in names) or folder.suffix == ".mlpackage":
        return f"holds a Core ML model: {_OTHERS}"
    found = [path.relative_to(folder) for path in _weight_files(folder)]
    if len(found) == 1:
        return f"has no config.json, but one weight file: give {folder / found[0]}, with --arch"
    if found:
        listed = ", ".join(map(str, found[:4])) + (", ..." if len(found) > 4 else "")
        return f"has no config.json, but {len(found)} weight files: give one of {listed}"
    return None


def _weight_files(folder: Path) -> list[Path]:
    """Weight files in a folder and those right below it."""
    endings = ("*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.bin", "*.pth.tar")
    found = {path for end in endings for depth in ("", "*/") for path in folder.glob(depth + end)}
    return sorted(path for path in found if path.is_file())


def _is_text(head: bytes) -> bool:
    return bool(head) and all(byte >= 32 or byte in b"\t\r\n\f" for byte in head)
