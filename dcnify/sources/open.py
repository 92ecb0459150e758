"""Open whatever a person may point at: a timm name, a file, a folder, their own code."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.artifact.config import data_of
from dcnify.artifact.layout import CONFIG, FILES, WEIGHTS
from dcnify.artifact.load import load_record
from dcnify.artifact.record import is_artifact_file, read_artifact
from dcnify.digest import sha256_file, sha256_tensors
from dcnify.errors import InputError
from dcnify.graph.example import Example, example_with
from dcnify.progress import Progress
from dcnify.sources.base import Base, architecture_args
from dcnify.sources.compare import shapes_of
from dcnify.sources.contents import Contents, contents_of
from dcnify.sources.derive import derive_base
from dcnify.sources.factory import example_inputs
from dcnify.sources.identify.match import match
from dcnify.sources.materialise import materialise, mismatch_of
from dcnify.sources.spec import SourceSpec, refuse_options
from dcnify.sources.timm_folder import read_timm_folder
from dcnify.sources.timm_models import create
from dcnify.sources.weight_files import is_mappable, read_weights
from dcnify.surgery.plan import Plan


@dataclass(frozen=True)
class Source:
    """A model and where it came from."""

    model: nn.Module
    """In evaluation mode, on the CPU."""
    base: Base | None
    """How to build it again; None for a pickled module that no timm name describes."""
    spec: str
    """As it was given."""
    sha256: str | None
    """Of the file, or of the weights where there is no file."""
    notes: tuple[str, ...] = ()
    """What was inferred, chosen or left out, in words."""
    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    plan: Plan | None = None
    """The swaps that the model already has, if it came from an artifact."""
    call: Example | None = None
    """How the model is called; None with an image alone."""

    def example(self, shape: tuple[int, int, int]) -> Tensor | Example:
        """A call of the model with noise (1, C, H, W) in the model's dtype; the same each time.

        Args:
            shape: (C, H, W), see `SourceSpec.input_shape`.
        """
        parameter = next(self.model.parameters(), None)
        dtype = torch.float32 if parameter is None else parameter.dtype
        noise = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        return noise if self.call is None else example_with(noise, self.call)


def open_source(
    spec: str | os.PathLike[str] | SourceSpec,
    *,
    arch: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
    use_ema: bool = False,
    trust_pickle: bool = False,
    trust_code: bool = False,
    on_progress: Progress | None = None,
) -> Source:
    """Open ``timm:NAME``, a weight file, an artifact, or ``python:package.module:factory``.

    Args:
        spec: the source, or a `SourceSpec` that holds it and all options but ``on_progress``.
        arch: the architecture of a weight file: a timm name, or ``python:package.module:factory``.
        model_args: arguments for `timm.create_model` or the factory; they win over the file's.
        pretrained: fetch timm's weights, for ``timm:``.
        use_ema: take a training checkpoint's averaged weights.
        trust_pickle: let a weight file run code.
        trust_code: let an artifact import the code it names.
        on_progress: called while an architecture is inferred.

    Raises:
        InputError: the source does not exist, is damaged, fits no architecture or several, or
            needs one of the options.
        DcnifyError: pretrained weights could not be fetched.
    """
    if isinstance(spec, SourceSpec):
        args = spec.model_args
    else:
        args = dict(model_args or {})
        spec = SourceSpec(
            os.fspath(spec),
            arch=arch,
            pretrained=pretrained,
            use_ema=use_ema,
            trust_pickle=trust_pickle,
            trust_code=trust_code,
        )
    spec.check()
    arch, use_ema = spec.arch, spec.use_ema
    trust_pickle, trust_code = spec.trust_pickle, spec.trust_code
    text, kind, name, path = spec.source, spec.kind, spec.name, Path(spec.source)
    if kind == "timm":
        return _from_timm(text, name, args, spec.pretrained)
    if kind == "python":
        base = Base("python", name, args)
        return _source(text, base.build(), base)
    if path.is_dir() and not (path / CONFIG).is_file():
        raise InputError(f"{text} is no artifact: a folder with {', '.join(FILES)}")
    if path.is_dir():
        found = read_timm_folder(path)
        if found is None:
            refuse_options(
                {"--arch": arch, "--use-ema": use_ema}, f"is for weight files, not for {text}"
            )
            return _from_artifact(text, args, trust_code)
        weights, contents = found
        return _from_contents(text, weights, contents, arch, args, on_progress)
    held = read_weights(path, trust_pickle=trust_pickle, mapped=True)
    if is_artifact_file(held):
        return _from_artifact(text, args, trust_code)
    inner = held.get("model") if isinstance(held, Mapping) else held
    if isinstance(inner, nn.Module) and arch is None and not use_ema:
        return _from_module(text, path, inner)
    contents = _in_memory(path, held, use_ema, trust_pickle)
    return _from_contents(text, path, contents, arch, args, on_progress)


def _from_timm(spec: str, name: str, args: dict[str, Any], pretrained: bool) -> Source:
    model = create(name, args, pretrained=pretrained)
    notes = () if pretrained else ("weights are random; pretrained ones come with --pretrained",)
    base = _described(model) if ":" in name else Base("timm", name, architecture_args(args))
    return _source(spec, model, base, notes=notes)


def _from_artifact(spec: str, args: dict[str, Any], trust_code: bool) -> Source:
    refuse_options({"--model-arg": args}, f"cannot change {spec}, which is an artifact")
    record = read_artifact(spec)
    model, (size, mean, std) = load_record(record, trust_code=trust_code)
    weights = record.path / WEIGHTS if record.path.is_dir() else record.path
    note = f"a conversion of {record.base} with {len(record.plan.swaps)} swaps"
    return Source(
        model=model,
        base=record.base,
        spec=spec,
        sha256=sha256_file(weights),
        notes=(note,),
        input_size=size,
        mean=mean,
        std=std,
        plan=record.plan,
        call=record.example(),
    )


def _from_contents(
    spec: str,
    path: Path,
    contents: Contents,
    arch: str | None,
    args: dict[str, Any],
    on_progress: Progress | None,
) -> Source:
    matched = match(contents, spec, arch=arch, args=args, on_progress=on_progress)
    base = matched.base
    model = materialise(base.build, matched.tensors, what=spec, own_code=base.kind == "python")
    notes = (*matched.notes, *contents.notes)
    return _source(spec, model, base, sha256_file(path), notes, contents.data)


def _from_module(spec: str, path: Path, model: nn.Module) -> Source:
    base: Base | None
    try:
        base = _described(model)
        note = f"a pickled module, which {base} rebuilds"
    except InputError:
        base = None
        note = "a pickled module of no timm architecture: saving its conversion needs a base"
    return _source(spec, model, base, sha256_file(path), (note,))


def _described(model: nn.Module) -> Base:
    shapes = shapes_of(model)
    return derive_base(model, lambda base: not mismatch_of(base.build, shapes))


def _source(
    spec: str,
    model: nn.Module,
    base: Base | None,
    sha256: str | None = None,
    notes: tuple[str, ...] = (),
    given: dict[str, Any] | None = None,
) -> Source:
    size, mean, std = data_of(model, base.args if base else {}, given)
    if sha256 is None:
        sha256 = sha256_tensors(
            {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
        )
    model.eval()
    call = example_inputs(base.name) if base and base.kind == "python" else None
    if call is not None and len(call.shape) == 4:
        size = call.shape[1], call.shape[2], call.shape[3]
    return Source(model, base, spec, sha256, notes, size, mean, std, call=call)


def _in_memory(path: Path, held: Any, use_ema: bool, trust_pickle: bool) -> Contents:
    """The file's state dict in memory of its own, however much else the file holds."""
    contents = contents_of(held, str(path), use_ema=use_ema)
    if not is_mappable(path):
        return contents
    size = sum(value.nbytes for value in contents.tensors.values())
    if path.stat().st_size < 1.5 * size:
        again = read_weights(path, trust_pickle=trust_pickle)
        return contents_of(again, str(path), use_ema=use_ema)
    tensors = {name: value.clone() for name, value in contents.tensors.items()}
    return Contents(tensors, contents.arch, contents.args, contents.data, contents.notes)
