"""Verify an artifact from its files alone: hashes, loading, and the golden output."""

import math

import torch
from torch import Tensor, nn

from dcnify.artifact.golden import Golden, answer, sample_of
from dcnify.artifact.load import load_record
from dcnify.artifact.record import Artifact
from dcnify.errors import DcnifyError, InputError
from dcnify.verify.result import Check
from dcnify.words import first_line

TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-3,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}
"""Relative errors at the output of a deep network due to another machine's rounding."""
_OTHER_DEVICE = 10
"""Factor for outputs computed on a GPU, whose matrix units round more."""


def check_hashes(record: Artifact) -> Check:
    """Whether every part has the hash that was written."""
    parts, damaged = record.parts(), record.damaged()
    detail = f"changed since it was written: {', '.join(damaged)}" if damaged else ""
    return Check(
        "hashes", not damaged, len(damaged), 0, detail or f"{len(parts)} parts: {', '.join(parts)}"
    )


def check_loading(record: Artifact, *, trust_code: bool) -> tuple[Check, nn.Module | None]:
    """Whether base, plan and weights make a model, strictly; and the model, on the CPU.

    Raises `InputError` if the artifact names code that ``trust_code`` does not allow to import.
    """
    try:
        model, _ = load_record(record, trust_code=trust_code)
    except DcnifyError as error:
        if record.base.kind == "python" and not trust_code:
            raise
        return Check("loading", False, detail=str(error)), None
    count = sum(parameter.numel() for parameter in model.parameters())
    swaps = len(record.plan.swaps)
    detail = f"{record.base}, {swaps} layer{'s' * (swaps != 1)} swapped, {count:,} parameters"
    return Check("loading", True, detail=detail), model


def check_golden(record: Artifact, model: nn.Module | None) -> Check:
    """Whether the model still gives the output that it gave when it was saved."""
    name = "golden output"
    try:
        golden = record.golden()
    except InputError as problem:
        return Check(name, False, detail=str(problem))
    if isinstance(golden, str):
        return Check(name, None, detail=f"the artifact holds none: {golden}")
    if model is None:
        return Check(name, None, detail="the model does not load")
    limit = tolerance(model)
    if golden.device != "cpu":
        limit *= _OTHER_DEVICE
    try:
        error = relative_error(_sample_like(golden, answer(model, golden.example())), golden.sample)
    except Exception as problem:  # whatever a model may raise
        return Check(name, False, limit=limit, detail=f"it does not run: {first_line(problem)}")
    shown = "x".join(map(str, golden.output_shape))
    detail = f"relative error of the output, {shown}, for the input that was stored"
    return Check(name, error <= limit, error, limit, detail)


def tolerance(model: nn.Module) -> float:
    """The relative error allowed for the coarsest floating-point type of the weights."""
    floats = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return max((TOLERANCE.get(dtype, 0.1) for dtype in floats), default=TOLERANCE[torch.float32])


def relative_error(seen: Tensor, expected: Tensor) -> float:
    """Norm of the difference over norm of ``expected``; infinite if only one has a NaN."""
    seen, expected = seen.double(), expected.double()
    finite = expected.isfinite()
    same = torch.equal(seen[~finite].nan_to_num(), expected[~finite].nan_to_num())
    if not same or not seen[finite].isfinite().all():
        return math.inf
    difference = float((seen[finite] - expected[finite]).norm())
    scale = float(expected[finite].norm())
    if difference == 0:
        return 0.0
    return difference / scale if scale else math.inf


def _sample_like(golden: Golden, output: Tensor) -> Tensor:
    if tuple(output.shape) != golden.output_shape:
        raise InputError(
            f"its output is {tuple(output.shape)}, it was {golden.output_shape} when it was saved"
        )
    return sample_of(output)
