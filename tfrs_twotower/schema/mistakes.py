"""pydantic's errors as lines for the author of a config: path, expectation, nearest legal name."""

import difflib
import itertools
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tfrs_twotower.schema.config import Config
from tfrs_twotower.schema.features import Feature
from tfrs_twotower.schema.strict import ImpossibleSettings

KeyPath = tuple[str, ...]


def explained(error: ValidationError, data: dict[str, Any]) -> Iterator[str]:
    """Every mistake in a config, in the order of the file.

    Args:
        error: Of the validation of `Config`.
        data: What was validated.

    Yields:
        A line for each: the path of the key, what is expected, what is given.
    """
    for path, message in sorted(_mistakes(error), key=lambda found: _place(found[0], data)):
        yield ": ".join(filter(None, (".".join(path), message)))


def _mistakes(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    by_path = {
        path: list(items)
        for path, items in itertools.groupby(error.errors(include_url=False), key=_path)
    }
    for path, [item, *other_forms] in by_path.items():
        # Of the forms that a value may have, the one with a mistake further down was meant.
        if any(other[: len(path)] == path for other in by_path.keys() - {path}):
            continue
        impossible = item.get("ctx", {}).get("error")
        if isinstance(impossible, ImpossibleSettings):
            for key, message in impossible.problems:
                yield (*path, *filter(None, key.split("."))), message
        elif item["type"] == "union_tag_invalid":
            tag = item["ctx"]["tag"]
            expected = [t.strip(" '") for t in item["ctx"]["expected_tags"].split(",")]
            yield (*path, "kind"), f"unknown kind {tag!r}{_nearest(tag, expected)}"
        elif item["type"] in _MESSAGES:
            yield path, _MESSAGES[item["type"]](item)
        else:
            others = (_expected(other).removeprefix("Input should be ") for other in other_forms)
            yield path, f"{' or '.join([_expected(item), *others])}, got {item['input']!r}"


def _unknown_key(item: ErrorDetails) -> str:
    *section, key = map(str, item["loc"])
    if section[:1] == ["features"] and len(section) > 3 and (kinds := _kinds_with(key)):
        return f"belongs to kind {' or '.join(kinds)}, not to {section[3]}"
    return f"unknown key{_nearest(key, _legal_names(section))}"


_MESSAGES: Mapping[str, Callable[[ErrorDetails], str]] = {
    "extra_forbidden": _unknown_key,
    "missing": lambda item: item["msg"],
    "union_tag_not_found": lambda _: "needs a `kind`, for example `kind: categorical`",
    "value_error": lambda item: item["msg"].removeprefix("Value error, "),
}


def _expected(item: ErrorDetails) -> str:
    if item["type"] in ("model_type", "dict_type"):
        return "Input should be a section with keys"  # pydantic names the class.
    return item["msg"]


def _place(path: KeyPath, data: Any) -> list[int]:
    """Where a key stands among its neighbours, section by section; an absent one stands last."""
    places = []
    for part in path:
        keys = [str(key) for key in data] if isinstance(data, dict) else []
        places.append(keys.index(part) if part in keys else len(keys))
        data = dict(zip(keys, data.values(), strict=True)).get(part) if keys else None
    return places


def _nearest(name: str, legal: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, legal, n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else f"; expected one of {', '.join(legal)}"


def _kinds_with(key: str) -> list[str]:
    """The kinds of features that have a key."""
    fields = [kind.model_fields for kind in typing.get_args(Feature)]
    return [str(own["kind"].default) for own in fields if key in own]


def _path(item: ErrorDetails) -> KeyPath:
    """Where in the file a mistake is, without the kinds and the forms that pydantic inserts."""
    location = [str(part) for part in item["loc"]]
    inserted = set()
    if location[:1] == ["features"]:
        inserted = {3, 5, 7} if location[4:5] == ["missing"] else {3}
    elif location[:1] == ["search"]:
        inserted = {2, 4}
    return tuple(part for depth, part in enumerate(location) if depth not in inserted)


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
        models = [arm for arm in typing.get_args(annotation) if hasattr(arm, "model_fields")]
        by_kind = {arm.model_fields["kind"].default: arm for arm in models if _has_kind(arm)}
        return by_kind.get(part) if by_kind else models[0]
    return None


def _has_kind(model: Any) -> bool:
    return "kind" in model.model_fields


def _unless_null(annotation: Any) -> Any:
    arms = [arm for arm in typing.get_args(annotation) if arm is not type(None)]
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return arms[0] if is_union and len(arms) == 1 else annotation
