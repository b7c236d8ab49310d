"""Reading original files, plain or .gz, and writing the files of a dataset folder."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.errors import first_line

CONFIG_FILE = "twotower.yaml"


def original_file(source: Path, pattern: str) -> Path:
    """Finds the one file of a source folder with a name, plain or with `.gz`.

    Args:
        source: The folder.
        pattern: The plain name; may have a `*`.

    Raises:
        UsageError: If there is no such folder or file, or if the pattern fits several.
    """
    if not source.is_dir():
        raise UsageError(f"no folder {source}: expected the folder of the original files")
    found = sorted({*source.glob(pattern), *source.glob(f"{pattern}.gz")})
    if not found:
        raise UsageError(
            f"{source} has no {pattern} (nor {pattern}.gz): is it the folder of the original files?"
        )
    if len({path.name.removesuffix(".gz") for path in found}) > 1:
        names = ", ".join(path.name for path in found)
        raise UsageError(f"{source} has several files {pattern} ({names}): keep one in the folder")
    return found[0]


def read_bytes(path: Path) -> bytes:
    """The content of a file, unpacked where it is a `.gz`."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an error while a file is read and parsed into one line for the user."""
    try:
        yield
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise UserError(
            f"{path} is not the file that its name says: {first_line(error)}"
        ) from error


def write_table(path: Path, columns: dict[str, Any] | pd.DataFrame) -> None:
    """Writes a Parquet file that holds the columns and nothing of the library that made them."""
    if isinstance(columns, pd.DataFrame):
        table = pa.Table.from_pandas(columns, preserve_index=False).replace_schema_metadata()
    else:
        table = pa.table(columns)
    pq.write_table(table, path)


def write_folder(folder: Path, config: str, tables: dict[str, pd.DataFrame]) -> dict[str, int]:
    """Writes a dataset folder: a Parquet file of each kind, and the config.

    Args:
        folder: An empty folder.
        config: Name of the config; see `copy_config`.
        tables: Rows by kind: interactions, candidates, ...

    Returns:
        The number of rows by kind.
    """
    for kind, table in tables.items():
        write_table(folder / f"{kind}.parquet", table)
    copy_config(folder, config)
    return {kind: len(table) for kind, table in tables.items()}


def copy_config(folder: Path, name: str) -> None:
    """Puts the commented config of a data set into its folder."""
    text = (resources.files(__package__) / f"{name}.yaml").read_text("utf-8")
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
