"""Writes a resolved recipe as YAML, so that it says everything and reads back equal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from dcnify.recipe.part import Part
from dcnify.recipe.reading.document import Loader


def resolved(part: Part) -> dict[str, Any]:
    """A recipe, or a part of one, as JSON-ready data with every default in place.

    What is null because it was not asked for (a condition, a section) is left out.
    ``dw_kernel_size: null`` and ``clip: null`` are choices and stay.
    """
    data = part.model_dump(mode="json", by_alias=True)
    return _without_nulls(data, keep=("dw_kernel_size", "clip"))


def to_yaml(part: Part) -> str:
    """The resolved recipe, or part of one, as YAML."""
    return yaml.dump(resolved(part), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _without_nulls(data: Any, keep: tuple[str, ...]) -> Any:
    if isinstance(data, dict):
        return {
            key: _without_nulls(value, keep)
            for key, value in data.items()
            if value is not None or key in keep
        }
    return [_without_nulls(item, keep) for item in data] if isinstance(data, list) else data


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 would take for something other than text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def represent_list(self, data: Iterable[Any]) -> yaml.SequenceNode:
        data = list(data)
        flow = all(not isinstance(item, dict | list) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _Dumper.represent_list)
for _tag, _regexp in Loader.yaml_implicit_resolvers[None]:
    _Dumper.add_implicit_resolver(_tag, _regexp, None)
