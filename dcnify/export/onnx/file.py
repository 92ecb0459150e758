"""Write an ONNX file, check it, and run it in onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from onnxscript import ir
from torch import Tensor

from dcnify.errors import DcnifyError
from dcnify.words import first_line

LARGEST = 2**31 - 2**24
"""Bytes of weights in a file; one message of protobuf has two gigabytes at most."""


def write(model: ir.Model, path: Path) -> tuple[Path, ...]:
    """Write ``path``, and beside it ``NAME.data`` for weights above two gigabytes; check both.

    Returns:
        The files.

    Raises:
        DcnifyError: ONNX's own checker refuses the file, which would be a fault of ours.
    """
    import onnx

    weights = sum(
        one.const_value.nbytes for one in model.graph.initializers.values() if one.const_value
    )
    beside = path.with_name(f"{path.name}.data") if weights > LARGEST else None
    ir.save(model, path, external_data=None if beside is None else beside.name)
    try:
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:
        raise DcnifyError(f"the ONNX model is not valid: {first_line(error)}") from error
    return (path,) if beside is None else (path, beside)


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
        self.names = [one.name for one in self._session.get_inputs()]
        self.shapes = {one.name: tuple(one.shape) for one in self._session.get_inputs()}

    def __call__(self, *tensors: Tensor) -> list[Tensor]:
        """Return the outputs for tensors in the order of the inputs."""
        given: dict[str, Any] = {
            name: one.detach().cpu().contiguous().numpy()
            for name, one in zip(self.names, tensors, strict=True)
        }
        return [torch.from_numpy(one) for one in self._session.run(None, given)]
