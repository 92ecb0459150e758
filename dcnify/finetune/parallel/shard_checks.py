"""Refuse models and optimizers that FSDP cannot train, before it is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from dcnify.errors import InputError
from dcnify.recipe.finetune.training import Optimizer

if TYPE_CHECKING:
    from accelerate import FullyShardedDataParallelPlugin

OPTIMIZERS = (
    *("adamw", "adam", "adamax", "nadam", "nadamw", "radam", "adabelief", "adan", "adanw"),
    *("adopt", "adoptw", "lamb", "lambw", "laprop", "lars", "lion", "madgrad", "madgradw"),
    *("momentum", "nesterov", "sgd", "rmsprop"),
)
"""Tested: they do the same with shards as with whole parameters."""


def check_sharding(
    model: nn.Module, how: Optimizer, plugin: FullyShardedDataParallelPlugin
) -> None:
    """Raise `InputError` if the model cannot be sharded, or the optimizer cannot train shards."""
    from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy

    known = how.name.lower() in OPTIMIZERS
    if not known or how.options.get("caution"):
        name = f"a cautious {how.name}" if known else how.name
        raise InputError(
            f"optimizer.name: {name} is not known to work with FSDP, where it sees shards of "
            f"the weights; these do: {', '.join(OPTIMIZERS)}"
        )
    try:
        plugin.set_auto_wrap_policy(model)
        wraps = fsdp2_prepare_auto_wrap_policy(plugin, model)
    except ValueError as error:
        raise InputError(f"FSDP: {error}") from error
    for path, module in model.named_modules():
        never_called = type(module).forward is nn.Module.forward
        if path and never_called and wraps is not None and wraps(module):
            raise InputError(
                f"FSDP: {path} is a {type(module).__name__}, which is never called: set "
                "FSDP_AUTO_WRAP_POLICY=TRANSFORMER_BASED_WRAP and FSDP_TRANSFORMER_CLS_TO_WRAP"
            )
    units = _units(model, wraps)
    for name, parameter in model.named_parameters():
        if not parameter.dim():
            raise InputError(f"FSDP cannot divide {name}, which is a single number")
        if len(units[parameter]) > 1:
            raise InputError(
                f"FSDP: {name} is used in parts of the model that are not gathered together: "
                "set FSDP_AUTO_WRAP_POLICY=NO_WRAP"
            )


def _units(
    model: nn.Module, wraps: Callable[[nn.Module], bool] | None
) -> dict[nn.Parameter, set[nn.Module]]:
    """Return the units in which each parameter is used."""
    found: dict[nn.Parameter, set[nn.Module]] = {}

    def walk(module: nn.Module, unit: nn.Module) -> None:
        unit = module if wraps is not None and wraps(module) else unit
        for parameter in module.parameters(recurse=False):
            found.setdefault(parameter, set()).add(unit)
        for child in module.children():
            walk(child, unit)

    walk(model, model)
    return found
