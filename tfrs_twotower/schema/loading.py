"""Reads and writes `twotower.yaml`, with overrides; mistakes in it are all told at once."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from tfrs_twotower.schema.config import Config
from tfrs_twotower.schema.errors import UsageError
from tfrs_twotower.schema.mistakes import explained


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, where that would take a user's mistake or number for something else.

    It refuses a key that is given twice, of which PyYAML drops the first, and reads 1e-4 as a
    number, as YAML 1.2 does; to PyYAML's YAML 1.1 it is text. Loaders of YAML 1.2 (ruamel.yaml,
    yamlcore) would do both, but read the `yes` and `no` of configs that exist as text.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping, if no key stands in it twice."""
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key `{key.value}` is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


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
    """Checks the YAML text of a config.

    Args:
        text: The YAML.
        source: Names it in errors.
        overrides: See `load_config`.

    Raises:
        UsageError: If the text is not YAML or breaks a rule.
    """
    try:
        data = yaml.load(text, _Loader) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date.
        raise UsageError(f"{source} is not YAML: {_syntax_error(error)}") from error
    if not isinstance(data, dict):
        raise UsageError(f"{source}: expected sections such as `columns:`, got a {_kind(data)}")
    for override in overrides:
        _apply(data, override)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise UsageError("\n".join(f"{source}: {one}" for one in explained(error, data))) from error


def dump_config(config: Config) -> str:
    """The YAML text of a config, every default written out.

    Args:
        config: A checked config; `parse_config` reads the text back.
    """
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


def _syntax_error(error: Exception) -> str:
    """What is wrong and where, without the excerpt that PyYAML draws over several lines."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    problem = " ".join(filter(None, (error.context, error.problem)))
    return f"{problem} (line {mark.line + 1}, column {mark.column + 1})"


def _kind(value: object) -> str:
    return {"list": "list", "str": "text"}.get(type(value).__name__, type(value).__name__)
