"""Verify the operator on this machine, in the very configurations that a model uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dcnify.nn import DCNv3, DCNv4, FusedDCNv3
from dcnify.ops import dcnv3, dcnv4, reference
from dcnify.ops.sampling import Sampling
from dcnify.verify.files import relative_error
from dcnify.verify.result import Check
from dcnify.words import first_line

TOLERANCE = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}
"""Relative errors that rounding explains in one call, forward or backward."""
_QUERIES = 7
"""Rows of the output; one more column."""
_LARGEST = 4_000_000
"""Samples that the reference may hold at once; it takes fewer queries where points are many."""
_MARGIN = 0.1
"""Distance of points from the pixel grid. There the gradient of an offset jumps, and two right
answers may differ by a rounding."""


@dataclass(frozen=True)
class Configuration:
    """One configuration of the operator."""

    name: str
    """``dcnv4`` or ``dcnv3``."""
    sampling: Sampling
    channels: int
    dtype: torch.dtype

    def __str__(self) -> str:
        how = self.sampling
        parts = [f"{self.name} {how.kernel_size[0]}x{how.kernel_size[1]} C{self.channels}"]
        parts.append(f"G{how.groups}")
        parts += [f"stride {how.stride[0]}"] if how.stride != (1, 1) else []
        parts += [f"dilation {how.dilation[0]}"] if how.dilation != (1, 1) else []
        parts += [flag for flag in ("softmax", "remove_center") if getattr(how, flag)]
        return " ".join(parts)


def check_operator(model: nn.Module) -> list[Check]:
    """Output and gradients of each configuration against the float64 reference, by device."""
    calls = calls_of(model)
    if not calls:
        return [Check("operator", None, detail="the model has no layer of it")]
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [check for device in devices for check in _check_on(device, calls)]


def calls_of(model: nn.Module) -> list[Configuration]:
    """The distinct configurations in which ``model`` calls the operators."""
    found: dict[Configuration, None] = {}
    for module in model.modules():
        if isinstance(module, DCNv4 | FusedDCNv3 | DCNv3):
            name = "dcnv3" if isinstance(module, DCNv3) else "dcnv4"
            dtype = next(module.parameters()).dtype
            found[Configuration(name, module.sampling, module.channels, dtype)] = None
    return list(found)


def _check_on(device: str, calls: list[Configuration]) -> Iterator[Check]:
    where = "" if device == "cpu" else f" on {device}"
    names = {"output": f"operator{where}", "gradients": f"operator's gradients{where}"}
    worst: dict[str, tuple[float, Configuration]] = {}
    for call in calls:
        try:
            output, gradients = _errors(call, torch.device(device))
        except Exception as error:  # a kernel may fail in any way
            detail = f"{call} does not run: {first_line(error)}"
            yield from (Check(name, False, detail=detail) for name in names.values())
            return
        for what, error in (("output", output), ("gradients", gradients)):
            known = worst.get(what)
            if known is None or _excess(error, call) > _excess(*known):
                worst[what] = error, call
    for what, (error, call) in worst.items():
        many = f"worst of {len(calls)} configurations: " if len(calls) > 1 else ""
        limit = TOLERANCE[call.dtype]
        yield Check(names[what], error <= limit, error, limit, f"relative error, {many}{call}")


def _excess(error: float, call: Configuration) -> float:
    return error / TOLERANCE[call.dtype]


def _errors(call: Configuration, device: torch.device) -> tuple[float, float]:
    """Relative errors of the output, and of the worst gradient."""
    value, packed, grad = _inputs(call, device)
    seen = _run(_ours(call), value, packed, grad)
    expected = _run(_reference(call), value.double(), packed.double(), grad.double())
    errors = [relative_error(a.cpu(), b.cpu()) for a, b in zip(seen, expected, strict=True)]
    return errors[0], max(errors[1:])


def _run(
    operator: Callable[[Tensor, Tensor], Tensor], value: Tensor, packed: Tensor, grad: Tensor
) -> tuple[Tensor, ...]:
    """Output, and gradients of value and of offsets and weights."""
    leaves = value.detach().requires_grad_(), packed.detach().requires_grad_()
    with torch.inference_mode(False), torch.enable_grad():
        output = operator(*leaves)
        return output.detach(), *torch.autograd.grad(output, leaves, grad)


def _ours(call: Configuration) -> Callable[[Tensor, Tensor], Tensor]:
    how = {**call.sampling.geometry, "softmax": call.sampling.softmax}
    if call.name == "dcnv4":
        return lambda value, packed: dcnv4(value, packed, **how)

    def separate(value: Tensor, packed: Tensor) -> Tensor:
        per_group = packed.unflatten(-1, (call.sampling.groups, -1))
        offset, mask = per_group.split([2 * call.sampling.num_points, call.sampling.num_points], -1)
        return dcnv3(value, offset.flatten(-2), mask.flatten(-2), **how)

    return separate


def _reference(call: Configuration) -> Callable[[Tensor, Tensor], Tensor]:
    how = {**call.sampling.geometry, "softmax": call.sampling.softmax}
    return lambda value, packed: reference.dcnv4(value, packed, **how)


def _inputs(call: Configuration, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random value, offsets with weights, and gradient of the output; points off the pixel grid."""
    how = call.sampling
    random = torch.Generator().manual_seed(0)
    samples = how.num_points * call.channels
    rows = max(2, min(_QUERIES, int((_LARGEST / samples) ** 0.5)))
    height, width = (
        max(1, (queries - 1) * stride + extent + 1 - 2 * padding)
        for queries, stride, extent, padding in zip(
            (rows, rows + 1), how.stride, how.extent, how.padding, strict=True
        )
    )
    out = how.output_size(height, width)
    points = (1, *out, how.groups, how.num_points)
    move = torch.randint(-2, 2, (*points, 2), generator=random) + torch.empty(*points, 2).uniform_(
        _MARGIN, 1 - _MARGIN, generator=random
    )
    if how.offset_scale:
        # What the operator makes of an offset: scale * (base - half + offset).
        base = torch.tensor(how.points) * torch.tensor(how.dilation[::-1])
        half = torch.tensor(how.half[::-1])
        cell = (base - half) * how.offset_scale
        move = (cell.round() + move) / how.offset_scale - (base - half)
    weights = torch.randn(points, generator=random)
    packed = torch.cat((move.flatten(-2), weights), -1).flatten(-2)
    value = torch.randn(1, height, width, call.channels, generator=random)
    grad = torch.randn(1, *out, call.channels, generator=random)
    return tuple(t.to(device, call.dtype) for t in (value, packed, grad))
