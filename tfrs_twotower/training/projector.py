"""The candidates for TensorBoard's embedding projector: vectors and what to colour them by."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tfrs_twotower.data.prepared import Corpus, PreparedData

CONFIG_FILE, VECTORS_FILE, LABELS_FILE = "projector_config.pbtxt", "candidates.tsv", "labels.tsv"
# More points than this make the projector slow in a browser.
MAX_POINTS = 10_000
CONFIG = f"""\
embeddings {{
  tensor_name: "candidates"
  tensor_path: "{VECTORS_FILE}"
  metadata_path: "{LABELS_FILE}"
}}
"""


def write_projector(
    folder: Path, embeddings: npt.NDArray[np.float32], corpus: Corpus, data: PreparedData
) -> None:
    """Writes the projector's files.

    Args:
        folder: Of event files; TensorBoard looks there.
        embeddings: `[corpus_size, embedding_dim]`.
        corpus: The candidates; the `MAX_POINTS` most frequent ones are shown.
        data: Where title and attributes are read.
    """
    rows = np.sort(np.argsort(-corpus.train_counts, kind="stable")[:MAX_POINTS])
    shown = data.candidate_table().take(rows)
    columns = {
        **{
            name: shown.column(name).to_pylist()
            for name in shown.column_names
            if _is_plain(shown, name)
        },
        "train_count": corpus.train_counts[rows].tolist(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "\t".join(columns),
        *("\t".join(map(_cell, row)) for row in zip(*columns.values(), strict=True)),
    ]
    (folder / LABELS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    np.savetxt(folder / VECTORS_FILE, embeddings[rows], fmt="%.6g", delimiter="\t")
    (folder / CONFIG_FILE).write_text(CONFIG, encoding="utf-8")


def _is_plain(table: pa.Table, name: str) -> bool:
    """A vector is nothing to colour by."""
    kind = table.schema.field(name).type
    return not pa.types.is_nested(kind) or pa.types.is_string(getattr(kind, "value_type", None))


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    return "" if value is None else " ".join(str(value).split())
