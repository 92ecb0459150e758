"""How a new module inherits from the layer it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dcnify.errors import DcnifyError
from dcnify.nn import DCNv4
from dcnify.roles.base import Found, replacement_named
from dcnify.surgery.plan import PlannedSwap


def initialise(
    module: nn.Module, planned: PlannedSwap, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Give every parameter of a fresh module its value; returns warnings.

    Methods: ``paper`` (arXiv 2401.06197 as published: zero offsets and weights, so zero output),
    ``transfer`` (as much of the old layer as can be copied without looking at data) and ``fit``
    (as close to the old layer as the new one can be made without looking at data).
    """
    old = found.model.get_submodule(planned.site.path)
    own = list(_own_parameters(module, old))
    with torch.no_grad():
        for parameter in own:
            parameter.fill_(float("nan"))
    warnings: tuple[str, ...] = ()
    site, replacement = planned.site, replacement_named(planned.module.type)
    for step in planned.init:
        if step["method"] == "paper":
            _paper(module, generator)
        elif step["method"] != "calibrate":  # which needs the whole model: `surgery.calibrate`
            _reset_predictor(module, generator)
            fit = replacement.fit if step["method"] == "fit" else None
            inherit = fit or replacement.transfer
            warnings = (*warnings, *inherit(module, site, found, generator))
    if replacement.always is not None:
        replacement.always(module, site, found)
    if not all(torch.isfinite(parameter).all() for parameter in own):
        raise DcnifyError(f"init left parameters of {site.path} without a finite value")
    return warnings


def _own_parameters(module: nn.Module, old: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters that the surgery made; those of the old layer that it kept are not among them."""
    kept = {id(parameter) for parameter in old.parameters()}
    return (parameter for parameter in module.parameters() if id(parameter) not in kept)


def _paper(module: nn.Module, generator: torch.Generator) -> None:
    """As published: offsets and aggregation weights zero, Xavier-uniform projections."""
    dcn: Any = getattr(module, "dcn", module)
    with _seeded(generator):
        dcn.reset_parameters()
    if isinstance(bias := getattr(module, "bias", None), torch.Tensor):
        nn.init.zeros_(bias)


def _reset_predictor(module: nn.Module, generator: torch.Generator) -> None:
    """Random weights for the layers before the offsets, which nothing is carried over to."""
    dcn: Any = getattr(module, "dcn", module)
    if isinstance(dcn, DCNv4) and (dcn.dw_kernel_size or dcn.offset_rank):
        with _seeded(generator):
            dcn.reset_predictor_input()


@contextmanager
def _seeded(generator: torch.Generator) -> Iterator[None]:
    """Let the global random state follow from ``generator``, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1 << 62, (1,), generator=generator)))
        yield
