"""dcnify bench op: time the operator against its rivals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcnify.bench.spec import OpBenchSpec
from dcnify.cli.flatten import verb
from dcnify.cli.options import FilesSpec
from dcnify.cli.output import table
from dcnify.cli.terminal import Terminal
from dcnify.errors import InputError

if TYPE_CHECKING:
    from dcnify.bench import AblationReport, CaseResult, Measurement, Report


@verb
def op(spec: OpBenchSpec, files: FilesSpec, terminal: Terminal) -> None:
    """Time dcnify.ops.dcnv4 against its rivals, all interleaved.

    Rivals that compute the same function are checked against it first; a disagreement ends the run
    with exit code 3. Times are medians, with the 20th and 80th percentile. A rival's "2.0x" means
    that it takes twice as long.

    \b
    $ dcnify bench op --shapes 56x56x128g4 --pass forward --rivals grid_sample,sdpa
    shape         batch       µs         p20-p80   GB/s   of copy   grid_sample    sdpa
    56x56x128g4       4    5,550    5,217-5,912   3.33       15%         14.9x   33.0x
    $ dcnify bench op --csv op.csv --plot op.png
    $ dcnify bench op --ablation
    """
    csv, plot = files.csv, files.plot
    if csv and plot and csv.resolve() == plot.resolve():
        raise InputError(f"--csv and --plot both name {csv}")
    written = files.check()
    from dcnify.bench import run, run_ablation, settle, write_ablation_csv, write_csv, write_plot

    bench = settle(spec)
    if plot and spec.ablation:
        raise InputError("--plot draws how rivals compare, and --ablation has none; take --csv")
    if plot and all(rival.missing for rival in bench.rivals):
        raise InputError("--plot draws how rivals compare, and none is to be measured")
    count = len(bench.cases)
    runs = f"{count} interleaved run{'s' * (count > 1)}"
    terminal.say(f"measuring on {bench.device}: {runs}")
    if spec.ablation:
        with terminal.progress("preparing") as shown:
            ablation = run_ablation(bench, shown.phase)
        if csv:
            files.write(csv, lambda path: write_ablation_csv(ablation, path))
        terminal.emit(ablation.to_dict(), lambda: _ablation(ablation, written))
        return
    with terminal.progress("preparing") as shown:
        report = run(bench, shown.phase)
    if csv:
        files.write(csv, lambda path: write_csv(report, path))
    if plot:
        files.write(plot, lambda path: write_plot(report, path))
    terminal.emit(report.to_dict(), lambda: _render(report, written))


def _ablation(report: AblationReport, written: list[Path]) -> list[Any]:
    about = {one.name: one.about for one in report.variants}
    parts: list[Any] = [report.machine.line, ""]
    for case in report.cases:
        rows = [
            (
                one.variant,
                _us(one.p50_us),
                f"{_us(one.p20_us)}-{_us(one.p80_us)}",
                f"{one.ratio_p50:.2f}x",
                f"{one.ratio_p20:.2f}-{one.ratio_p80:.2f}",
                about[one.variant],
            )
            for one in case.timings
        ]
        columns = ("variant", ">µs", ">p20-p80", ">of dcnv4", ">p20-p80", "what it is")
        title = f"{case.batch}x{case.shape}, {case.dtype}, {case.pass_name}"
        parts += [table(columns, rows, title), ""]
        parts += [f"- {one.contender}: {one.reason}" for one in case.skipped]
    return parts + [f"wrote {path}" for path in written]


def _render(report: Report, written: list[Path]) -> list[Any]:
    parts: list[Any] = [report.machine.line, ""]
    for dtype, passes, cases in report.tables():
        parts += [_table(report, cases, f"{dtype}, {passes}"), ""]
    for case in report.host:
        parts += [_host_line(case), ""]
    parts += _notes(report)
    return parts + [f"wrote {path}" for path in written]


def _table(report: Report, cases: tuple[CaseResult, ...], title: str) -> Any:
    ours, _, *rivals = (contender.name for contender in report.contenders)
    columns = ("shape", ">batch", ">µs", ">p20-p80", ">GB/s", ">of copy")
    rows = []
    for case in cases:
        our = case.of(ours)
        assert our is not None
        rates = (f"{our.gb_per_s:.3g}", f"{our.share_of_copy:.0%}")
        spread = f"{_us(our.p20_us)}-{_us(our.p80_us)}"
        ratios = (_ratio(case.of(name)) for name in rivals)
        rows.append((case.shape, case.batch, _us(our.p50_us), spread, *rates, *ratios))
    return table((*columns, *(f">{name}" for name in rivals)), rows, title)


def _host_line(case: CaseResult) -> str:
    times = ", ".join(f"{m.contender} {_us(m.p50_us)} µs" for m in case.measurements)
    return f"host time of one call ({_named(case)}): {times}"


def _named(case: CaseResult) -> str:
    return f"{case.batch}x{case.shape} {case.dtype} {case.pass_name}"


def _notes(report: Report) -> list[str]:
    """List the reasons for missing or doubtful numbers, each once with its cases."""
    where: dict[str, list[str]] = {}
    for case in (*report.cases, *report.host):
        for skipped in case.skipped:
            where.setdefault(f"{skipped.contender}: {skipped.reason}", []).append(_named(case))
        for remark in case.remarks:
            where.setdefault(remark, []).append(_named(case))
    notes = []
    for what, cases in where.items():
        more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
        notes.append(f"- {what} ({cases[0]}{more})")
    if report.not_installed:
        notes.append(f"not installed: {', '.join(one.name for one in report.not_installed)}")
    return notes


def _ratio(measurement: Measurement | None) -> str:
    if measurement is None:
        return "-"
    ratio = measurement.ratio_to_ours
    return f"{ratio:.1f}x" if ratio >= 1 else f"{ratio:.2f}x"


def _us(microseconds: float) -> str:
    return f"{microseconds:,.0f}" if microseconds >= 100 else f"{microseconds:.1f}"
