"""Reports of conversions and trainings, as pictures and in words."""

from dcnify.report.accuracies import accuracy_table, percent
from dcnify.report.fidelity_plot import write_plot
from dcnify.report.series import Series, series_of
from dcnify.report.training_curve import write_training_curve

__all__ = [
    "Series",
    "accuracy_table",
    "percent",
    "series_of",
    "write_plot",
    "write_training_curve",
]
