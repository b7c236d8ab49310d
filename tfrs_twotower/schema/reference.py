"""Every key of `twotower.yaml` with its default and its description, from the models themselves."""

import inspect
import json
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tfrs_twotower.schema.config import Config
from tfrs_twotower.schema.features import Feature

WIDTH = 100
INDENT = "  "


def reference() -> str:
    """The default config as commented YAML; the kinds of features and their options are comments.

    `parse_config` reads it back as the config of a log with times that names nothing else. A key
    without which the defaults do not go together, `columns.timestamp`, has its example as value.
    """
    lines = ["# Every key with its default. Your own config only needs the keys that you change."]
    for name, field in Config.model_fields.items():
        lines.append("")
        if name == "features":
            lines += _features()
        else:
            lines += _entry(name, field, 0)
    return "\n".join(lines) + "\n"


def _entry(name: str, field: FieldInfo, depth: int) -> Iterator[str]:
    annotation = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if depth == 0:
            yield from _comment(inspect.getdoc(annotation) or "", depth)
        yield f"{INDENT * depth}{name}:"
        for key, child in annotation.model_fields.items():
            yield from _entry(key, child, depth + 1)
        return
    description = field.description or ""
    if typing.get_origin(annotation) is typing.Literal:
        values = " | ".join(map(str, typing.get_args(annotation)))
        description = f"{values}. {description}".rstrip()
    yield from _comment(description, depth)
    value = json.dumps(field.examples[0]) if field.examples else _yaml(field)
    yield f"{INDENT * depth}{name}: {value}"


def _features() -> Iterator[str]:
    yield from _comment(
        "Features by side (query, context, candidate) and name. The name of a feature is the name "
        "of its input in the served models; if the column of the data has a different name, give "
        "it as `column`. Without this section, the features are the ids and a history. `missing` "
        "says what a missing value becomes: zero, indicator (a separate input says that it is "
        "missing) or {fill: VALUE}. The kinds and their options:",
        0,
    )
    for kind in typing.get_args(Feature):
        yield from _comment("", 0)
        yield from _comment(f"kind: {kind.model_fields['kind'].default}", 0)
        yield from _comment((inspect.getdoc(kind) or "").split("\n")[0], 0, "#     ")
        for name, field in kind.model_fields.items():
            if name not in ("kind", "column"):
                description = f" # {field.description}" if field.description else ""
                yield from _comment(f"{name}: {_yaml(field)}{description}", 0, "#   ")


def _comment(text: str, depth: int, mark: str = "# ") -> Iterator[str]:
    prefix = INDENT * depth + mark
    for paragraph in re.split(r"\n\n|\n(?=\* )", text):
        if not paragraph and text:
            continue
        yield from textwrap.wrap(
            " ".join(paragraph.split()), WIDTH, initial_indent=prefix, subsequent_indent=prefix
        ) or ([prefix.rstrip()] if mark == "# " and not text and depth == 0 else [])


def _yaml(field: FieldInfo) -> str:
    """A default in YAML's flow style, of which JSON is a part."""
    if field.is_required():
        return "(required)"
    value: Any = field.get_default(call_default_factory=True)
    return json.dumps(list(value) if isinstance(value, tuple) else value)
