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
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.projector import write_projector
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema.folders import MANIFEST, output_folder, write_json
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
