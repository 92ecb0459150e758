"""Plans and results as text a person reads."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dcnify.roles import ROLES
from dcnify.roles.base import replacement_named

if TYPE_CHECKING:
    from dcnify.surgery.plan import Plan, PlannedSwap
    from dcnify.surgery.result import ConvertResult, OutputFidelity, OutputRequirement, SiteFidelity

_WIDE = 160


def plan_text(plan: Plan) -> str:
    """What ``print(plan)`` shows."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=_WIDE, no_color=True, highlight=False)
    for part in plan_tables(plan):
        console.print(part)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def plan_tables(plan: Plan) -> list[Any]:
    """The plan's swaps, its skipped candidates, and a line of totals."""
    table = _table("site", "role", "input", "becomes", ">params", ">FLOPs", "swap")
    for swap in plan.swaps:
        table.add_row(
            swap.site.path,
            ROLES[swap.site.role].label(swap.site),
            _shape(swap.site.input_shape),
            module_label(swap),
            _change(swap.site.parameters, swap.parameters, plan.model_parameters),
            _change(swap.site.flops, swap.flops, plan.model_flops),
            swap.swap,
        )
    parts: list[Any] = [table, "", _totals(plan)]
    notes = sorted({note for swap in plan.swaps for note in swap.notes})
    parts += [f"note: {note}" for note in notes]
    near = {path: None for swap in plan.swaps if swap.neighbours for path in swap.neighbours.layers}
    if near:
        shown = ", ".join(list(near)[:3]) + (", ..." if len(near) > 3 else "")
        parts.append(f"note: {len(near)} layers around change with the calibration: {shown}")
    if plan.trims:
        shown = ", ".join(plan.trims[:2]) + (", ..." if len(plan.trims) > 2 else "")
        parts.append(f"note: {len(plan.trims)} linear layers lose their bias: {shown}")
    parts += [f"warning: {note}" for note in plan.notes]
    if plan.skipped:
        parts += ["", skipped_table(plan)]
    return parts


def skipped_table(plan: Plan) -> Table:
    """Candidates that stay, with the reason."""
    table = _table("not swapped", "role", "reason")
    for item in plan.skipped:
        table.add_row(item.path or "(model)", item.role, item.reason)
    return table


def result_table(result: ConvertResult) -> list[Any]:
    """Fidelity by site, after each step where there are several, and at the output."""
    report = result.report
    steps = report.steps[:-1]
    earlier = [f">{step.step}" for step in steps]
    table = _table("site", "becomes", ">params", *earlier, ">SQNR dB", ">cosine")
    earlier_fidelity = [{site.path: site for site in step.sites} for step in steps]
    planned = {swap.site.path: swap for swap in result.plan.swaps}
    for site in report.sites:
        swap = planned.get(site.path)
        table.add_row(
            site.path,
            module_label(swap) if swap else "original (reverted)",
            _change(swap.site.parameters, swap.parameters) if swap else "",
            *(
                f"{then[site.path].sqnr_db:.2f}" if site.path in then else ""
                for then in earlier_fidelity
            ),
            _sqnr(site),
            f"{site.cosine:.4f}",
        )
    parts: list[Any] = [table]
    parts += [f"output after {step.step}: {_output(step.output)}" for step in steps]
    if report.output is not None:
        images = f"on {report.output.images} images ({report.images['origin']})"
        parts.append(f"output: {_output(report.output)} {images}")
    if any(swap.handover for swap in result.plan.swaps):
        parts.append("handover: measured as if it were over; the model starts as the original")
    calibrated = result.report.images.get("calibrated_on")
    if calibrated and result.report.images["held_out"]:
        parts.append(f"calibrated on {calibrated} others of them")
    elif calibrated:
        parts.append("warning: calibrated and measured on the same single image")
    if result.recipe.certify is not None and report.output is not None:
        parts.append(f"certified: relative error at most {result.recipe.certify.relative_error:g}")
    if report.output is not None and report.output.uninformative:
        words = "note: the output says little about the new layers:"
        parts.append(f"{words} {report.output.uninformative}")
    if report.require is not None:
        parts.append(f"require: {requirement_text(report.require)}")
    before, after = result.report.parameters
    parts.append(f"parameters: {short_count(before)} -> {short_count(after)}")
    parts += [f"warning: {text}" for text in result.report.warnings]
    return parts


