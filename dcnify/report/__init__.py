"""Reports: the view model, its charts, and what conversions and trainings look like in it."""

from dcnify.report.accuracies import accuracy_table, percent
from dcnify.report.fidelity_plot import fidelity_chart, write_plot
from dcnify.report.measured import Measured, measured_in
from dcnify.report.training_curve import training_charts, write_training_curve

__all__ = [
    "Measured",
    "accuracy_table",
    "fidelity_chart",
    "measured_in",
    "percent",
    "training_charts",
    "write_plot",
    "write_training_curve",
]
