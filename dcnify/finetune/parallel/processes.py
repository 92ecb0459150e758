"""The processes that train together: which one writes, and messages between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from dcnify.errors import DcnifyError, InputError
from dcnify.finetune.parallel.fsdp import check_devices, check_settings

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
_OTHERS = ("DEEPSPEED", "MEGATRON_LM")
"""Kinds of parallelism that accelerate has and dcnify does not support."""


def join(*, cpu: bool) -> PartialState:
    """Join the other processes of ``torchrun`` or ``accelerate launch``, if there are any.

    Raises `InputError` if accelerate is not installed, or told to divide the model in an
    unsupported way.
    """
    for kind in _OTHERS:  # on the CPU accelerate would go on without
        if os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() in ("true", "1"):
            raise InputError(f"{kind} is not supported: to share out a model, use FSDP 2")
    check_settings()
    try:
        from accelerate import PartialState
    except ImportError:
        raise InputError("fine-tuning needs accelerate: pip install 'dcnify[train]'") from None
    state = PartialState(cpu=on_cpu(cpu))
    check_devices(state)
    return state


def on_cpu(asked: bool) -> bool:
    """Whether the caller or ``accelerate launch --cpu`` asks for the CPU."""
    return asked or os.environ.get("ACCELERATE_USE_CPU") == "true"


def from_main(make: Callable[[], T]) -> T:
    """Call ``make`` in the main process alone; return its result, or raise its error, in each."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    sent: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            sent[0] = make()
        except DcnifyError as error:
            sent[1] = error
    made, problem = broadcast_object_list(sent)
    if problem is not None:
        raise problem
    return made


def gather_objects(one: T) -> list[T]:
    """Return every process's ``one``, in order of rank, in every process."""
    from accelerate.utils import gather_object

    return gather_object([one])
