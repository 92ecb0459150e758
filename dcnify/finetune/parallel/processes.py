"""The processes that train together: which one writes, and what all of them hear of the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from dcnify.errors import DcnifyError, InputError
from dcnify.finetune.parallel import fsdp

if TYPE_CHECKING:
    from accelerate import PartialState

T = TypeVar("T")
_OTHERS = ("DEEPSPEED", "MEGATRON_LM")
"""Ways to share out one model that accelerate knows and this does not."""


def join(*, cpu: bool) -> PartialState:
    """Meet the other processes of ``torchrun`` or ``accelerate launch``, if there are any.

    Raises:
        InputError: accelerate is not installed, or told to share out the model in a way that is not
            supported.
    """
    for kind in _OTHERS:  # on the CPU accelerate would go on without
        if os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() in ("true", "1"):
            raise InputError(f"{kind} is not supported: to share out a model, use FSDP 2")
    fsdp.check_asked()
    try:
        from accelerate import PartialState
    except ImportError:
        raise InputError("fine-tuning needs accelerate: pip install 'dcnify[train]'") from None
    state = PartialState(cpu=on_cpu(cpu))
    fsdp.check_here(state)
    return state


def on_cpu(asked: bool) -> bool:
    """Whether the CPU is wanted, by the caller or by ``accelerate launch --cpu``."""
    return asked or os.environ.get("ACCELERATE_USE_CPU") == "true"


def main_says(make: Callable[[], T]) -> T:
    """In every process what ``make`` returns in the main one, which alone calls it.

    Raises:
        DcnifyError: in every process, what ``make`` raises in the main one.
    """
    state = _state()
    if state.num_processes == 1:
        return make()
    from accelerate.utils import broadcast_object_list

    said: list = [None, None]
    if state.is_main_process:
        try:
            said[0] = make()
        except DcnifyError as error:
            said[1] = error
    made, error = broadcast_object_list(said)
    if error is not None:
        raise error
    return made


def all_say(one: T) -> list[T]:
    """What each process says, in order, in every process."""
    if _state().num_processes == 1:
        return [one]
    from accelerate.utils import gather_object

    return gather_object([one])


def _state() -> PartialState:
    from accelerate import PartialState

    return PartialState()
