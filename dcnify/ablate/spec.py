"""The requests of ``dcnify ablate`` as plain data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from dcnify.bench.spec import TIME
from dcnify.data.spec import DataSpec, ImageSpec
from dcnify.finetune.spec import Options
from dcnify.pipeline.spec import RunSpec
from dcnify.sources.spec import SourceSpec
from dcnify.spec import Spec, option

AnySpec = TypeVar("AnySpec", SourceSpec, DataSpec, ImageSpec)


@dataclass(frozen=True, kw_only=True)
class WorkSpec(Spec):
    """How trials are worked off."""

    jobs: int = option(
        1,
        help="Trials at once, each in a process of its own and on a GPU of its own, where there "
        "are several.",
        flags=("--jobs", "-j"),
        least=1,
        most=256,
        metavar="N",
    )
    fail_fast: bool = option(False, help="Stop at the first trial that fails.")


@dataclass(frozen=True, kw_only=True)
class AblateSpec(WorkSpec):
    """A sweep over one model: what to try, on what, and where to write it."""

    sweep: str = option(
        help="A built-in sweep (see 'dcnify ablate ls') or the path of a YAML file.",
        metavar="SWEEP",
    )
    source: SourceSpec = option(
        help="What to convert: timm:NAME, torchvision:NAME, a checkpoint, an artifact folder, or "
        "python:package.module:factory.",
        flags=("--source",),
        metavar="SOURCE",
    )
    data: DataSpec = option(DataSpec(), help="Images to fine-tune on; ``images`` by default.")
    output: str = option(
        help="Folder of the trials, their state and the report.",
        flags=("--output", "-o"),
        metavar="OUT",
    )
    recipe: str | None = option(
        None,
        help="The recipe to vary, in place of the one that the sweep names.",
        flags=("--recipe", "-r"),
        metavar="RECIPE",
    )
    overrides: tuple[str, ...] = option(
        (),
        help="Change one value of that recipe for every trial, such as "
        "finetune.stages.recover.steps=500. May be given more than once.",
        flags=("--set",),
        metavar="PATH=VALUE",
    )
    measure: tuple[str, ...] = option(
        (),
        help="What to measure, in place of what the sweep says: fidelity, finetune, latency, "
        "throughput, memory, parameters, flops. May be given more than once.",
        metavar="NAME,...",
    )
    images: ImageSpec = option(
        ImageSpec(), help="Images to measure fidelity on; those of ``data`` by default."
    )
    options: Options = option(Options(), help="How the fine-tuning runs.")
    batch: int = option(8, help="Images at once of a throughput.", least=1)
    seconds: float | None = option(**TIME)
    storage: str | None = option(
        None,
        help="Database of the trials' state, for workers on several machines, such as "
        "postgresql://user@host/database; an SQLite file in OUT by default.",
        metavar="URL",
    )
    keep_models: bool = option(False, help="Keep the fine-tuned model of every trial.")

    @property
    def folder(self) -> Path:
        """The output, without symbolic links."""
        return Path(self.output).resolve()

    def run_spec(self) -> RunSpec:
        """The same as one run of a recipe; paths begin at the root."""
        return RunSpec(
            recipe="",
            source=_absolute(self.source, "source"),
            data=_absolute(_absolute(self.data, "data"), "images"),
            output="",
            images=_absolute(self.images, "images"),
            options=self.options,
            batch=self.batch,
            seconds=self.seconds,
        )


@dataclass(frozen=True, kw_only=True)
class JoinSpec(WorkSpec):
    """Which sweep to help with."""

    folder: str | None = option(
        None, help="Folder of an ablation; a new one if only --storage is given.", metavar="OUT"
    )
    storage: str | None = option(
        None, help="Database of the trials' state; the folder's by default.", metavar="URL"
    )
    study: str | None = option(
        None, help="Which ablation, if the database has several.", metavar="NAME"
    )


def _absolute(spec: AnySpec, field: str) -> AnySpec:
    """The spec with a path that exists written from the root; names stay as they are."""
    given = getattr(spec, field)
    if given is None or not Path(given).exists():
        return spec
    changes: dict[str, Any] = {field: str(Path(given).resolve())}
    return replace(spec, **changes)
