"""The table of docs/models.md lists the models that `make zoo` converts."""

from pathlib import Path

from zoo.models import FACTORIES
from zoo.table import names

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


def test_every_model_of_the_zoo_is_in_the_table_and_no_other():
    assert sorted(names(DOCUMENT.read_text())) == sorted(FACTORIES)
