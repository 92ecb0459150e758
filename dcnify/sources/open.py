"""Open a name of timm or torchvision, a weight file, a timm folder, or the user's own code."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.data.statistics import IMAGENET, Statistics, expect, pretrained_cfg_of
from dcnify.digest import sha256_file, sha256_tensors
from dcnify.errors import InputError
from dcnify.graph.calls import like_of
from dcnify.graph.example import Example, example_with
from dcnify.graph.part import call_of_part
from dcnify.progress import Progress, silent
from dcnify.sources import torchvision_models, transformers_models
from dcnify.sources.base import Base, architecture_args
from dcnify.sources.factory import example_inputs
from dcnify.sources.identify.resolve import resolve
from dcnify.sources.infer_base import infer_base
from dcnify.sources.materialise import materialise, mismatch_of
from dcnify.sources.preprocessing import preprocessing_of
from dcnify.sources.reading.checkpoint import Checkpoint, checkpoint_of
from dcnify.sources.reading.weight_files import is_mappable, read_weights
from dcnify.sources.reading.zips import check_zip
from dcnify.sources.spec import DEFAULT_SHAPE, SourceSpec, refuse_options
from dcnify.sources.state_dict import shapes_of
from dcnify.sources.timm_folder import read_timm_folder
from dcnify.sources.timm_models import create
from dcnify.surgery.plan import Plan

_FREE = 1 << 26
_RANDOM = ("weights are random; pretrained ones come with --pretrained",)


@dataclass(frozen=True)
class OpenedModel:
    """A model and where it came from."""

    model: nn.Module
    """In evaluation mode, on the CPU."""
    base: Base | None
    """How to build it again; None for a pickled module that no timm name describes."""
    spec: str
    """The source as the user wrote it."""
    sha256: str | None
    """Hash of the file, or of the weights if there is no file."""
    notes: tuple[str, ...] = ()
    """Notes on what was inferred, chosen or left out."""
    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    plan: Plan | None = None
    """The swaps that the model already has, if it came from an artifact."""
    call: Example | None = None
    """How the model is called; None with an image alone."""
    random_weights: bool = False
    """The weights are fresh: the source names an architecture only."""
    assumed: str = ""
    """Whose ``mean`` and ``std`` these are, if those of the weights are not known."""

    @property
    def statistics(self) -> Statistics:
        """How images become the model's input."""
        return Statistics(self.mean, self.std, self.interpolation)

    def for_images(self, asked: Statistics) -> OpenedModel:
        """Let the model expect the statistics that were asked for; note those that are assumed."""
        if any(asked):
            expect(self.model, asked.known())
        own = preprocessing_of(self.model, self.base.args if self.base else {})
        expected = own.statistics.over(self.statistics)
        missing = [name for name in ("mean", "std") if getattr(asked, name) is None]
        notes = self.notes
        if self.assumed and missing:
            shown = Statistics(**{name: getattr(expected.over(IMAGENET), name) for name in missing})
            given = " and ".join(f"--{name}" for name in missing)
            line = f"assumed {shown} of images, from {self.assumed}; give {given} if the weights"
            notes = (*notes, f"{line} were trained with others")
        return dataclasses.replace(self, notes=notes, **expected._asdict())

    def example(self, shape: tuple[int, int, int]) -> Tensor | Example:
        """A call of the model with noise of ``shape`` (C, H, W) in its dtype; always the same.

        It has one image, or as many as ``call``.
        """
        count = 1 if self.call is None else len(self.call.images)
        noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
        noise = noise.to(like_of(self.model).dtype)
        return noise if self.call is None else example_with(noise, self.call)


def open_model(
    spec: SourceSpec,
    model_args: Mapping[str, Any] | None = None,
    on_progress: Progress = silent,
) -> OpenedModel:
    """Open any source but an artifact; `dcnify.artifact.open_source` opens those too.

    ``spec`` was checked; ``model_args`` stand in place of its own.
    """
    args = spec.model_args if model_args is None else dict(model_args)
    path = Path(spec.source)
    if spec.kind == "timm":
        return _open_timm(spec, args)
    if spec.kind == "torchvision":
        return _open_torchvision(spec, args)
    if spec.kind == "python":
        base = Base("python", spec.name, args)
        return _opened(spec, base.build(), base)
    if path.is_dir() and transformers_models.is_folder(path):
        return _open_transformers(spec, path, args)
    if path.is_dir():
        return _open_checkpoint(spec, *read_timm_folder(path, spec), args, on_progress)
    check_zip(path)
    held = read_weights(path, trust_pickle=spec.trust_pickle, mapped=True, inert=True)
    inner = held.get("model") if isinstance(held, Mapping) else held
    if isinstance(inner, nn.Module) and not (spec.arch or spec.use_ema or spec.key):
        return _open_module(spec, inner)
    if not is_mappable(path):
        return _open_checkpoint(spec, path, _checkpoint(spec, held), args, on_progress)
    most = 4 * path.stat().st_size + _FREE
    checkpoint = _in_memory(spec, path, held, most)
    return _open_checkpoint(spec, path, checkpoint, args, on_progress, most)


def _open_timm(spec: SourceSpec, args: dict[str, Any]) -> OpenedModel:
    model = create(spec.name, args, pretrained=spec.pretrained)
    in_hub = ":" in spec.name
    base = _describe(model) if in_hub else Base("timm", spec.name, architecture_args(args))
    opened = _opened(spec, model, base, notes=() if spec.pretrained else _RANDOM)
    return dataclasses.replace(opened, random_weights=not spec.pretrained)


