"""The shards that one process has of a model and of an optimizer's state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@torch.no_grad()
def local_state(model: nn.Module) -> dict[str, Tensor]:
    """Return this process's part of a model's state, on the CPU."""
    return {name: _local(value).cpu() for name, value in model.state_dict().items()}


@torch.no_grad()
def load_local_state(model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Restore what `local_state` returned, in place."""
    for name, value in model.state_dict().items():
        _local(value).copy_(saved[name])


def _local(value: Tensor) -> Tensor:
    return value.to_local() if isinstance(value, DTensor) else value


def packed_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return an optimizer's state with its shards as plain tensors, marked."""

    def packed(value: Any) -> Any:
        return {"shard": value.to_local()} if isinstance(value, DTensor) else value

    return {**state, "state": {i: _each(packed, one) for i, one in state["state"].items()}}


def unpacked_state(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """Restore what `packed_state` returned; each shard has the layout of its parameter's."""
    parameters = [one for group in optimizer.param_groups for one in group["params"]]

    def unpacked(parameter: DTensor, value: Any) -> Any:
        return _shard_like(parameter, value["shard"]) if isinstance(value, dict) else value

    kept = {i: _each(partial(unpacked, parameters[i]), one) for i, one in state["state"].items()}
    return {**state, "state": kept}


def _each(do: Callable[[Any], Any], some: dict[str, Any]) -> dict[str, Any]:
    return {key: do(value) for key, value in some.items()}


def _shard_like(parameter: DTensor, share: Tensor) -> DTensor:
    return DTensor.from_local(
        share.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
