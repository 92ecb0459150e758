"""Save a conversion as an artifact, after proving that it can be loaded again."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.artifact.config import config_of
from dcnify.artifact.golden import Golden, golden_of
from dcnify.artifact.layout import CONFIG, FILE_FORMAT, GOLDEN, PLAN, RECIPE, REPORT, WEIGHTS
from dcnify.artifact.load import structure
from dcnify.artifact.output import check_output, is_file_output, write_output
from dcnify.artifact.published_base import published_base
from dcnify.artifact.record import Artifact, sha256_text
from dcnify.artifact.tensors import compact, without_aliases, write_safetensors
from dcnify.digest import sha256_file, sha256_tensors
from dcnify.errors import InputError
from dcnify.graph.example import Example
from dcnify.nn import Handover
from dcnify.sources.base import Base
from dcnify.sources.construct import on_meta, with_buffers
from dcnify.sources.infer_base import HINT, infer_base
from dcnify.sources.materialise import buffers_beside, mismatch_of, tied
from dcnify.sources.open import OpenedModel
from dcnify.sources.preprocessing import Preprocessing, preprocessing_of
from dcnify.sources.state_dict import Mismatch, shapes_of
from dcnify.surgery.handover import settled
from dcnify.surgery.plan import Plan
from dcnify.surgery.result import ConvertResult
from dcnify.words import first_line


def save(
    result: ConvertResult,
    path: str | os.PathLike[str],
    *,
    source: OpenedModel | None = None,
    base: Base | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a conversion so that `load` gives back the same model, bit for bit.

    The model runs once, in evaluation mode: an input and its output are kept for `verify`.

    Args:
        result: what `dcnify.convert` returned.
        path: a folder, or a file ending in ``.pt`` or ``.pth``.
        source: what `open_source` returned, for the record and the base.
        base: how to build the unconverted architecture; derived from the model by default.
        overwrite: replace the artifact that is there.

    Returns:
        Where it was written.

    Raises:
        InputError: the output exists or cannot be written, or the model is not what its base and
            plan rebuild, so that it could not be loaded.
        DcnifyError: writing failed; nothing is left behind.
    """
    target = check_output(path, overwrite)
    plan = _as_it_stands(_whole_plan(result.plan, source), result.model)
    base = _verified_base(result.model, plan, base or (source.base if source else None))
    base = published_base(base, result.model)
    expected = preprocessing_of(result.model, base.args)
    origin: dict[str, Any] = {}
    if source is not None:
        origin = {"spec": source.spec, "sha256": source.sha256}
        statistics = expected.statistics.over(source.statistics)
        expected = Preprocessing(source.input_size or expected.input_size, *statistics)
    report = {
        **result.report.to_dict(),
        "source": {**origin, "notes": list(source.notes)} if source else None,
        "recipe_sha256": result.recipe.sha256,
    }
    texts = {PLAN: plan.to_json() + "\n", RECIPE: result.recipe.to_yaml(), REPORT: _json(report)}
    about = (base, plan, result.example, expected, origin, texts)
    return _write(result.model, *about, target, overwrite)


