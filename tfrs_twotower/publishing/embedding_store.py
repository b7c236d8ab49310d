"""Embeddings as files: Parquet to read with pandas, and what TensorBoard's projector opens.

    candidates.parquet   candidate_id, embedding, title and attributes; in the order of rows
    projector/           vectors.tsv, metadata.tsv and projector_config.pbtxt for TensorBoard
    manifest.json        written last

Read back in three lines:

    import numpy as np, pandas as pd
    candidates = pd.read_parquet("STORE/candidates.parquet")
    vectors = np.stack(candidates["embedding"])  # [num_candidates, embedding_dim] float32

Embeddings of queries come from `twotower user-embeddings` and `twotower embed --side query`; a
database of both is written by `embedding_database`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.models.projector import write_projector
from tfrs_twotower.publishing.indexes import EMBEDDING, matrix
from tfrs_twotower.publishing.models_folder import PART, latest_version, read_config
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.folders import MANIFEST, output_folder, write_json
from tfrs_twotower.schema.models_layout import CANDIDATES
from tfrs_twotower.schema.results import Tabular
from tfrs_twotower.schema.version import __version__

if TYPE_CHECKING:
    import pandas as pd

CANDIDATES_FILE = "candidates.parquet"
PROJECTOR = "projector"


@dataclass(frozen=True, repr=False)
class EmbeddingStore(Tabular):
    """A folder of embeddings."""

    folder: Path
    num_candidates: int
    embedding_dim: int

    @property
    def title(self) -> str:
        """The folder and its sizes."""
        return f"{self.num_candidates:,} embeddings of {self.embedding_dim} in {self.folder}"

    def to_frame(self) -> "pd.DataFrame":
        """A row a candidate: `candidate_id`, `embedding`, title and attributes."""
        import pandas as pd

        return pd.read_parquet(self.folder / CANDIDATES_FILE)

    def headline(self) -> "pd.DataFrame":
        """Without the embeddings."""
        return self.to_frame().drop(columns="embedding")


def write_embeddings(
    models: str | Path, output: str | Path, *, overwrite: bool = False
) -> EmbeddingStore:
    """Writes the embeddings of the candidates of the newest version.

    Args:
        models: The models folder.
        output: The folder to write.
        overwrite: Whether a finished folder may be replaced.

    Raises:
        UserError: If there are no models, or what they hold of their candidates is damaged.
        UsageError: If the folder is finished, or not ours.
    """
    models = Path(models)
    version = latest_version(models)
    candidates = read_embeddings(models, version)
    embeddings = matrix(candidates, EMBEDDING)
    with output_folder(output, overwrite=overwrite) as folder:
        pq.write_table(candidates, folder / CANDIDATES_FILE)
        write_projector(candidates.drop_columns([EMBEDDING]), embeddings, folder / PROJECTOR)
        write_json(
            folder / MANIFEST,
            {
                "kind": "embeddings",
                "code_version": __version__,
                "schema_fingerprint": read_config(models, version).fingerprint(),
                "model_version": version,
                "num_candidates": len(embeddings),
                "embedding_dim": embeddings.shape[1],
            },
        )
    return EmbeddingStore(Path(output), len(embeddings), embeddings.shape[1])


def read_embeddings(models: Path, version: int) -> pa.Table:
    """The candidates of a version with their embeddings, titles and attributes, by id.

    Raises:
        UserError: If they are missing or damaged.
    """
    path = models / CANDIDATES / str(version) / PART
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is missing or damaged: `twotower doctor` has details") from error


def read_searchable(models: Path, version: int, engine: str) -> pa.Table:
    """What `read_embeddings` reads, for an engine that searches by the inner product.

    Args:
        models: The models folder.
        version: The version.
        engine: The name of the engine, for the message.

    Raises:
        UserError: If they are missing or damaged, or the version scores by a layer.
    """
    if read_config(models, version).context_mode == "scoring_layer":
        raise UserError(
            f"version {version} of {models} scores by a layer (`towers.context_mode: "
            f"scoring_layer`), not by the inner product that {engine} searches by"
        )
    return read_embeddings(models, version)
