"""New candidates for trained towers: the next version of every model, without training.

Candidates that are new, or have other features, come through the candidate tower that is served.
One whose vector stays what it was keeps the stored one, and with it every score to the last bit.
The trees of the indexes are kept while little has changed, see `earlier_indexes`.
"""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfrs_twotower.index.outside import NO_ROW
from tfrs_twotower.publishing import server_config
from tfrs_twotower.publishing.earlier_indexes import EarlierVersion
from tfrs_twotower.publishing.halves import JOIN
from tfrs_twotower.publishing.history_refresh import write_query_tower
from tfrs_twotower.publishing.indexes import (
    EMBEDDING,
    Corpus,
    QuerySide,
    matrix,
    write_indexes,
)
from tfrs_twotower.publishing.linked_files import link
from tfrs_twotower.publishing.models_folder import (
    HELD_OUT_QUERIES,
    PART,
    QUERY_EMBEDDING,
    asked_model,
    extra_asset,
    publish,
    read_config,
    read_model_manifest,
    staging_folder,
)
from tfrs_twotower.publishing.progress import Begin, told_steps
from tfrs_twotower.publishing.saved_model_reader import (
    LoadedQueryTower,
    LoadedSignature,
)
from tfrs_twotower.publishing.unchanged import embed_changed
from tfrs_twotower.publishing.versions import choose
from tfrs_twotower.schema import UserError
from tfrs_twotower.schema.models_layout import (
    CANDIDATE_TOWER,
    CANDIDATES,
    QUERIES,
    QUERY_TOWER,
    RETRIEVAL_EXACT,
)
from tfrs_twotower.schema.prepared import CANDIDATE_ID
from tfrs_twotower.schema.results import Tabular

if TYPE_CHECKING:
    import pandas as pd

KEPT_FACTS = ("schema_fingerprint", "towers_digest", "metrics", "features")


@dataclass(frozen=True, repr=False)
class Refresh(Tabular):
    """A refreshed version, and how its candidates differ from those of `base_version`."""

    folder: Path
    version: int
    base_version: int
    corpus_size: int
    num_new: int
    num_changed: int
    num_removed: int
    manifests: dict[str, dict[str, Any]]

    @property
    def title(self) -> str:
        """The version and where it comes from."""
        return f"version {self.version} in {self.folder}, refreshed from {self.base_version}"

    def to_frame(self) -> "pd.DataFrame":
        """How many candidates there are, and how many are new, changed and removed."""
        import pandas as pd

        counts = {
            "candidates": self.corpus_size,
            "new": self.num_new,
            "changed": self.num_changed,
            "removed": self.num_removed,
        }
        return pd.Series(counts, name="count").to_frame()


def refresh(
    models: str | Path,
    candidates: Iterable[pa.Table],
    version: int | None = None,
    *,
    progress: bool = False,
) -> Refresh:
    """Publishes a version with other candidates and the towers of a version that is there.

    Args:
        models: The models folder.
        candidates: The whole new corpus, in tables of any size: `candidate_id`, title, attributes
            and raw features, as `candidates` of the models folder holds them.
        version: Whose towers to keep; default: the stable one, without labels the newest.
        progress: Whether to show on stderr what is being done.

    Returns:
        What was published. Labels of versions stay where they are.

    Raises:
        UserError: If there is no version to refresh, it scores by a layer, there is no candidate,
            an id occurs twice, memory is too small, or the target recall of the version cannot be
            met.
    """
    models = Path(models)
    base = choose(models, version)
    with told_steps(progress) as begin:
        return _refresh(models, candidates, base, begin)


def _refresh(models: Path, candidates: Iterable[pa.Table], base: int, begin: Begin) -> Refresh:
    config = read_config(models, base)
    if config.context_mode == "scoring_layer":
        raise UserError(
            f"version {base} of {models} scores by a layer (`towers.context_mode: scoring_layer`), "
            "which no exported model holds apart from its candidates: prepare the new ones, train "
            "with a warm start, and export"
        )
    begin("reading the candidates")
    table = _in_order(candidates)
    stored = pq.read_table(models / CANDIDATES / str(base) / PART)
    _check_columns(table, stored)
    begin(CANDIDATE_TOWER)
    tower = LoadedSignature(models / CANDIDATE_TOWER / str(base))
    found = embed_changed(tower, config.candidate_features, table, stored)
    known = found.earlier_rows >= 0
    new_rows = np.full(len(stored), NO_ROW, np.int32)
    new_rows[found.earlier_rows[found.is_same]] = np.flatnonzero(found.is_same)
    num_removed = len(stored) - int(known.sum())
    del stored  # Larger than an index; Arrow keeps what is freed until it is asked for it.
    pa.default_memory_pool().release_unused()
    asked = asked_model(models, base)
    manifest = read_model_manifest(models, asked, base)
    facts = {name: manifest[name] for name in KEPT_FACTS if name in manifest}
    held_out = np.zeros([0, 0], np.float32)  # An exact answer has no recall to measure.
    if asked != RETRIEVAL_EXACT:
        queries = pq.read_table(extra_asset(models, asked, base, HELD_OUT_QUERIES))
        held_out = matrix(queries, QUERY_EMBEDDING)
    with staging_folder(models) as staging:
        kept = [QUERY_TOWER, CANDIDATE_TOWER, QUERIES]
        if config.history_candidate_features:
            kept.remove(QUERY_TOWER)
            begin(QUERY_TOWER)
            write_query_tower(models, base, config, table, staging / QUERY_TOWER)
        for name in kept:
            shutil.copytree(models / name / str(base), staging / name, copy_function=link)
        query_tower = LoadedQueryTower(staging / QUERY_TOWER)
        joined_tower = None
        if config.context_mode == "trilinear":
            joined_tower = LoadedQueryTower(staging / QUERY_TOWER, JOIN)
        manifests = write_indexes(
            staging,
            QuerySide(query_tower, joined_tower),
            Corpus(table, found.embeddings),
            held_out,
            config,
            {**facts, "origin": "refresh", "base_version": base},
            begin,
            EarlierVersion(models, base, new_rows),
        )
        published = publish(models, staging)
    server_config.write(models, server_config.read_labels(models))
    return Refresh(
        folder=models,
        version=published,
        base_version=base,
        corpus_size=len(table),
        num_new=int((~known).sum()),
        num_changed=int((known & ~found.is_same).sum()),
        num_removed=num_removed,
        manifests=manifests,
    )


def _in_order(candidates: Iterable[pa.Table]) -> pa.Table:
    """One table, by candidate id."""
    tables = [table for table in candidates if len(table)]
    if not tables:
        raise UserError("no candidate: give the files of the whole new corpus")
    table = pa.concat_tables(tables).unify_dictionaries()
    # Arrow orders text by its UTF-8 bytes.
    return table.sort_by(CANDIDATE_ID).combine_chunks()


def _check_columns(table: pa.Table, stored: pa.Table) -> None:
    missing = [name for name in stored.column_names if name not in (*table.column_names, EMBEDDING)]
    if missing:
        raise UserError(f"the candidates lack {', '.join(missing)}, which the version before has")
