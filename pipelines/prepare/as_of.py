"""A dataset folder as it was at a moment: what had happened, what could be recommended.

For replays of a log: the job that prepares such a folder cannot see what comes later.
"""

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.io.tables import column, to_ipc
from pipelines.prepare.columns import to_seconds, to_text
from pipelines.prepare.dataset_files import (
    CANDIDATES,
    INTERACTIONS,
    QUERIES,
    Chunk,
    Dataset,
    needed_columns,
    open_dataset,
)
from pipelines.prepare.parsing import read_chunk
from pipelines.prepare.validate import END_OF_TIME_S, numeric_columns
from tfrs_twotower.schema import Config, UsageError, UserError
from tfrs_twotower.schema.files import Files

ALWAYS = np.iinfo(np.int64).min

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WholeLog:
    """A dataset folder in memory, with the moment from which on each row is known.

    Attributes:
        config: Names the columns; for the folders that `write` makes, `files` is the default.
        interactions: The rows that have a time.
        times_s: `[num_interactions]`, Unix seconds.
        candidates: The candidates file; None: the corpus is what the log has had.
        available_s: `[num_candidates]`; `ALWAYS` where the file does not tell.
        queries: The queries file, if there is one; profiles have no time.
        num_without_time: Interactions that cannot be placed, and so are left out.
    """

    config: Config
    interactions: pa.Table
    times_s: Ints
    candidates: pa.Table | None
    available_s: Ints
    queries: pa.Table | None
    num_without_time: int

    @classmethod
    def read(cls, dataset: str, config: Config) -> "WholeLog":
        """Reads a dataset folder.

        Raises:
            UsageError: If the config names no column of times.
            UserError: If the files cannot be read, or no interaction has a time.
        """
        roles = config.columns
        if roles.timestamp is None:
            raise UsageError("a log is replayed in time: the config needs `columns.timestamp`")
        files = open_dataset(dataset, config)
        interactions = _table(files, INTERACTIONS, config)
        seconds, is_bad = to_seconds(column(interactions, roles.timestamp), roles.time_format)
        times_s = pc.fill_null(seconds, -1).to_numpy().astype(np.int64)
        is_placed = ~is_bad & (times_s >= 0) & (times_s < END_OF_TIME_S)
        if not is_placed.any():
            raise UserError(f"{dataset}: no interaction has a time in `{roles.timestamp}`")
        candidates = _table(files, CANDIDATES, config) if files.of(CANDIDATES) else None
        available_s = np.full(0 if candidates is None else len(candidates), ALWAYS, np.int64)
        if candidates is not None and roles.available_from is not None:
            starts = column(candidates, roles.available_from)
            moments, _ = to_seconds(starts, roles.time_format)
            available_s = pc.fill_null(moments, ALWAYS).to_numpy().astype(np.int64)
        return cls(
            config=config.model_copy(update={"files": Files()}),
            interactions=interactions.filter(pa.array(is_placed)),
            times_s=times_s[is_placed],
            candidates=candidates,
            available_s=available_s,
            queries=_table(files, QUERIES, config) if files.of(QUERIES) else None,
            num_without_time=int((~is_placed).sum()),
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all that is in it."""
        digest = hashlib.sha256()
        for table in (self.interactions, self.candidates, self.queries):
            if table is not None:
                digest.update(to_ipc(table))
        return digest.hexdigest()

    def write(self, folder: Path, moment_s: int) -> None:
        """Writes the dataset folder as it was at a moment: all before it, and nothing else.

        Args:
            folder: A new folder, or that of another moment: the files of what was before both
                stay, and what came since is a file of its own.
            moment_s: Unix seconds.
        """
        (folder / INTERACTIONS).mkdir(parents=True, exist_ok=True)
        since_s = ALWAYS
        for path in (folder / INTERACTIONS).glob("*.parquet"):
            if int(path.stem) < moment_s:
                since_s = max(since_s, int(path.stem))
            else:
                path.unlink()
        is_before = self.times_s < moment_s
        added = self.interactions.filter(pa.array(is_before & (self.times_s >= since_s)))
        pq.write_table(added, folder / INTERACTIONS / f"{moment_s}.parquet")
        if self.candidates is None:
            name = self.config.columns.candidate_id
            known = self.interactions.filter(pa.array(is_before))
            ids = pc.unique(_decoded(to_text(column(known, name))))
            candidates = pa.table({name: ids.filter(pc.not_equal(ids, ""))})
        else:
            candidates = self.candidates.filter(pa.array(self.available_s < moment_s))
        tables = {CANDIDATES: candidates, QUERIES: self.queries}
        for kind, table in tables.items():
            if table is not None:
                pq.write_table(table, folder / f"{kind}.parquet")


def _table(files: Dataset, kind: str, config: Config) -> pa.Table:
    """All sound records of a kind of file; the others are those that `prepare` would reject."""
    columns = [*needed_columns(config, kind)]
    numeric = numeric_columns(config)
    tables = [table for chunk in files.of(kind) for table in _tables(chunk, columns, numeric)]
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _tables(chunk: Chunk, columns: Collection[str], numeric: Collection[str]) -> Iterator[pa.Table]:
    for batch in read_chunk(chunk, columns, numeric):
        # A dictionary would hold the values of later rows, too.
        yield pa.table({name: _decoded(column(batch.table, name)) for name in columns})


def _decoded(array: pa.Array) -> pa.Array:
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
