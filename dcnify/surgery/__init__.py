"""Plan swaps, carry them out on a live model, and measure what they cost."""

from dcnify.surgery import handover
from dcnify.surgery.calibrate.layers import images_wanted
from dcnify.surgery.convert import convert
from dcnify.surgery.plan import ModuleSpec, Plan, PlannedSwap, Skipped
from dcnify.surgery.planner import plan
from dcnify.surgery.replay import replay
from dcnify.surgery.result import ConvertResult, OutputFidelity, Report, SiteFidelity

__all__ = [
    "ConvertResult",
    "ModuleSpec",
    "OutputFidelity",
    "Plan",
    "PlannedSwap",
    "Report",
    "SiteFidelity",
    "Skipped",
    "convert",
    "handover",
    "images_wanted",
    "plan",
    "replay",
]
