"""Where deformable layers sample, drawn on a photograph."""

from typing import TYPE_CHECKING

from dcnify.lazy import load_on_use
from dcnify.report.offsets.spec import OffsetsSpec

if TYPE_CHECKING:
    from dcnify.report.offsets.look import Looked, look
    from dcnify.report.offsets.picture import draw
    from dcnify.report.offsets.trace import Samples, trace

__all__ = ["Looked", "OffsetsSpec", "Samples", "draw", "look", "trace"]

__getattr__ = load_on_use(__name__)
