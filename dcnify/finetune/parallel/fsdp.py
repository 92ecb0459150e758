"""FSDP as the launcher requests it: the settings that are refused, and accelerate's plugin."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from dcnify.errors import InputError

if TYPE_CHECKING:
    from accelerate import FullyShardedDataParallelPlugin, PartialState

_OFF = ("", "0", "false", "no", "none")
_REFUSED = {
    "FSDP_OFFLOAD_PARAMS": "leave the weights on the GPUs",
    "FSDP_IGNORED_MODULES": "what it ignores would drift apart; leave it out",
    "FSDP_ACTIVATION_CHECKPOINTING": "say checkpointing: true in the stages",
    "ACCELERATE_DYNAMO_BACKEND": "leave compilation out",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "it divides the work in other ways; leave it out",
}
"""Settings that would be silently wrong or are untested, with what to do instead."""


def is_requested() -> bool:
    """Whether ``accelerate launch`` or the environment requests FSDP."""
    return _is_on("ACCELERATE_USE_FSDP")


def check_settings() -> None:
    """Raise `InputError` for a setting that is not supported."""
    if not is_requested():
        return
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise InputError(
            "FSDP 1 is not supported: ask for FSDP 2 (fsdp_version: 2 in accelerate's config, "
            "--fsdp_version 2, or FSDP_VERSION=2)"
        )
    for name, instead in _REFUSED.items():
        if _is_on(name):
            raise InputError(f"{name}={os.environ[name]} is not supported with FSDP: {instead}")


def check_devices(state: PartialState) -> None:
    """Raise `InputError` where accelerate would silently train without the requested FSDP."""
    kind = state.distributed_type.value
    shards = kind == "FSDP" or (kind.startswith("MULTI_") and kind != "MULTI_CPU")
    if is_requested() and not shards:
        raise InputError(
            "FSDP needs GPUs, and torchrun or accelerate launch to start a process for each: "
            "take ACCELERATE_USE_FSDP away to train without"
        )


def create_plugin() -> FullyShardedDataParallelPlugin | None:
    """Return the requested FSDP for an ``Accelerator``; None without.

    Weights are gathered in float32, and mixed precision is autocast's, as it is without FSDP.
    """
    if not is_requested():
        return None
    from torch.distributed.fsdp import MixedPrecisionPolicy

    try:
        from accelerate import FullyShardedDataParallelPlugin
        from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy  # noqa: F401

        return FullyShardedDataParallelPlugin(
            fsdp_version=2,
            mixed_precision_policy=MixedPrecisionPolicy(),
            cpu_ram_efficient_loading=False,  # every process reads the artifact
        )
    except ImportError:
        raise InputError("FSDP 2 needs a newer accelerate: pip install -U accelerate") from None
    except ValueError as error:
        raise InputError(f"FSDP: {error}") from error


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() not in _OFF