def _sqnr(site: SiteFidelity | None) -> str:
    return f"{site.sqnr_db:.2f}" if site else ""


def _output(output: OutputFidelity) -> str:
    said = [
        f"relative error {output.relative_error:.1e}",
        f"SQNR {output.sqnr_db:.2f} dB",
        f"cosine {output.cosine:.4f}",
    ]
    if output.top1_agreement is not None:
        said.append(f"top-1 agreement {output.top1_agreement:.0%}")
    if output.kl is not None:
        said.append(f"KL {output.kl:.2g}")
    if output.accuracy is not None and output.original_accuracy is not None:
        said.append(f"accuracy {output.original_accuracy:.1%} -> {output.accuracy:.1%}")
    return ", ".join(said)


def requirement_text(require: OutputRequirement) -> str:
    """What was asked of the output, and whether it is met."""
    if require.met is None:
        return f"not checked: {require.reason}"
    bounds = {"agreement": "agreement at least", "kl": "KL at most", "cosine": "cosine at least"}
    asked = [
        f"{words} {require.asked[key]:g}"
        for key, words in bounds.items()
        if require.asked[key] is not None
    ]
    return f"{', '.join(asked)}: {'met' if require.met else require.reason}"


def _table(*columns: str) -> Table:
    """An empty table; columns whose name begins with ``>`` are set to the right."""
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.startswith(">") else "left"
        made.add_column(column.removeprefix(">"), justify=justify, overflow="fold")
    return made


def _totals(plan: Plan) -> str:
    parameters = sum(swap.parameters - swap.site.parameters for swap in plan.swaps)
    flops = sum(swap.flops - swap.site.flops for swap in plan.swaps)
    return (
        f"{len(plan.swaps)} sites swapped by recipe {plan.recipe!r}: parameters "
        f"{_total(plan.model_parameters, parameters)}, FLOPs {_total(plan.model_flops, flops)} "
        f"at input {_shape(plan.input_shape)}"
    )


def _total(model: int, change: int) -> str:
    """``4.65M -> 6.1M (1.31x)``; the change alone where the model's own number is not known."""
    if not model:
        return f"{'+' if change >= 0 else '-'}{short_count(abs(change))}"
    return (
        f"{short_count(model)} -> {short_count(model + change)} ({(model + change) / model:.2f}x)"
    )


def module_label(swap: PlannedSwap) -> str:
    """``DCNv4 3x3 G8``: the new module in a few words."""
    exact = replacement_named(swap.module.type).exact
    if exact:
        return exact
    args = swap.module.args
    kernel = "x".join(str(k) for k in args["kernel_size"])
    text = f"DCNv4 {kernel} G{args['groups']}"
    if args.get("offset_rank"):
        text += f" r{args['offset_rank']}"
    if args.get("dw_kernel_size"):
        text += f" dw{args['dw_kernel_size']}"
    if not args["pointwise"]:
        text += " no pointwise"
    if args.get("prefix_tokens"):
        text += f" {args['prefix']}"
    return text + " with handover" if swap.handover else text


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


def _change(before: int, after: int, model: int = 0) -> str:
    """``6.27k -> 152k``, and by which share of the whole ``model`` that changes it."""
    share = f" {(after - before) / model:+.1%}" if model else ""
    return f"{short_count(before)} -> {short_count(after)}{share}"


def short_count(number: int) -> str:
    """``1.23M`` for 1,234,567: three digits, in thousands (k), millions (M) or billions (G)."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
