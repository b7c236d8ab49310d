"""Embeddings as files: Parquet to read with pandas, and what TensorBoard's projector opens.

    candidates.parquet   candidate_id, embedding, title and attributes; in the order of rows
    projector/           vectors.tsv, metadata.tsv and projector_config.pbtxt for TensorBoard
    manifest.json        written last

Read back in three lines:

    import numpy as np, pandas as pd
    candidates = pd.read_parquet("STORE/candidates.parquet")
    vectors = np.stack(candidates["embedding"])  # [num_candidates, embedding_dim] float32

Embeddings of queries come from `twotower embed --side query`, to be read likewise.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower import __version__
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema.folders import MANIFEST, output_folder, write_json

CANDIDATES_FILE = "candidates.parquet"
PROJECTOR, VECTORS_FILE, METADATA_FILE = "projector", "vectors.tsv", "metadata.tsv"
PROJECTOR_CONFIG = f"""\
embeddings {{
  tensor_name: "candidates"
  tensor_path: "{VECTORS_FILE}"
  metadata_path: "{METADATA_FILE}"
}}
"""


@dataclass(frozen=True)
class EmbeddingStore:
    """What was written."""

    folder: Path
    num_candidates: int
    embedding_dim: int


def write_embeddings(
    run: str | Path, data: str | Path, output: str | Path, *, overwrite: bool = False
) -> EmbeddingStore:
    """Writes the embeddings of a run's candidates.

    Args:
        run: What `twotower train` wrote.
        data: The prepared folder it was trained on.
        output: The folder to write.
        overwrite: Whether a finished folder may be replaced.

    Raises:
        UserError: See `load_run`.
        UsageError: If the folder is finished, or not ours.
    """
    loaded = load_run(run, data)
    with output_folder(output, overwrite=overwrite) as folder:
        candidates = embed(loaded.model.candidate_tower, loaded.data.corpus().features)
        attributes = loaded.data.candidate_table()
        pq.write_table(_with_embeddings(attributes, candidates), folder / CANDIDATES_FILE)
        write_projector(attributes, candidates, folder / PROJECTOR)
        write_json(
            folder / MANIFEST,
            {
                "kind": "embeddings",
                "code_version": __version__,
                "schema_fingerprint": loaded.config.fingerprint(),
                "num_candidates": len(candidates),
                "embedding_dim": candidates.shape[1],
            },
        )
    return EmbeddingStore(Path(output), len(candidates), candidates.shape[1])


def _with_embeddings(table: pa.Table, embeddings: npt.NDArray[np.float32]) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(embeddings.reshape(-1)), embeddings.shape[1]
    )
    return table.add_column(1, "embedding", vectors)


def write_projector(
    attributes: pa.Table, embeddings: npt.NDArray[np.float32], folder: Path
) -> None:
    """Writes tab-separated vectors and, for each, its id and attributes.

    Args:
        attributes: A row a candidate; its columns are what the projector shows and colours by.
        embeddings: `[num_candidates, embedding_dim]`.
        folder: To make; `tensorboard --logdir` opens it.
    """
    folder.mkdir()
    pd.DataFrame(embeddings).to_csv(
        folder / VECTORS_FILE, sep="\t", header=False, index=False, float_format="%.6g"
    )
    vectors = [field.name for field in attributes.schema if _is_vector(field.type)]
    shown = attributes.drop_columns(vectors)
    columns = [[_one_line(value) for value in column.to_pylist()] for column in shown.columns]
    rows = [*zip(*columns, strict=True)]
    if len(columns) > 1:  # The projector takes the first line of a single column for a value.
        rows.insert(0, tuple(shown.column_names))
    text = "".join("\t".join(row) + "\n" for row in rows)
    (folder / METADATA_FILE).write_text(text, encoding="utf-8")
    (folder / "projector_config.pbtxt").write_text(PROJECTOR_CONFIG, encoding="utf-8")


def _is_vector(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_floating(kind.value_type)


def _one_line(value: object) -> str:
    """Text without what ends a field or a line; the projector knows no quotes."""
    if value is None:
        return ""
    values = value if isinstance(value, list) else [value]
    return " ".join(" | ".join(str(one) for one in values).split())
