"""FSDP: the parameters of a stage's model sharded over the processes, as accelerate does it."""

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map_only

from dcnify.errors import InputError
from dcnify.finetune.parallel.placement import Replicated
from dcnify.finetune.parallel.shard_checks import check_sharding
from dcnify.finetune.training.objective import Objective
from dcnify.nn import Handover


class Sharded(Replicated):
    """Each process has a shard of every parameter, its gradient, average and optimizer state.

    The run's model stays whole on the CPU: a copy is sharded, and its weights are copied back at
    the end of the stage.
    """

    def check(self, model: nn.Module) -> None:
        check_sharding(model, self.stage.optimizer, self.accelerator.state.fsdp_plugin)

    def place(self, model: nn.Module) -> nn.Module:
        own = copy.deepcopy(model)  # moved to the device part by part, as it is sharded
        for parameter in own.parameters():  # channels_last cannot be sharded
            parameter.data = parameter.data.contiguous()
        return own

    def create_ema(self, model: nn.Module) -> ModelEmaV3 | None:
        decay = self.stage.ema
        return ModelEmaV3(model, decay, use_warmup=True, foreach=False) if decay else None

    def prepare(
        self, objective: Objective, optimizer: Any, loader: Any, ema: ModelEmaV3 | None
    ) -> tuple[Any, Any, Any]:
        from accelerate.utils import fsdp2_prepare_model

        # Accelerate leaves mixed precision to FSDP, which we let gather float32.
        forward = self.accelerator.autocast()(objective.forward)
        objective.forward = forward  # type: ignore[method-assign]  # as accelerate wraps it
        try:
            prepared = self.accelerator.prepare(objective, optimizer, loader)
            if ema is not None:
                ema.module = fsdp2_prepare_model(self.accelerator, ema.module)
        except ValueError as error:
            raise InputError(f"stage {self.stage.name}: FSDP: {error}") from error
        self.objective, self.optimizer, _ = prepared
        for unit in objective.modules():
            if isinstance(unit, FSDPModule):
                unit.register_forward_hook(_without_views, prepend=True)
        self.averaged = ema.module if ema is not None else None
        if self.stage.losses.layers or self.stage.losses.features:
            _keep_around_layers(objective)
        return prepared

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[nn.Module]:
        called = self.objective if model is self.objective.model else model
        try:
            yield called
        finally:
            # The outermost unit stays gathered after a forward pass, in other tensors than those
            # that the optimizer and the average change.
            for one in called.modules():
                if isinstance(one, FSDPModule):
                    one.reshard()

    def weights(self, model: nn.Module, *, here: bool = True) -> dict[str, Tensor]:
        found = {}
        for name, value in model.state_dict().items():
            whole = self._gathered(value)
            if here:
                found[name] = whole.cpu()
        return found

    def save(self, folder: Path) -> None:
        """Write a file for each process.

        Accelerate would have torch take a step to see the optimizer's state, which Adam counts; and
        it waits for all processes in the middle of writing, for ever if one cannot.
        """
        state = {
            "model": local_state(self.objective.model),
            "average": local_state(self.averaged) if self.averaged is not None else None,
            "optimizer": packed_state(self.optimizer.state_dict()),
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
        }
        torch.save(state, self._file(folder))

    def load(self, folder: Path) -> None:
        state = torch.load(self._file(folder), map_location="cpu", weights_only=True)
        load_local_state(self.objective.model, state["model"])
        if self.averaged is not None:
            load_local_state(self.averaged, state["average"])
        self.optimizer.load_state_dict(unpacked_state(state["optimizer"], self.optimizer))
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def release(self) -> None:
        del self.objective, self.optimizer, self.averaged
        gc.collect()  # shards refer to each other, and would stay through the next stage

    def _file(self, folder: Path) -> Path:
        return folder / f"shard_{self.accelerator.process_index}.pt"

    def _gathered(self, value: Tensor) -> Tensor:
        from accelerate.utils import broadcast

        whole = value.full_tensor() if isinstance(value, DTensor) else broadcast(value)
        return whole.detach()


def _keep_around_layers(objective: Objective) -> None:
    """Keep the units around swapped layers gathered from the start to the end of a pass.

    FSDP gathers a unit when it runs, and again when the gradient of its output arrives. But the
    loss on layers runs them by themselves, and the gradient of the loss on features begins at them,
    perhaps at no unit's output at all.
    """
    # In order: all processes must gather the same unit at the same time.
    found = dict.fromkeys(unit for path in objective.swapped for unit in _around(objective, path))
    for unit in found:
        unit.set_reshard_after_forward(False, recurse=False)

    def gather(*_: Any) -> None:
        if torch.is_grad_enabled():
            for unit in found:
                unit.unshard()

    objective.register_forward_pre_hook(gather)


def _around(objective: Objective, path: str) -> Iterator[FSDPModule]:
    """Yield the units that a layer is part of, from the whole model inwards."""
    layer = objective.model.get_submodule(path)
    parts = path.split(".")
    for end in range(len(parts) + 1):
        module = objective.model.get_submodule(".".join(parts[:end]))
        # A layer that hands over contains the new layer, which is run.
        if isinstance(module, FSDPModule) and (module is not layer or isinstance(layer, Handover)):
            yield module


def _without_views(module: nn.Module, args: Any, output: Any) -> Any:
    """Copy views: FSDP hooks outputs, and a hook is lost if a view is changed in place."""
    if not torch.is_grad_enabled():
        return output
    return tree_map_only(Tensor, lambda one: one.clone() if one._is_view() else one, output)


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
