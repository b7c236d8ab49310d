"""Reads `twotower.yaml`; every mistake is told by its path, what was expected, and the cure."""

import difflib
import re
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from tfrs_twotower.schema.config import Config
from tfrs_twotower.schema.errors import UsageError
from tfrs_twotower.schema.features import Feature

MAX_SHOWN = 5


class _Loader(yaml.SafeLoader):
    """Reads 1e-4 as a number, as YAML 1.2 does; PyYAML's YAML 1.1 takes it for text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads and checks a config file.

    Args:
        path: The YAML file.
        overrides: `path.to.key=value` texts, applied before the check; values are YAML.

    Returns:
        The checked config, defaults filled in.

    Raises:
        UsageError: If the file cannot be read, is not YAML, or breaks a rule.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the config {path}: {error}") from error
    return parse_config(text, str(path), overrides)


def parse_config(text: str, source: str, overrides: Sequence[str] = ()) -> Config:
    """Checks the YAML text of a config; `source` names it in errors. See `load_config`."""
    try:
        data = yaml.load(text, _Loader) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date.
        raise UsageError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{source}: expected sections such as `columns:`, got a {_kind(data)}")
    for override in overrides:
        _apply(data, override)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(error, source))) from error


def dump_config(config: Config) -> str:
    """The YAML text of a config, every default written out."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def _apply(data: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    keys = path.strip().split(".")
    if not separator or not all(keys):
        raise UsageError(f"--set {override}: expected path.to.key=value")
    for key in keys[:-1]:
        child = data.setdefault(key, {})
        if not isinstance(child, dict):
            raise UsageError(f"--set {override}: `{key}` is not a section")
        data = child
    try:
        data[keys[-1]] = yaml.load(value, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"--set {override}: the value is not YAML") from error


def _explain(error: ValidationError, source: str) -> Iterable[str]:
    errors = error.errors(include_url=False)
    for item in errors[:MAX_SHOWN]:
        location = [str(part) for part in item["loc"]]
        path = ".".join(_without_tags(location))
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown key{_nearest(location[-1], _legal_names(location[:-1]))}"
            is_of_feature = location[0] == "features" and len(location) > 3
            if is_of_feature and (kinds := _kinds_with(location[-1])):
                message = f"belongs to kind {' or '.join(kinds)}, not to {location[3]}"
        elif item["type"] == "union_tag_invalid":
            tag = item["ctx"]["tag"]
            expected = [t.strip(" '") for t in item["ctx"]["expected_tags"].split(",")]
            path, message = f"{path}.kind", f"unknown kind {tag!r}{_nearest(tag, expected)}"
        elif item["type"] == "union_tag_not_found":
            message = "needs a `kind`, for example `kind: categorical`"
        elif not item["type"].startswith("value_error") and item["type"] != "missing":
            message = f"{message}, got {item['input']!r}"
        yield f"{source}: {path}: {message}" if path else f"{source}: {message}"
    if len(errors) > MAX_SHOWN:
        yield f"{source}: and {len(errors) - MAX_SHOWN} more"


def _nearest(name: str, legal: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, legal, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else f"; expected one of {', '.join(legal)}"


def _kinds_with(key: str) -> list[str]:
    """The kinds of features that have a key."""
    fields = [kind.model_fields for kind in typing.get_args(Feature)]
    return [str(own["kind"].default) for own in fields if key in own]


def _without_tags(location: list[str]) -> list[str]:
    """Drops what pydantic adds to a location: the kind of a feature, the arms of a union."""
    path: list[str] = []
    for depth, part in enumerate(location):
        is_kind = depth == 3 and location[0] == "features"
        is_arm = depth > 3 and location[0] == "features" and location[depth - 1] == "missing"
        if not (is_kind or is_arm):
            path.append(part)
    return path


def _legal_names(location: Sequence[str]) -> list[str]:
    """The keys that the section at a location may have."""
    annotation: Any = Config
    for part in location:
        annotation = _step(annotation, part)
    return list(annotation.model_fields) if hasattr(annotation, "model_fields") else []


def _step(annotation: Any, part: str) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(part)
        return _unless_null(field.annotation) if field else None
    origin = typing.get_origin(annotation)
    if origin is dict:
        return typing.get_args(annotation)[1]
    if origin is typing.Annotated:
        return _step(typing.get_args(annotation)[0], part)
    if origin in (types.UnionType, typing.Union):
        for member in typing.get_args(annotation):
            kind = getattr(member, "model_fields", {}).get("kind")
            if (kind is not None and kind.default == part) or getattr(
                member, "__name__", ""
            ) == part:
                return member
    return None


def _unless_null(annotation: Any) -> Any:
    arms = [arm for arm in typing.get_args(annotation) if arm is not type(None)]
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return arms[0] if is_union and len(arms) == 1 else annotation


def _kind(value: object) -> str:
    return {"list": "list", "str": "text"}.get(type(value).__name__, type(value).__name__)
