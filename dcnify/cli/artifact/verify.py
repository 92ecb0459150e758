"""dcnify verify: recompute what an artifact claims, from its files and from its source."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from dcnify.cli.flatten import Offer, verb
from dcnify.cli.options import Artifact, Plot
from dcnify.cli.output import table
from dcnify.cli.terminal import Terminal
from dcnify.data.spec import ImageSpec
from dcnify.errors import CheckError
from dcnify.sources.spec import SourceSpec, refuse_options

if TYPE_CHECKING:
    from dcnify.artifact import Artifact as Record
    from dcnify.artifact import Verification

Against = Annotated[
    SourceSpec | None,
    Offer(
        flags={"source": "--against"},
        help={
            "source": "The model it was converted from: its layers are measured against the new "
            "ones again. The options of a source are about this one."
        },
        without=("trust_code", "input_size", "part"),
    ),
]
Images = Annotated[
    ImageSpec,
    Offer(
        help={
            "images": "With --against: images to measure on, as given to convert; by default the "
            "photographs that convert takes.",
            "image_count": "With --against: how many images, as given to convert; as many as it "
            "took by default.",
        }
    ),
]


@verb
def verify(
    request: Artifact, against: Against, images: Images, files: Plot, terminal: Terminal
) -> None:
    """Check that an artifact is intact, and computes what it did when it was written.

    Hashes, loading, a stored output and the operator on this machine are checked from its files
    alone; --against measures its fidelity again. Exit code 3 if a check fails.

    \b
    $ dcnify verify out/
    $ dcnify verify out/ --against model.pt --plot fidelity.png
    """
    if against is None:
        given = {f"--{name.replace('_', '-')}": value for name, value in images.to_dict().items()}
        refuse_options(given, "needs --against SOURCE, the model to compare with")
    else:
        against = dataclasses.replace(against, trust_code=request.trust_code)
        against.check()
    files.check()
    from dcnify.artifact import images_reported, open_source, read_artifact
    from dcnify.artifact import verify as run
    from dcnify.verify.verification import statistics_reported

    record = read_artifact(request.artifact)
    opened, batch = None, None
    with terminal.progress("opening the source") as shown:
        if against is not None:
            opened = open_source(against, on_progress=shown.phase)
            named = images.images is not None or any(images.statistics)
            batch = images.load(
                record.input_shape[1:],
                **statistics_reported(record, opened).known(),
                count=images_reported(record) if named else None,
                progress=shown.phase,
            )
        done = run(
            record,
            against=opened,
            images=batch,
            trust_code=request.trust_code,
            progress=shown.phase,
        )
    for note in opened.notes if opened else ():
        terminal.say(note)
    for words in (*(batch.remarks() if batch else ()), *done.warnings):
        terminal.warn(words)
    terminal.emit(_data(done), lambda: _render(done, record))
    files.draw_fidelity(done.report, _fidelity(done))
    if done.failed:
        names = "; ".join(f"{check.name} ({check.detail})" for check in done.failed)
        raise CheckError(
            f"{request.artifact}: {len(done.failed)} of {len(done.checks)} checks failed: {names}"
        )


def _fidelity(done: Verification) -> dict[str, Any] | None:
    return dataclasses.asdict(done.fidelity) if done.fidelity else None


def _data(done: Verification) -> dict[str, Any]:
    return {
        "artifact": done.path,
        "passed": not done.failed,
        "checks": [dataclasses.asdict(check) for check in done.checks],
        "fidelity": _fidelity(done),
        "reported": {key: done.report.get(key) for key in ("images", "sites", "output")},
        "warnings": list(done.warnings),
    }


def _render(done: Verification, record: Record) -> list[Any]:
    words = {True: "passed", False: "FAILED", None: "not checked"}
    rows = [
        (check.name, words[check.passed], _number(check.value), _number(check.limit), check.detail)
        for check in done.checks
    ]
    parts: list[Any] = [table(("check", "result", ">value", ">limit", "detail"), rows)]
    if done.fidelity is not None:
        parts += ["", *_compared(done, record)]
    return parts


def _compared(done: Verification, record: Record) -> list[Any]:
    from dcnify.verify.fidelity import reported_sites

    assert done.fidelity is not None
    output = done.fidelity.output
    measured: dict[str, Any] = {site.path: site for site in done.fidelity.sites}
    measured["(output)"] = output
    reported = dict(reported_sites(done.report))
    said = done.report.get("output")
    reported["(output)"] = said if isinstance(said, dict) else {}
    required = {swap.site.path: (swap.require or {}).get("sqnr_db") for swap in record.plan.swaps}
    rows: list[tuple[object, ...]] = []
    for path, now in measured.items():
        was = reported.get(path, {})
        numbers = (was.get("sqnr_db", ""), now.sqnr_db, was.get("cosine", ""), now.cosine)
        rows.append((path, *map(_fixed, numbers, (2, 2, 4, 4)), required.get(path)))
    columns = ("site", ">SQNR dB, reported", ">now", ">cosine, reported", ">now", ">required dB")
    shown = len(columns) if any(row[-1] is not None for row in rows) else len(columns) - 1
    agreed = ""
    if output.top1_agreement is not None:
        agreed = f", top-1 agreement {output.top1_agreement:.0%}"
    images = done.fidelity.images
    line = (
        f"output: relative error {output.relative_error:.1e}{agreed} on {output.images} images "
        f"({images['origin']})"
    )
    return [table(columns[:shown], [row[:shown] for row in rows]), line]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) or value == 0 else f"{value:.2g}"


def _fixed(value: Any, digits: int) -> str:
    """A number from a report, where null is infinity; anything else as it is."""
    if value is None:
        return "inf"
    return f"{value:.{digits}f}" if type(value) in (int, float) else str(value)
