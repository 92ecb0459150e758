"""New modules for a plan's sites, with their weights from the old layers alone."""

from __future__ import annotations

import torch
from torch import nn

from dcnify.progress import Progress, silent
from dcnify.roles.base import Found
from dcnify.surgery.build import build, get
from dcnify.surgery.initialise import initialise
from dcnify.surgery.plan import Plan


def new_modules(
    model: nn.Module, plan: Plan, found: Found, seed: int, progress: Progress = silent
) -> tuple[dict[str, nn.Module], tuple[str, ...]]:
    """Every replacement with its initial weights, by site path; the model is not touched."""
    generator = torch.Generator().manual_seed(seed)
    fresh: dict[str, nn.Module] = {}
    warnings: tuple[str, ...] = ()
    for index, swap in enumerate(plan.swaps):
        old = get(model, swap.site.path)
        module = materialise(build(swap.module, original=old), old, model)
        warnings = (*warnings, *initialise(module, swap, found, generator))
        fresh[swap.site.path] = module
        progress("initialising replacements", index + 1, len(plan.swaps))
    return fresh, warnings


def materialise(module: nn.Module, old: nn.Module, model: nn.Module) -> nn.Module:
    """Give a module built on the meta device memory, on the old layer's device and in its dtype.

    Its parameters have no values yet.
    """
    sample = next((p for m in (old, model) for p in m.parameters() if p.is_floating_point()), None)
    device = sample.device if sample is not None else torch.device("cpu")
    dtype = sample.dtype if sample is not None else torch.get_default_dtype()
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_meta:
                real = torch.empty(parameter.shape, dtype=dtype, device=device)
                part._parameters[name] = nn.Parameter(real, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_meta:
                kind = dtype if buffer.is_floating_point() else buffer.dtype
                part._buffers[name] = torch.zeros(buffer.shape, dtype=kind, device=device)
    return module
