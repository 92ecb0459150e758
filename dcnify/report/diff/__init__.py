"""What differs between two artifacts, or between two recipes."""

from typing import TYPE_CHECKING

from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.report.diff.difference import Change, Difference, WeightChange
    from dcnify.report.diff.page import difference_page
    from dcnify.report.diff.sides import compare

__all__ = ["Change", "Difference", "WeightChange", "compare", "difference_page"]

__getattr__ = load_on_use(__name__)
