"""Open every kind of source, artifacts included."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dcnify.artifact.layout import WEIGHTS
from dcnify.artifact.load import load_record
from dcnify.artifact.record import is_artifact, read_artifact
from dcnify.digest import sha256_file
from dcnify.progress import Progress, silent
from dcnify.sources.open import OpenedModel, open_model
from dcnify.sources.spec import SourceSpec, refuse_options


def open_source(
    spec: str | os.PathLike[str] | SourceSpec,
    *,
    arch: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    use_ema: bool = False,
    key: str | None = None,
    ignore: Sequence[str] = (),
    trust_pickle: bool = False,
    trust_code: bool = False,
    on_progress: Progress | None = None,
) -> OpenedModel:
    """Open ``timm:NAME``, ``torchvision:NAME``, a file, an artifact, or ``python:module:factory``.

    Args:
        spec: the source, or a `SourceSpec` that holds it and all options but ``on_progress``.
        arch: the architecture of a weight file: a timm name, ``torchvision:NAME``, or
            ``python:package.module:factory``.
        model_args: arguments of the constructor or the factory; they win over the file's.
        pretrained: fetch the published weights, for ``timm:`` and ``torchvision:``.
        use_ema: take a training checkpoint's averaged weights.
        key: take the state dict under this key of a weight file.
        ignore: patterns of names of a weight file's tensors to leave out.
        trust_pickle: let a weight file run code.
        trust_code: let an artifact import the code it names.
        on_progress: called while an architecture is inferred.

    Raises:
        InputError: the source does not exist, is damaged, fits no architecture or several, or
            needs one of the options.
        DcnifyError: pretrained weights could not be fetched.
    """
    if not isinstance(spec, SourceSpec):
        spec = SourceSpec(
            os.fspath(spec),
            arch=arch,
            pretrained=pretrained,
            use_ema=use_ema,
            key=key,
            ignore=tuple(ignore),
            trust_pickle=trust_pickle,
            trust_code=trust_code,
        )
        model_args = model_args or {}
    spec.check()
    if spec.kind == "path" and is_artifact(Path(spec.source)):
        return _open_artifact(spec, spec.model_args if model_args is None else model_args)
    return open_model(spec, model_args, on_progress or silent)


def _open_artifact(spec: SourceSpec, model_args: Mapping[str, Any]) -> OpenedModel:
    for_files: dict[str, Any] = {"--arch": spec.arch, "--use-ema": spec.use_ema, "--key": spec.key}
    for_files |= {"--ignore": spec.ignore}
    refuse_options(for_files, f"is for weight files, not for {spec.source}, an artifact")
    refuse_options(
        {"--part": spec.part}, f"is recorded in {spec.source}, an artifact: leave it out"
    )
    refuse_options({"--model-arg": model_args}, f"cannot change {spec.source}, an artifact")
    record = read_artifact(spec.source)
    model, expected = load_record(record, trust_code=spec.trust_code)
    weights = record.path / WEIGHTS if record.path.is_dir() else record.path
    note = f"a conversion of {record.base} with {len(record.plan.swaps)} swaps"
    return OpenedModel(
        model,
        record.base,
        spec.source,
        sha256_file(weights),
        (note,),
        *expected,
        plan=record.plan,
        call=record.example(),
    )
