"""Embeddings as the files that TensorBoard's embedding projector opens."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

VECTORS_FILE, METADATA_FILE = "vectors.tsv", "metadata.tsv"
CONFIG_FILE = "projector_config.pbtxt"
CONFIG = f"""\
embeddings {{
  tensor_name: "candidates"
  tensor_path: "{VECTORS_FILE}"
  metadata_path: "{METADATA_FILE}"
}}
"""


def write_projector(
    attributes: pa.Table, embeddings: npt.NDArray[np.float32], folder: Path
) -> None:
    """Writes tab-separated vectors and, for each, its id and attributes.

    Args:
        attributes: A row a candidate; its columns are what the projector shows and colours by.
            Columns of vectors are left out.
        embeddings: `[num_candidates, embedding_dim]`.
        folder: Made where missing; `tensorboard --logdir` opens it.
    """
    folder.mkdir(parents=True, exist_ok=True)
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
    (folder / CONFIG_FILE).write_text(CONFIG, encoding="utf-8")


def _is_vector(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind)
    return is_list and pa.types.is_floating(kind.value_type)


def _one_line(value: object) -> str:
    """Text without what ends a field or a line; the projector knows no quotes."""
    if value is None:
        return ""
    values = value if isinstance(value, list) else [value]
    return " ".join(" | ".join(str(one) for one in values).split())