def _open_torchvision(spec: SourceSpec, args: dict[str, Any]) -> OpenedModel:
    model = torchvision_models.create(spec.name, args, pretrained=spec.pretrained)
    settings = torchvision_models.settings_of(model, spec.name) if spec.pretrained else {}
    described = architecture_args({**settings, **args})
    base = Base("torchvision", spec.name.partition(".")[0], described)
    opened = _opened(spec, model, base, notes=() if spec.pretrained else _RANDOM)
    return dataclasses.replace(opened, random_weights=not spec.pretrained)


def _open_transformers(spec: SourceSpec, path: Path, args: dict[str, Any]) -> OpenedModel:
    why = f"cannot change {spec.source}, whose config says how it is built"
    refuse_options({"--arch": spec.arch, "--model-arg": args}, why)
    model, notes = transformers_models.open_folder(path)
    base = Base("transformers", type(model).__name__, transformers_models.entries_of(model))
    return _opened(spec, model, base, notes=notes, recorded=pretrained_cfg_of(model))


def _open_checkpoint(
    spec: SourceSpec,
    file: Path,
    checkpoint: Checkpoint,
    args: dict[str, Any],
    on_progress: Progress,
    most: int | None = None,
) -> OpenedModel:
    """Open the model in a checkpoint, of which it may take ``most`` bytes."""
    what = spec.source
    found = resolve(checkpoint, what, arch=spec.arch, args=args, on_progress=on_progress)
    base, tensors = found.base, found.tensors
    if most is not None and (size := _dense_bytes(tensors)) > most:
        raise InputError(
            f"{what} holds views that would take {size / 2**30:.1f} GiB, the file "
            f"{file.stat().st_size / 2**20:.1f} MiB: save the state dict with .clone()d tensors"
        )
    if most is not None and _dense_bytes(checkpoint.tensors) > most:  # they are in the file still
        tensors = {name: value.clone() for name, value in tensors.items()}
    model = materialise(base.build, tensors, what=what, own_code=base.kind == "python")
    notes = (*found.notes, *checkpoint.notes)
    return _opened(spec, model, base, sha256_file(file), notes, checkpoint.preprocessing)


def _open_module(spec: SourceSpec, model: nn.Module) -> OpenedModel:
    base: Base | None = None
    note = "a pickled module of unknown architecture: saving its conversion needs a base"
    try:
        base = _describe(model)
        note = f"a pickled module, which {base} rebuilds"
    except InputError:
        pass
    own = Statistics.of(pretrained_cfg_of(model))
    return _opened(spec, model, base, sha256_file(Path(spec.source)), (note,), own.known())


def _describe(model: nn.Module) -> Base:
    shapes = shapes_of(model)
    return infer_base(model, lambda base: not mismatch_of(base.build, shapes))


def _opened(
    spec: SourceSpec,
    model: nn.Module,
    base: Base | None,
    sha256: str | None = None,
    notes: tuple[str, ...] = (),
    recorded: dict[str, Any] | None = None,
) -> OpenedModel:
    known = Statistics.of(recorded)
    expected = preprocessing_of(model, base.args if base else {}, recorded)
    if any(known):
        expect(model, {name: getattr(expected, name) for name in known.known()})
    if sha256 is None:
        sha256 = sha256_tensors(
            {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
        )
    call = example_inputs(model, base.name) if base and base.kind == "python" else None
    if spec.part:
        call = _call_of_part(model, spec.part, call, expected.input_size)
    if call is not None and len(call.shape) == 4:
        expected = expected._replace(input_size=(call.shape[1], call.shape[2], call.shape[3]))
    assumed = "" if known.mean and known.std else _assumed(spec, model, base)
    return OpenedModel(
        model.eval(), base, spec.source, sha256, notes, *expected, call=call, assumed=assumed
    )


def _call_of_part(
    model: nn.Module, part: str, call: Example | None, size: tuple[int, int, int] | None
) -> Example:
    """How the part is called when the model is called so; by default with an image alone."""
    if call is not None and call.part != part:
        return call_of_part(model, call, part)
    if call is None:
        call = Example((like_of(model).new_zeros(1, *(size or DEFAULT_SHAPE)),), part=part)
        call.called(model)
    return call


def _assumed(spec: SourceSpec, model: nn.Module, base: Base | None) -> str:
    """Whose statistics are taken, where a file or a factory says nothing about its weights."""
    if not pretrained_cfg_of(model).get("mean"):
        return "ImageNet"
    if spec.kind in ("timm", "torchvision"):
        return ""
    return f"{base.kind}'s {base.name}" if base and base.kind != "python" else "its pretrained_cfg"


def _in_memory(spec: SourceSpec, path: Path, held: Any, most: int) -> Checkpoint:
    """The file's state dict in memory of its own, however much else the file holds.

    If it has views that would take more than ``most`` bytes, it stays in the file.
    """
    checkpoint = _checkpoint(spec, held)
    size, whole = _dense_bytes(checkpoint.tensors), path.stat().st_size
    if size > most:
        return checkpoint
    if whole < 1.5 * size:
        again = read_weights(path, trust_pickle=spec.trust_pickle, inert=True)
        return _checkpoint(spec, again)
    tensors = {name: value.clone() for name, value in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, tensors=tensors, arch_hint=None)


def _dense_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.nbytes for value in tensors.values() if value.layout == torch.strided)


def _checkpoint(spec: SourceSpec, held: Any) -> Checkpoint:
    return checkpoint_of(held, spec.source, use_ema=spec.use_ema, key=spec.key, ignore=spec.ignore)
