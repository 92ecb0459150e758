"""Verify the operator on this machine, in the configurations that a model uses."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
"""Relative errors of one call due to rounding, forward or backward."""
_QUERIES = 7
"""Rows of the output; one more column."""
_LARGEST = 4_000_000
"""Most samples the reference may hold at once; with many points it takes fewer queries."""
_MARGIN = 0.1
"""Distance of points from the pixel grid, where the gradient of an offset jumps and two correct
answers may differ."""


@dataclass(frozen=True)
class OperatorConfig:
    """How a layer calls the operator."""

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
    configs = configs_of(model)
    if not configs:
        return [Check("operator", None, detail="the model has no layer of it")]
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return [check for device in devices for check in _check_on(device, configs)]


def configs_of(model: nn.Module) -> list[OperatorConfig]:
    """The distinct configurations in which ``model`` calls the operators."""
    found: dict[OperatorConfig, None] = {}
    for module in model.modules():
        if isinstance(module, DCNv4 | FusedDCNv3 | DCNv3):
            name = "dcnv3" if isinstance(module, DCNv3) else "dcnv4"
            dtype = next(module.parameters()).dtype
            found[OperatorConfig(name, module.sampling, module.channels, dtype)] = None
    return list(found)


def _check_on(device: str, configs: list[OperatorConfig]) -> list[Check]:
    where = "" if device == "cpu" else f" on {device}"
    names = (f"operator{where}", f"operator's gradients{where}")
    measured = []
    for config in configs:
        try:
            measured.append(_errors(config, torch.device(device)))
        except Exception as problem:  # a kernel may fail in any way
            detail = f"{config} does not run: {first_line(problem)}"
            return [Check(name, False, detail=detail) for name in names]
    many = f"worst of {len(configs)} configurations: " if len(configs) > 1 else ""
    checks = []
    for name, errors in zip(names, zip(*measured, strict=True), strict=True):
        limits = [TOLERANCE[config.dtype] for config in configs]
        error, limit, config = max(
            zip(errors, limits, configs, strict=True), key=lambda one: one[0] / one[1]
        )
        detail = f"relative error, {many}{config}"
        checks.append(Check(name, error <= limit, error, limit, detail))
    return checks


def _errors(config: OperatorConfig, device: torch.device) -> tuple[float, float]:
    """Relative errors of the output, and of the worst gradient."""
    value, packed, grad = _inputs(config, device)
    seen = _run(_ours(config), value, packed, grad)
    exact = partial(reference.dcnv4, **vars(config.sampling))
    expected = _run(exact, value.double(), packed.double(), grad.double())
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


def _ours(config: OperatorConfig) -> Callable[[Tensor, Tensor], Tensor]:
    how = config.sampling
    options = vars(how)
    if config.name == "dcnv4":
        return partial(dcnv4, **options)

    def separate(value: Tensor, packed: Tensor) -> Tensor:
        by_group = packed.unflatten(-1, (how.groups, -1))
        offset, mask = by_group.split([2 * how.num_points, how.num_points], -1)
        return dcnv3(value, offset.flatten(-2), mask.flatten(-2), **options)

    return separate


def _inputs(config: OperatorConfig, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random value, offsets with weights, and gradient of the output; points off the pixel grid."""
    how = config.sampling
    random = torch.Generator().manual_seed(0)
    samples = how.num_points * config.channels
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
        # The operator samples at scale * (base - half + offset).
        base = torch.tensor(how.points) * torch.tensor(how.dilation[::-1])
        half = torch.tensor(how.half[::-1])
        cell = (base - half) * how.offset_scale
        move = (cell.round() + move) / how.offset_scale - (base - half)
    weights = torch.randn(points, generator=random)
    packed = torch.cat((move.flatten(-2), weights), -1).flatten(-2)
    value = torch.randn(1, height, width, config.channels, generator=random)
    grad = torch.randn(1, *out, config.channels, generator=random)
    cast = [tensor.to(device, config.dtype) for tensor in (value, packed, grad)]
    return cast[0], cast[1], cast[2]
