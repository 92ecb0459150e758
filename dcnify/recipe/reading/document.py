"""Reads YAML text into plain data and notes the line and column of every key and value.

Scalars follow YAML 1.2: only ``true`` and ``false`` are booleans (``on``, ``no`` are text),
``1e-5`` is a number and ``010`` is ten. Aliases, merge keys and tags beyond the core ones are
refused, so a file from a stranger can neither run code nor grow when it is read.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from dcnify.errors import InputError
from dcnify.recipe.reading.origins import DataPath, Origins, Place

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_DIGITS = 300

_CORE = "tag:yaml.org,2002:"
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(
    r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
)
_RESOLVERS = (
    ("null", re.compile(r"(?:null|Null|NULL|~|)\Z")),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    ("int", _INT),
    ("float", _FLOAT),
)


class Loader(yaml.SafeLoader):
    """Composes nodes only: bounded depth, no aliases, YAML 1.2 scalars."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  PyYAML's own protocol
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _problem(event, f"alias '*{event.anchor}' is not supported: write the value out")
        if self.depth >= MAX_DEPTH:
            raise _problem(event, f"nested more than {MAX_DEPTH} levels deep")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


for _tag, _regexp in _RESOLVERS:
    Loader.add_implicit_resolver(_CORE + _tag, _regexp, None)


def decode(data: bytes, origin: str) -> str:
    """The text of a recipe file.

    Raises:
        InputError: it is too large to be a recipe, or not UTF-8.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{origin}: larger than {MAX_BYTES >> 20} MiB, which no recipe is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise InputError(
            f"{origin}:{line}:{column}: not UTF-8 text; a recipe is a YAML file"
        ) from None


def read_document(text: str, origin: str) -> tuple[dict[str, Any], Origins]:
    """Parse a whole recipe.

    Raises:
        InputError: not YAML, not a mapping, a duplicate key, an alias, a tag; with line and column.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"{origin}: larger than {MAX_BYTES >> 20} MiB, which no recipe is")
    origins = Origins(origin)
    try:
        node = _compose(text)
        if node is None:
            raise InputError(f"{origin}:1:1: empty; the file starts with 'version: 1'")
        if not isinstance(node, yaml.MappingNode):
            raise _problem(node, "expected a mapping of keys, the first of them 'version: 1'")
        return _plain(node, (), origins), origins
    except yaml.YAMLError as error:
        place, words = _describe(error, text, origin)
        raise InputError(f"{place}: {words}") from None


def read_value(text: str, label: str) -> Any:
    """Parse the value of one override; every error starts with ``label``."""
    try:
        node = _compose(text)
        return None if node is None else _plain(node, (), Origins(label))
    except yaml.YAMLError as error:
        raise InputError(f"{label}: {_describe(error, text, label)[1]}") from None


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()
    except (ValueError, OverflowError):  # PyYAML on escapes such as "\UFFFFFFFF"
        raise yaml.YAMLError("contains an escape that is no character") from None


def _plain(node: yaml.Node, path: DataPath, origins: Origins) -> Any:
    origins.values[path] = _place(node, origins)
    kind = node.tag.removeprefix(_CORE)
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _mapping(node, path, origins)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_plain(item, (*path, i), origins) for i, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and kind in ("str", "int", "float", "bool", "null"):
        return _scalar(node, kind)
    tag = node.tag.replace(_CORE, "!!", 1)
    raise _problem(node, f"tag {tag!r} is not allowed in a recipe")


def _mapping(node: yaml.MappingNode, path: DataPath, origins: Origins) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise _problem(key_node, "a key must be a single word")
        key = _text(key_node)
        if key == "<<":
            raise _problem(key_node, "merge keys ('<<') are not supported: write the keys out")
        if key in data:
            first = origins.keys[(*path, key)]
            raise _problem(key_node, f"duplicate key {key!r}, first given in line {first.line}")
        origins.keys[(*path, key)] = _place(key_node, origins)
        data[key] = _plain(value_node, (*path, key), origins)
    return data


def _scalar(node: yaml.ScalarNode, kind: str) -> Any:
    text = _text(node)
    if kind == "str":
        return text
    if not dict(_RESOLVERS)[kind].match(text):
        raise _problem(node, f"{text!r} is not of type {kind}")
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if len(text) > MAX_DIGITS:
        raise _problem(node, "a number this long is not supported")
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _text(node: yaml.ScalarNode) -> str:
    if any("\ud800" <= c <= "\udfff" for c in node.value):
        raise _problem(node, "contains half of a surrogate pair, which is no character")
    return node.value


def _place(node: yaml.Node, origins: Origins) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1, origins.name)


def _problem(at: Any, words: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=words, problem_mark=at.start_mark)


def _describe(error: yaml.YAMLError, text: str, origin: str) -> tuple[Place, str]:
    """The place of a YAML error and what it says in one line."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        place = Place(before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1, origin)
        return place, f"character #x{error.character:04x} is not allowed in YAML"
    if not isinstance(error, yaml.MarkedYAMLError):
        return Place(1, 1, origin), f"not valid YAML: {error}"
    mark = error.problem_mark or error.context_mark
    place = Place(mark.line + 1, mark.column + 1, origin) if mark else Place(1, 1, origin)
    words = " ".join((error.problem or error.context or "not valid").split())
    if type(error) is yaml.MarkedYAMLError:  # ours
        return place, words
    if "'\\t'" in words:
        return place, "a tab, where YAML allows only spaces"
    if "'@'" in words:
        return place, "text that begins with '@' goes in quotes, such as \"@swapped\""
    if error.context and "\n" not in error.context:
        words = f"{words} ({error.context})"
    return place, f"not valid YAML: {words}"
