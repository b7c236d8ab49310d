"""Which files a dataset folder has, and what the name and first bytes of one tell of its shape.

Both who drafts a config and who reads the files ask here, so that they see the same columns.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from tfrs_twotower.schema.errors import UserError

CSV, JSONL, JSON_ARRAY, PARQUET = "csv", "jsonl", "json_array", "parquet"
FILE_NAME = re.compile(r"\.(csv|tsv|json|jsonl|ndjson|parquet)(\.gz)?$")
EXPECTED = ".csv, .tsv, .jsonl, .json or .parquet (text also as .gz)"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
SEPARATORS = ",;\t|"  # The likeliest first.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
# What stands in rows, but in no name of a column.
DATUM = re.compile(r"[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?|\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b.*")
QUOTED = re.compile(r'"(?:[^"]|"")*"')

Places = tuple[str, ...]
Found = TypeVar("Found")


class Shape(NamedTuple):
    """What the name of a file tells."""

    format: str  # CSV, JSONL (perhaps an array, which its bytes show) or PARQUET.
    is_gzip: bool
    separator: str | None  # None: the first line shows it.


def places(kind: str) -> Iterator[Places]:
    """Where files of a kind may be: patterns within the folder; see `only_place`.

    Args:
        kind: interactions, candidates or queries.
    """
    yield (f"{kind}*",)
    yield (f"{kind}/**/*", f"{kind}.*/**/*")  # As Spark and others write a table.
    if kind == "interactions":
        yield (f"*=*/**/{kind}*",)  # Hive's dated folders.


def local_files(folder: Path, kind: str, stated: str | None = None) -> list[Path]:
    """The data files of a kind in a local dataset folder, sorted.

    Args:
        folder: The dataset folder.
        kind: interactions, candidates or queries.
        stated: Of the config's `files.paths`.

    Raises:
        UserError: See `only_place`.
    """
    by_place = [
        {
            path.relative_to(folder).as_posix(): path
            for pattern in patterns
            for path in folder.glob(pattern)
            if path.is_file()
        }
        for patterns in ([(stated,)] if stated else places(kind))
    ]
    return [path for _, path in sorted(only_place(by_place, kind).items())]


def only_place(by_place: Sequence[Mapping[str, Found]], kind: str) -> dict[str, Found]:
    """The data files of a kind, which must all be in one place.

    Args:
        by_place: Of each place its files, by path within the folder.
        kind: For messages.

    Raises:
        UserError: If there are some in several places: one may be an old copy of the other.
    """
    found = [{path: one[path] for path in sorted(one) if is_data(path)} for one in by_place]
    found = [one for one in found if one]
    if len(found) > 1:
        first, second = (next(iter(one)) for one in found[:2])
        raise UserError(
            f"{kind} are in several places ({first}, {second}): keep one, or name it in "
            f"`files.paths.{kind}`"
        )
    return found[0] if found else {}


def is_data(path: str) -> bool:
    """Whether a path within the folder is that of a data file, no remainder of a writer."""
    is_hidden = any(part.startswith(("_", ".")) for part in path.split("/"))
    return FILE_NAME.search(path) is not None and not is_hidden


def shape_of(path: str) -> Shape:
    """What the name of a data file tells."""
    found = FILE_NAME.search(path)
    assert found is not None
    suffix, is_gzip = found.group(1), found.group(2) is not None
    if suffix == "parquet":
        return Shape(PARQUET, is_gzip, None)
    if suffix in ("csv", "tsv"):
        return Shape(CSV, is_gzip, "\t" if suffix == "tsv" else None)
    return Shape(JSONL, is_gzip, None)


def folder_columns(path: str) -> dict[str, str | None]:
    """The columns that Hive's folders name: `dt=2024-05-01/part.csv` has the column `dt`."""
    pairs = (part.split("=", 1) for part in path.split("/")[:-1] if "=" in part)
    return {unquote(key): None if value == HIVE_NULL else unquote(value) for key, value in pairs}


def separator_of(line: str) -> str:
    """The separator that is the most frequent in a line, outside of quotes."""
    plain = QUOTED.sub("", line)
    return max(SEPARATORS, key=plain.count)  # The first of equals.


def fields_of(line: str, separator: str) -> list[str]:
    """The fields of a line of CSV; none of a blank one."""
    return next(csv.reader([line], delimiter=separator), [])


def looks_like_data(fields: Sequence[str]) -> bool:
    """Whether the fields of a first line are values rather than names of columns."""
    return any(DATUM.fullmatch(field.strip()) for field in fields)


def is_array(head: bytes) -> bool:
    """Whether JSON begins as an array of objects."""
    return re.match(rb"\s*\[\s*(\{|\]\s*$)", head.removeprefix(BYTE_ORDER_MARK)) is not None


def array_items(text: str) -> Iterator[str]:
    """The text of each item of a JSON array, line breaks between its values made spaces.

    Raises:
        ValueError: At the first item that is none, or where the array does not end.
    """
    decoder, skip = json.JSONDecoder(), re.compile(r"\s*")

    def after(position: int) -> int:
        found = skip.match(text, position)
        assert found is not None
        return found.end()

    position = after(after(0) + 1)
    if text[position : position + 1] == "]":
        return
    while True:
        _, end = decoder.raw_decode(text, position)
        # Within strings JSON escapes line breaks: all others mean nothing.
        yield text[position:end].replace("\r", " ").replace("\n", " ")
        end = after(end)
        if text[end : end + 1] == "]":
            return
        if text[end : end + 1] != ",":
            raise ValueError(f"no comma or bracket after the item that ends at character {end}")
        position = after(end + 1)


def value_at(record: Mapping[str, Any], path: str) -> Any:
    """The value at a path of keys with dots in between; None where there is none."""
    value: Any = record
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, by path."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def holds_objects(value: object) -> bool:
    """Whether a JSON value is an object, or a list with one."""
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(item, dict) for item in value)
    )
