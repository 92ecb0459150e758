"""Values that no conversion writes are refused in one short line."""

import json
import math

import pytest

from dcnify.artifact import load, save
from dcnify.errors import InputError


@pytest.mark.parametrize(
    ("way", "value", "match"),
    [
        (("dcnify", "format"), True, r"has format True"),
        (("dcnify", "format"), 10**400, r"has format 1000"),
        (("pretrained_cfg", "mean"), [math.nan] * 3, r"mean must be plain numbers, not nan"),
        (("pretrained_cfg", "mean"), [10**400] * 3, r"mean must be plain numbers, not 10000"),
        (("pretrained_cfg", "std"), [1, 0, 1], r"std must be above 0, not 0"),
        (("dcnify", "base", "args", "num_classes"), 10**400, r"hold the number 1000"),
        (("dcnify", "base", "args", "drop_rate"), math.nan, r"hold the number nan"),
        (("dcnify", "base", "name"), "x" * 9999, r"name has 9999 characters"),
    ],
)
def test_an_artifact_that_was_tampered_with_is_refused_in_a_short_line(
    result, tmp_path, way, value, match
):
    out = save(result, tmp_path / "out")
    config = json.loads((out / "config.json").read_text())
    owner = config
    for key in way[:-1]:
        owner = owner[key]
    owner[way[-1]] = value
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=match) as caught:
        load(out)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("own", [True, {"theme": "dark"}, [1]])
def test_a_config_of_a_person_s_own_is_never_replaced(result, tmp_path, own):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.json").write_text(json.dumps({"dcnify": own}))
    with pytest.raises(InputError, match=r"exists and is not a dcnify artifact"):
        save(result, tmp_path / "home", overwrite=True)
    assert json.loads((tmp_path / "home" / "config.json").read_text()) == {"dcnify": own}
