"""Load an artifact: build its base, replay its plan, assign its weights. No code, no pickle."""

import os
from collections.abc import Callable

from torch import nn

from dcnify.artifact.config import apply_preprocessing
from dcnify.artifact.record import Artifact, read_artifact
from dcnify.errors import DcnifyError, InputError
from dcnify.sources.base import Base
from dcnify.sources.materialise import materialise, tie
from dcnify.sources.preprocessing import Preprocessing
from dcnify.surgery.plan import Plan
from dcnify.words import first_line


def load(path: str | os.PathLike[str], *, trust_code: bool = False) -> nn.Module:
    """The model of an artifact, in evaluation mode, on the CPU, every value as it was saved.

    Args:
        path: an artifact folder, or a ``.pt`` file that `dcnify.save` wrote.
        trust_code: import the code that the artifact names, if its base is ``python:``.

    Raises:
        InputError: not an artifact, damaged, of another format, not what its base and plan
            rebuild, or in need of ``trust_code``.
    """
    return load_record(read_artifact(path), trust_code=trust_code)[0]


def load_record(record: Artifact, *, trust_code: bool = False) -> tuple[nn.Module, Preprocessing]:
    """The model of an artifact that was already read, and the input it expects; see `load`."""
    what, base = str(record.path), record.base
    if base.kind == "python" and not trust_code:
        raise InputError(
            f"{what} is built by code it names, {base}: pass --trust-code (trust_code=True) to "
            "import it, if you trust where the artifact comes from"
        )
    stored = record.tensors()
    extra = {}
    for name in record.buffers:
        if name not in stored:
            raise InputError(f"{what} is damaged: no tensor {name!r}")
        extra[name] = stored.pop(name)
    for alias, name in record.aliases.items():
        if name not in stored or alias in stored:
            raise InputError(f"{what} is damaged: {alias!r} cannot stand for {name!r}")
    stored |= {alias: stored[name] for alias, name in record.aliases.items()}
    try:
        model = materialise(
            structure(base, record.plan),
            stored,
            what=what,
            buffers=extra,
            own_code=base.kind == "python",
        )
    except InputError as error:
        said = str(error)
        raise InputError(said if said.startswith(what) else f"{what}: {said}") from error
    for alias, name in record.aliases.items():
        try:
            tie(model, (name, alias))
        except AttributeError:  # a name that only the model's own state_dict() makes up
            continue
    try:
        expected = apply_preprocessing(model, record.config)
    except InputError as error:
        raise InputError(f"{what}: {error}") from None
    model.eval()
    return model, expected


def structure(base: Base, plan: Plan | None) -> Callable[[], nn.Module]:
    """Return a function that builds ``base`` and replays ``plan`` on it, on the current device."""

    def build() -> nn.Module:
        model = base.build()
        if plan is None or not plan.swaps:
            return model
        from dcnify import surgery

        try:
            return surgery.replay(model, plan)
        except (DcnifyError, OverflowError, NotImplementedError):
            raise
        except Exception as error:
            kind = type(error).__name__
            raise InputError(
                f"the plan cannot be replayed on {base}: {kind}: {first_line(error)}"
            ) from error

    return build
