"""FSDP without GPUs: accelerate is led to take processes on the CPU for processes on GPUs."""

from __future__ import annotations

import os

LAUNCHED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_SHARDING_STRATEGY": "FULL_SHARD",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_MIN_NUM_PARAMS": "100000000",
    "FSDP_FORWARD_PREFETCH": "false",
    "FSDP_USE_ORIG_PARAMS": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_SYNC_MODULE_STATES": "true",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
}
"""By ``accelerate launch --use_fsdp --fsdp_version 2``, of accelerate 1.15."""
BY_SIZE = {"FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP", "FSDP_MIN_NUM_PARAMS": "1200"}
"""All stages and blocks are units, and of the swapped layers the larger two."""


def as_on_gpus(**settings: str) -> None:
    """Have this process, one of a `pair`, train with FSDP 2 over gloo.

    Accelerate shards a model only between GPUs; torch does on the CPU, too. So what accelerate
    finds out of the machine is replaced, and all that it does about it is its own.

    Args:
        settings: more of what ``accelerate launch`` sets, such as ``FSDP_AUTO_WRAP_POLICY``.
    """
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    os.environ |= {**LAUNCHED, **settings}
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *_: ("gloo", DistributedType.MULTI_GPU)