def save_again(
    record: Artifact,
    model: nn.Module,
    plan: Plan,
    path: str | os.PathLike[str],
    *,
    report: dict[str, Any] | None = None,
    recipe: str | None = None,
    base: Base | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an artifact that was loaded and trained since, with all that was known of it.

    Args:
        record: the artifact that was loaded.
        model: the model, as `load` gave it but for its weights.
        plan: of the model as it is now.
        path: a folder, or a file ending in ``.pt`` or ``.pth``.
        report: in place of the record's.
        recipe: in place of the record's, as YAML.
        base: how to build the unconverted architecture, if that changed: another number of
            classes, say.
        overwrite: replace the artifact that is there.

    Raises:
        InputError, DcnifyError: as `save`.
    """
    target = check_output(path, overwrite)
    plan = _as_it_stands(plan, model)
    base = _verified_base(model, plan, base or record.base)
    origin = record.config["dcnify"].get("source") or {}
    expected = preprocessing_of(model, base.args)
    texts = {
        PLAN: plan.to_json() + "\n",
        RECIPE: recipe or record.recipe,
        REPORT: _json(report or record.report),
    }
    about = (base, plan, record.example(), expected, origin, texts)
    return _write(model, *about, target, overwrite)


def _write(
    model: nn.Module,
    base: Base,
    plan: Plan,
    example: Example | None,
    expected: Preprocessing,
    origin: dict[str, Any],
    texts: dict[str, str],
    target: Path,
    overwrite: bool,
) -> Path:
    """Add what only the model and the files tell, and write everything."""
    state = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    extra = _unreproducible_buffers(model, base, plan, state)
    kept, aliases = without_aliases({**state, **extra})
    golden = golden_of(model, example or plan.input_shape)
    about = golden.about() if isinstance(golden, Golden) else {"missing": golden}
    pair = golden.tensors() if isinstance(golden, Golden) else {}
    hashes = {name: sha256_text(text) for name, text in texts.items()}
    block = {
        "swaps": len(plan.swaps),
        "source": origin,
        "aliases": aliases,
        "buffers": list(extra),
        "golden": about,
    }
    config = config_of(model, base, expected, block)
    config["dcnify"]["files"] = hashes

    def write_one(file: Path) -> None:
        parts = {"state_dict": compact(kept), "golden": pair}
        hashes.update({k: sha256_tensors(v) for k, v in parts.items() if v or k != "golden"})
        held = {name.partition(".")[0]: text for name, text in texts.items()}
        whole = {"format": FILE_FORMAT, "config": config, **held, **parts}
        try:
            torch.save(whole, file)
        except RuntimeError as error:  # PyTorch's writer does not say why
            size = sum(value.nbytes for part in parts.values() for value in part.values())
            full = shutil.disk_usage(file.parent).free < size
            raise OSError("the disk is full" if full else first_line(error)) from error

    def write_all(folder: Path) -> None:
        for name, tensors in ((WEIGHTS, kept), (GOLDEN, pair)):
            if tensors or name == WEIGHTS:
                write_safetensors(tensors, folder / name)
                hashes[name] = sha256_file(folder / name)
        for name, text in {**texts, CONFIG: _json(config)}.items():
            (folder / name).write_bytes(text.encode())

    write_output(target, write_one if is_file_output(target) else write_all, overwrite)
    return target


def _whole_plan(plan: Plan, source: OpenedModel | None) -> Plan:
    """The plan with the swaps of an artifact that was converted again before the new ones."""
    earlier = source.plan if source else None
    if earlier is None or settled(plan.swaps)[: len(earlier.swaps)] == settled(earlier.swaps):
        return plan
    return dataclasses.replace(
        plan,
        swaps=(*earlier.swaps, *plan.swaps),
        trims=(*earlier.trims, *plan.trims),
        isolations=(*earlier.isolations, *plan.isolations),
    )


def _as_it_stands(plan: Plan, model: nn.Module) -> Plan:
    """The plan without the handovers that are over in ``model``, an earlier conversion's too."""
    modules = dict(model.named_modules(remove_duplicate=False))
    swaps = (
        dataclasses.replace(
            swap, handover=swap.handover and isinstance(modules.get(swap.site.path), Handover)
        )
        for swap in plan.swaps
    )
    return dataclasses.replace(plan, swaps=tuple(swaps))


def _verified_base(model: nn.Module, plan: Plan, base: Base | None) -> Base:
    """The base, derived from the model if there is none, that rebuilds the model with the plan."""
    shapes = shapes_of(model)

    def mismatch(candidate: Base) -> Mismatch:
        own = candidate.kind == "python"
        return mismatch_of(structure(candidate, plan), shapes, own_code=own)

    def fits(candidate: Base) -> bool:
        try:
            return not mismatch(candidate)
        except InputError:
            return False

    if base is None:
        return infer_base(model, fits)
    base = Base.from_dict(base.to_dict())  # as `load` will read it
    problem = mismatch(base)
    if problem:
        raise InputError(f"{base} and the plan rebuild another model: {problem}; {HINT}")
    return base


def _unreproducible_buffers(
    model: nn.Module, base: Base, plan: Plan, state: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Buffers outside the state dict whose value or type a rebuilt model would not have.

    A model cast to bfloat16 has its rope tables cast, a model resized for larger images has others.
    """
    mine = {k: v for k, v in model.named_buffers() if k not in state}
    build = structure(base, plan)
    own = base.kind == "python"
    rebuilt = with_buffers(build, skip_init=not own) if mine or own else on_meta(build)
    for names in tied(rebuilt):
        if len({state[name].data_ptr() for name in names if name in state}) > 1:
            raise InputError(f"{base} shares one weight as {' and '.join(names[:2])}: {HINT}")
    fresh = dict(rebuilt.named_buffers())
    return {
        name: value
        for name, value in mine.items()
        # A forward pass may register a buffer; the next one makes it again.
        if buffers_beside(rebuilt, name) is not None
        and (
            name not in fresh
            or value.dtype != fresh[name].dtype
            or not torch.equal(value.cpu(), fresh[name])
        )
    }


def _json(data: Any) -> str:
    return json.dumps(data, indent=2) + "\n"
