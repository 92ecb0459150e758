"""How a new module inherits from the layer it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dcnify.errors import DcnifyError
from dcnify.roles.find import Found
from dcnify.roles.registry import ADAPTERS
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
    for step in planned.init:
        if step["method"] == "calibrate":  # needs the whole model: `dcnify.surgery.calibrate`
            continue
        warnings = (*warnings, *_METHODS[step["method"]](module, planned, found, generator))
    always = ADAPTERS[planned.module.type].always
    if always is not None:
        always(module, planned, found)
    if not all(torch.isfinite(parameter).all() for parameter in own):
        raise DcnifyError(f"init left parameters of {planned.site.path} without a finite value")
    return warnings


def _own_parameters(module: nn.Module, old: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters that the surgery made; those of the old layer that it kept are not among them."""
    kept = {id(parameter) for parameter in old.parameters()}
    return (parameter for parameter in module.parameters() if id(parameter) not in kept)


def paper_init(
    module: nn.Module, planned: PlannedSwap, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """As published: offsets and aggregation weights zero, Xavier-uniform projections."""
    del planned, found
    with _seeded(generator):
        getattr(module, "dcn", module).reset_parameters()
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)
    return ()


def transfer_init(
    module: nn.Module, planned: PlannedSwap, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Copy what the old layer holds: a kernel onto sampling points, or V and output projections."""
    _reset_predictor(module, generator)
    return ADAPTERS[planned.module.type].transfer(module, planned, found, generator)


def fit_init(
    module: nn.Module, planned: PlannedSwap, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Points, weights and groups fitted to what the old layer holds; else as `transfer_init`."""
    role = ADAPTERS[planned.module.type]
    _reset_predictor(module, generator)
    return (role.fit or role.transfer)(module, planned, found, generator)


def _reset_predictor(module: nn.Module, generator: torch.Generator) -> None:
    """Random weights for the convolution before the offsets, which nothing is carried over to."""
    dcn = getattr(module, "dcn", module)
    if getattr(dcn, "offset_mask_dw", None) is not None:
        with _seeded(generator):
            dcn.offset_mask_dw.reset_parameters()


_METHODS = {"paper": paper_init, "transfer": transfer_init, "fit": fit_init}


@contextmanager
def _seeded(generator: torch.Generator) -> Iterator[None]:
    """Let the global random state follow from ``generator``, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1 << 62, (1,), generator=generator)))
        yield
