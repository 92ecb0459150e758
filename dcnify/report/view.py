"""The one view model: what a page says, as plain data. `dcnify.report.render` turns it into text.

Numbers stay numbers here; the `Quantity` of their column, fact or axis decides how they are
written, the same on the terminal, in Markdown and in HTML.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dcnify.report.chart import Chart
from dcnify.report.quantity import Quantity

State = Literal["swapped", "kept", "reverted"]
Tone = Literal["good", "bad", "muted"]


@dataclass(frozen=True)
class Spread:
    """A mean and how far the values lie around it: ``95.1 ± 0.3``."""

    value: float
    around: float | None = None


@dataclass(frozen=True)
class Mark:
    """A word that stands out. Its text says it all; the tone only repeats it in colour."""

    text: str
    tone: Tone


Cell = str | int | float | Spread | Mark | None


@dataclass(frozen=True)
class Column:
    """A column: text, or numbers of one quantity."""

    title: str
    quantity: Quantity | None = None
    code: bool = False
    """Whether its text is a name from the code, set in a fixed width."""

    @property
    def head(self) -> str:
        """The title, and the unit where the numbers do not carry it."""
        unit = self.quantity.head_unit if self.quantity else ""
        return f"{self.title} {unit}" if unit else self.title

    def text(self, cell: Cell) -> str:
        """A cell of this column as text."""
        return cell_text(cell, self.quantity)


@dataclass(frozen=True)
class Table:
    """Rows under columns. The first column names the row."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph; or a remark or a warning, which says so in words too."""

    text: str
    kind: Literal["plain", "note", "warning"] = "plain"

    @property
    def shown(self) -> str:
        """The text, after the word for its kind."""
        return self.text if self.kind == "plain" else f"{self.kind}: {self.text}"


@dataclass(frozen=True)
class Fact:
    """One number or word with a name."""

    name: str
    value: Cell
    quantity: Quantity | None = None
    code: bool = False

    @property
    def text(self) -> str:
        """The value with its unit."""
        text = cell_text(self.value, self.quantity)
        unit = self.quantity.head_unit if self.quantity else ""
        return f"{text} {unit}" if unit and text else text


@dataclass(frozen=True)
class Facts:
    """A few facts beside each other."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class Code:
    """A file, word for word."""

    text: str
    language: str = "yaml"
    name: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts with their caption and the sentence that says what is to be seen."""

    charts: tuple[Chart, ...]
    caption: str
    alt: str
    file: str = ""
    """A picture of it that lies beside the page, for renderers that cannot draw."""

    @property
    def words(self) -> str:
        """What stands for it where nothing can be drawn."""
        return f"{self.caption.rstrip('.')}: {self.alt}"


@dataclass(frozen=True)
class Place:
    """A candidate in the network: swapped, kept or reverted."""

    name: str
    state: State
    detail: str
    number: str = ""
    """What was measured of it, in a word."""


@dataclass(frozen=True)
class Stage:
    """The places of one stage, in the order in which data flows."""

    name: str
    detail: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class Network:
    """The network as rows of stages with its places in them."""

    stages: tuple[Stage, ...]
    caption: str = ""

    @property
    def states(self) -> tuple[State, ...]:
        """The states that its places are in."""
        found = {place.state for stage in self.stages for place in stage.places}
        return tuple(state for state in get_args(State) if state in found)


Part = Text | Table | Facts | Code | Figure | Network


@dataclass(frozen=True)
class Section:
    """Parts under a heading."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Page:
    """A page: title, a sentence, and sections."""

    title: str
    lead: str
    sections: tuple[Section, ...]


def cell_text(cell: Cell, quantity: Quantity | None = None) -> str:
    """A cell as text; a number without a quantity is written as Python writes it."""
    if cell is None:
        return ""
    if isinstance(cell, Mark):
        return cell.text
    if isinstance(cell, Spread):
        value = cell_text(cell.value, quantity)
        return value if cell.around is None else f"{value} ± {cell_text(cell.around, quantity)}"
    if isinstance(cell, str) or quantity is None:
        return str(cell)
    return quantity.text(cell)
