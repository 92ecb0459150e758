"""Write an ONNX file, check it, and run it in onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dcnify.errors import DcnifyError
from dcnify.words import first_line

LARGEST = 2**31 - 2**24
"""Bytes of weights in a file; one message of protobuf has two gigabytes at most."""


def data_beside(path: Path) -> Path:
    """Where weights go that are too large for the file."""
    return path.with_name(f"{path.name}.data")


def write(model: Any, path: Path) -> tuple[Path, ...]:
    """Write ``path``, and beside it ``NAME.data`` for weights above two gigabytes; check both.

    Args:
        model: an `onnxscript.ir.Model`.
        path: of the file.

    Returns:
        The files.

    Raises:
        DcnifyError: ONNX's own checker refuses the file, which would be a fault of ours.
    """
    import onnx
    from onnxscript import ir

    weights = sum(
        one.const_value.nbytes for one in model.graph.initializers.values() if one.const_value
    )
    beside = data_beside(path) if weights > LARGEST else None
    ir.save(model, path, external_data=None if beside is None else beside.name)
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:
        raise DcnifyError(f"the ONNX model is not valid: {first_line(error)}") from error
    return (path,) if beside is None else (path, beside)


_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(double)": torch.float64,
}
"""Types of inputs that are cast to; others are given as they are."""


class Session:
    """An ONNX file, or its bytes, in onnxruntime on the CPU.

    Raises:
        DcnifyError: it does not load.
    """

    def __init__(self, model: Path | bytes, threads: int | None = None) -> None:
        import onnxruntime  # type: ignore[import-untyped]  # it has no types

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise DcnifyError(f"onnxruntime cannot load it: {first_line(error)}") from error
        inputs = self._session.get_inputs()
        self.shapes = {one.name: tuple(one.shape) for one in inputs}
        self._dtypes = [_DTYPES.get(one.type) for one in inputs]

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Return the outputs for tensors in the order of the inputs."""
        return self.prepared(tensors)()

    def prepared(self, tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
        """Return the call with these tensors, cast to the types of the inputs."""
        given: dict[str, Any] = {
            name: one.detach().to("cpu", dtype or one.dtype).contiguous().numpy()
            for name, one, dtype in zip(self.shapes, tensors, self._dtypes, strict=True)
        }
        return lambda: [torch.from_numpy(one) for one in self._session.run(None, given)]


def parameters_of(path: Path) -> int:
    """How many numbers the floating-point weights of a file are."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    return sum(math.prod(one.dims) for one in graph.initializer if one.data_type in floats)
