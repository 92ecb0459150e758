"""Reports of conversions as pictures."""

from dcnify.report.fidelity_plot import write_plot
from dcnify.report.series import Series, series_of

__all__ = ["Series", "series_of", "write_plot"]
