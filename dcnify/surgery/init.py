"""How a new module inherits from the layer it replaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from dcnify.errors import DcnifyError
from dcnify.graph.find import Found
from dcnify.nn import PrefixAttention
from dcnify.surgery.plan import PlannedSwap
from dcnify.surgery.roles import ROLES


def initialise(
    module: nn.Module, planned: PlannedSwap, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Give every parameter of a fresh module its value; returns warnings.

    Methods: ``paper`` (arXiv 2401.06197 as published: zero offsets and weights, so zero output)
    and ``transfer`` (as much of the old layer as can be copied without looking at data).
    """
    own = list(_own_parameters(module))
    with torch.no_grad():
        for parameter in own:
            parameter.fill_(float("nan"))
    warnings: tuple[str, ...] = ()
    for step in planned.init:
        warnings = (*warnings, *_METHODS[step["method"]](module, planned, found, generator))
    always = ROLES[planned.site.role].always
    if always is not None:
        always(module, planned, found)
    if not all(torch.isfinite(parameter).all() for parameter in own):
        raise DcnifyError(f"init left parameters of {planned.site.path} without a finite value")
    return warnings


def _own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters that the surgery made; a kept original layer is not among them."""
    kept = getattr(module, "prefix_attn", None)
    skip: set[int] = set()
    if kept is not None and not isinstance(kept, PrefixAttention):
        skip = {id(p) for p in kept.parameters()}
    return (p for p in module.parameters() if id(p) not in skip)


def paper_init(
    module: nn.Module, planned: PlannedSwap, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """As published: offsets and aggregation weights zero, Xavier-uniform projections."""
    del planned, found
    with _seeded(generator):
        module.dcn.reset_parameters()
    if getattr(module, "bias", None) is not None:
        nn.init.zeros_(module.bias)
    return ()


def transfer_init(
    module: nn.Module, planned: PlannedSwap, found: Found, generator: torch.Generator
) -> tuple[str, ...]:
    """Copy what the old layer holds: a kernel onto sampling points, or V and output projections."""
    if module.dcn.dw_kernel_size is not None:
        with _seeded(generator):
            module.dcn.offset_mask_dw.reset_parameters()
    return ROLES[planned.site.role].transfer(module, planned, found, generator)


_METHODS = {"paper": paper_init, "transfer": transfer_init}


@contextmanager
def _seeded(generator: torch.Generator) -> Iterator[None]:
    """Let the global random state follow from ``generator``, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(1 << 62, (1,), generator=generator)))
        yield
