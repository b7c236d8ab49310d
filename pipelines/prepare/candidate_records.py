"""Candidates -> encoded records, and a table for people."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.io.example_records import BYTES, INT, Field, RecordLayout, int_width
from pipelines.io.tables import column
from pipelines.prepare.encode import encode, record_fields
from pipelines.prepare.examples import readable
from pipelines.prepare.validate import ATTRIBUTE, AVAILABLE_FROM, CANDIDATE_ID, FEATURE, TITLE
from tfrs_twotower.features.encoding import Encoder
from tfrs_twotower.schema import Config
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.features import Id


def candidate_records(
    config: Config, encoder: Encoder, candidates: pa.Table, rows: np.ndarray, corpus_size: int
) -> Iterator[np.ndarray]:
    """Encodes and frames candidates.

    Args:
        config: Names the features.
        encoder: Of the candidate features.
        candidates: As `validate_entities` gives them.
        rows: `[n]` int64 candidate rows.
        corpus_size: For the width of candidate rows.

    Yields:
        Blocks of records of one length, `[m, record_bytes]` uint8.
    """
    features = config.candidate_features
    ids = column(candidates, CANDIDATE_ID)
    columns = {
        name: ids if isinstance(feature, Id) else column(candidates, FEATURE + name)
        for name, feature in features.items()
    }
    arrays = encode(encoder, features, columns)
    arrays[layout.CANDIDATE_ROW] = rows
    fields = [
        Field(layout.CANDIDATE_ROW, INT, 1, int_width(corpus_size)),
        *record_fields(encoder, features),
    ]
    id_bytes = pc.cast(ids, pa.binary())
    lengths = pc.binary_length(id_bytes).to_numpy()
    for length in np.unique(lengths).tolist():
        chosen = np.flatnonzero(lengths == length)
        flat = b"".join(id_bytes.take(pa.array(chosen)).to_pylist())
        values = {name: array[chosen] for name, array in arrays.items()}
        values[layout.CANDIDATE_ID] = np.frombuffer(flat, f"S{length}")
        yield RecordLayout([*fields, Field(layout.CANDIDATE_ID, BYTES, length)]).encode(values)


def candidate_attributes(config: Config, candidates: pa.Table, rows: np.ndarray) -> pa.Table:
    """What people, rules and refreshes read of candidates: ids, title, attributes, raw features."""
    columns = {
        layout.CANDIDATE_ID: column(candidates, CANDIDATE_ID),
        layout.CANDIDATE_ROW: pa.array(rows, pa.int64()),
    }
    for name in (TITLE, AVAILABLE_FROM):
        if name in candidates.column_names:
            columns[name] = column(candidates, name)
    for name in config.export.attributes:
        columns[name] = column(candidates, ATTRIBUTE + name)
    for name, feature in config.candidate_features.items():
        if not isinstance(feature, Id):
            columns[name] = readable(feature, column(candidates, FEATURE + name))
    return pa.table(columns)
