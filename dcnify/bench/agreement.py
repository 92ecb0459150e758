"""Whether a rival computes what we compute, before anyone is timed."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dcnify.bench.case import Case, Inputs, make_inputs
from dcnify.bench.rivals import OURS, Rival
from dcnify.errors import CheckError

TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-3,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
"""Relative root mean square errors; a wrong answer is off by more than 0.1."""


def error_against_ours(rival: Rival, case: Case) -> float:
    """The largest relative error among output and, where the case has them, both gradients.

    Each is the root mean square of the difference over that of ours. Another package's operator is
    compared on one image, for the original mixes images up at some batch sizes. Raises `CheckError`
    if they differ in a dtype in which the rival must agree.
    """
    compared = replace(case, batch=1) if rival.package else case
    inputs = make_inputs(compared, off_grid=True)
    pairs = zip(_answers(rival, inputs), _answers(OURS, inputs), strict=True)
    error = float(np.max([relative_error(found, ours) for found, ours in pairs]))  # NaN is worst
    if case.dtype in rival.must_agree and not agrees(error, case):
        raise CheckError(
            f"{rival.name} and dcnify disagree at {case}: relative error {error:.1e}, "
            f"allowed {TOLERANCE[case.dtype]:.0e}; nothing was timed"
        )
    return error


def agrees(error: float, case: Case) -> bool:
    """Whether an error is what rounding in the case's dtype explains."""
    return error <= TOLERANCE[case.dtype]


def _answers(rival: Rival, inputs: Inputs) -> tuple[Tensor, ...]:
    """Output, and with a backward pass the gradients of value and of offset_mask."""
    case = inputs.case
    value = inputs.value.detach().requires_grad_(case.backward)
    offset_mask = inputs.offset_mask.detach().requires_grad_(case.backward)
    prepared = rival.prepare(replace(inputs, value=value, offset_mask=offset_mask))
    out = prepared.to_output(prepared.forward(*prepared.leaves))
    if not case.backward:
        return (out,)
    grads = torch.autograd.grad(out, (value, offset_mask), inputs.grad_output)
    return (out.detach(), grads[0], grads[1][..., : case.sampling.offset_mask_channels])


def relative_error(found: Tensor, ours: Tensor) -> float:
    """The root mean square of the difference over that of ours."""
    ours = ours.double()
    scale = ours.norm().clamp_min(torch.finfo(torch.float32).tiny)
    return ((found.double() - ours).norm() / scale).item()
