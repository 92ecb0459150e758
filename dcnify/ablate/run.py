"""Run a sweep: check it whole, enqueue what is missing, work it off."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from dcnify._version import __version__
from dcnify.ablate.check import Checked, base_setting, check
from dcnify.ablate.measure import Watch
from dcnify.ablate.processes import work_in_processes
from dcnify.ablate.spec import AblateSpec, JoinSpec
from dcnify.ablate.state.record import (
    CONVERSIONS,
    FILE,
    LOGS,
    MODELS,
    REPORT,
    STATE,
    TRIALS,
    AblationRecord,
    PointRecord,
    read_record,
    storage_url,
    write_record,
)
from dcnify.ablate.state.storage import without_password
from dcnify.ablate.state.store import DONE, INFEASIBLE, RUNNING, WAITING, Store, open_store
from dcnify.ablate.state.tally import Tally
from dcnify.ablate.sweep import Sweep
from dcnify.ablate.worker import Worker, check_version
from dcnify.ablate.workplace import Workplace, open_workplace
from dcnify.errors import InputError
from dcnify.progress import Progress, silent

_OURS = {FILE, STATE, f"{STATE}-wal", f"{STATE}-shm", TRIALS, CONVERSIONS, MODELS, REPORT, LOGS}

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """A sweep whose trials are enqueued."""

    folder: Path
    url: str
    record: AblationRecord
    store: Store
    place: Workplace | None
    scratch: TemporaryDirectory[str] | None = None
    """What ``folder`` is in where there is only a storage; gone with this object."""


def prepare(
    spec: AblateSpec,
    sweep: Sweep | None = None,
    *,
    progress: Progress = silent,
    say: Say = lambda text: None,
) -> Prepared:
    """Check everything that can be checked, then enqueue the trials that are missing.

    Raises:
        InputError: something given is wrong, or the folder or the storage belong to another sweep.
            Nothing was written then.
    """
    spec.source.check()
    sweep = (sweep or Sweep.load(spec.sweep)).measuring(spec.measure)
    _check_measures(sweep, spec)
    folder = spec.folder
    earlier = _earlier(folder, sweep)
    if earlier is not None:
        url = storage_url(folder, earlier, spec.storage)
    else:
        url = spec.storage or f"sqlite:///{folder / STATE}"
    shown = without_password(url)
    shared = {"run": spec.run_spec(), "source_sha256": None, "keep_models": spec.keep_models}
    setting = base_setting(sweep, shared, spec.recipe, spec.overrides)
    place = open_workplace(setting, folder, progress)
    for note in place.source.notes:
        say(note)
    setting = replace(setting, source_sha256=place.source.sha256)
    place.setting = setting
    checked = check(sweep, setting, place.source, place.measured_on, progress)
    if earlier is not None and earlier.setting["source_sha256"] != setting.source_sha256:
        raise InputError(f"{folder} is about another model: choose another folder")
    record = AblationRecord(
        version=__version__,
        sweep=sweep.name,
        description=sweep.description,
        factors={path: list(levels) for path, levels in sweep.factors.items()},
        seeds=sweep.seeds,
        measure=sweep.measured,
        points=[
            PointRecord(values=one.point.values, trials=tuple(t.hash for t in one.trials)).to_dict()
            for one in checked.points
        ],
        base=checked.base,
        setting=setting.to_dict(),
        storage=None if url.endswith(str(folder / STATE)) else shown,
    )
    if record.storage is None:
        folder.mkdir(parents=True, exist_ok=True)
    store = open_store(url, sweep.name, create=True)
    _check_study(store, record, shown)
    folder.mkdir(parents=True, exist_ok=True)
    store.describe(
        {
            "version": __version__,
            "record": {**record.to_dict(), "points": []},
            f"setting:{setting.sha256}": setting.to_dict(),
        }
    )
    write_record(folder, record)
    _enqueue(store, checked, say)
    return Prepared(folder, url, record, store, place)


def join(spec: JoinSpec, *, progress: Progress = silent) -> Prepared:
    """Find the sweep to help with.

    Raises:
        InputError: it is not there, or was begun by another version of dcnify.
    """
    if spec.folder is None and spec.storage is None:
        raise InputError("name the folder of an ablation, or its --storage")
    if spec.folder is None:
        assert spec.storage is not None
        store = open_store(spec.storage, spec.study)
        check_version(store)
        record = AblationRecord.from_dict(store.about()["record"])
        scratch = TemporaryDirectory(prefix="dcnify-")
        return Prepared(Path(scratch.name), spec.storage, record, store, None, scratch)
    folder = Path(spec.folder).resolve()
    record = read_record(folder)
    url = storage_url(folder, record, spec.storage)
    store = open_store(url, record.sweep)
    check_version(store)
    return Prepared(folder, url, record, store, None)


def work(
    prepared: Prepared,
    *,
    jobs: int = 1,
    fail_fast: bool = False,
    progress: Progress = silent,
    watch: Watch | None = None,
    say: Say = lambda text: None,
) -> Tally:
    """Work off the trials, here or in processes; return what became of them.

    Raises:
        DcnifyError: as `dcnify.ablate.worker.Worker.work`.
    """
    store, folder = prepared.store, prepared.folder
    store.take_back()
    store.requeue()
    tally = Tally(store, prepared.record, folder, progress, say)
    if jobs > 1:
        timed = [one for one in ("latency", "throughput") if one in prepared.record.measure]
        if timed and _share_devices(jobs):
            say(f"{jobs} jobs disturb each other: {timed[0]} is truest with --jobs 1")
        work_in_processes(jobs, folder, prepared.url, store, tally, fail_fast=fail_fast)
        return tally
    worker = Worker(
        store, folder, prepared.place, ended=tally.update, watch=watch, fail_fast=fail_fast
    )
    try:
        worker.work()
    finally:
        tally.update(now=True)
    return tally


def _share_devices(jobs: int) -> bool:
    """Whether jobs run on the same processors while they are timed."""
    import torch

    return torch.cuda.device_count() < jobs


def _earlier(folder: Path, sweep: Sweep) -> AblationRecord | None:
    """The record of an earlier call in this folder; None if there was none."""
    if folder.is_file():
        raise InputError(f"{folder} is a file; an ablation is written to a folder")
    if not folder.is_dir():
        return None
    if (folder / FILE).is_file():
        found = read_record(folder)
        if found.sweep != sweep.name:
            raise InputError(
                f"{folder} holds the sweep {found.sweep}, not {sweep.name}: choose another folder"
            )
        return found
    strange = sorted(one.name for one in folder.iterdir() if one.name not in _OURS)
    if strange:
        shown = ", ".join(strange[:3])
        raise InputError(f"{folder} holds something else ({shown}): choose another folder")
    return None


def _check_study(store: Store, record: AblationRecord, shown: str) -> None:
    """Refuse a study of that name that is about something else."""
    about = store.about()
    if not about:
        if store.rows():
            raise InputError(f"{shown} has a study {store.name!r} that is not dcnify's")
        return
    check_version(store)
    before = about["record"]["setting"]["source_sha256"]
    if before != record.setting["source_sha256"]:
        raise InputError(
            f"{shown} has an ablation {store.name!r} of another model: rename the sweep, or take "
            "another database"
        )


def _check_measures(sweep: Sweep, spec: AblateSpec) -> None:
    """Refuse measurements that cannot be made, and factors that nothing measured depends on."""
    tuned = "finetune" in sweep.measured
    if tuned:
        try:
            spec.run_spec().training_data.check()
        except InputError as error:
            where = sweep.origins.prefix(("measure",))
            raise InputError(f"{where}measure: finetune needs images: {error}") from None
    for path in sweep.factors:
        if path.split(".")[0] == "finetune" and not tuned:
            place = sweep.origins.key(("factors", path))
            raise InputError(
                f"{place}: {path} changes nothing that is measured: add finetune to 'measure'"
            )
    if "memory" in sweep.measured:
        import torch

        if spec.options.cpu or not torch.cuda.is_available():
            where = sweep.origins.prefix(("measure",))
            raise InputError(f"{where}memory is measured on a GPU only: leave it out of 'measure'")


def _enqueue(store: Store, checked: Checked, say: Say) -> None:
    """Enqueue the trials that are missing, failed or changed; drop those of before."""
    trials = checked.trials
    known = store.latest()
    kept = (DONE, INFEASIBLE, WAITING, RUNNING)
    missing = [
        one for name, one in trials.items() if name not in known or known[name].state not in kept
    ]
    others = [row for name, row in known.items() if name not in trials and row.state == WAITING]
    store.drop(others)
    store.enqueue([one.to_dict() for one in missing])
    for line in _summary(checked, len(missing), len(others)):
        say(line)


def _summary(checked: Checked, missing: int, dropped: int) -> list[str]:
    trials, points, seeds = checked.trials, checked.points, checked.sweep.seeds
    conversions = len({one.conversion for one in trials.values()})
    lines = [f"{len(trials)} trials: {_count(len(points), 'point')} x {_count(len(seeds), 'seed')}"]
    same = len(points) * len(seeds) - len(trials)
    if same:
        lines[0] += f", {same} of them equal to others"
    if "finetune" in checked.setting.measure:
        lines[0] += f"; {_count(conversions, 'conversion')}"
        if conversions < len(trials):
            lines[0] += f", shared by {_count(len(trials), 'fine-tuning')}"
    if checked.without_sites:
        lines.append(
            f"{_count(checked.without_sites, 'point')} dropped: their selectors hit nothing"
        )
    if missing < len(trials):
        lines.append(f"{len(trials) - missing} were enqueued or done before, {missing} are new")
    if dropped:
        lines.append(f"{dropped} that waited are no longer part of the sweep")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
