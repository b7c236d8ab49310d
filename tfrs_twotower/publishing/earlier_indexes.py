"""The indexes of an earlier version, corrected by what a refresh changes instead of built again.

Candidates that are gone or have another embedding are left out of the earlier index, new ones and
those with another embedding are scored for every query. Both cost more the more there are of them:
from `index.refresh_rebuild_share` on, an index is built anew.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.index.ivf import IvfIndex, Leaves
from tfrs_twotower.index.memory import check_free, readable
from tfrs_twotower.index.outside import NO_ROW
from tfrs_twotower.index.parameters import IndexParameters, IvfParameters, has_tree
from tfrs_twotower.index.promised_recall import split_queries
from tfrs_twotower.index.recall import Recall, exact_scores, measure_recall
from tfrs_twotower.index.scann import ScannIndex
from tfrs_twotower.index.scann_of_earlier import EarlierScannIndex
from tfrs_twotower.publishing.models_folder import read_model_manifest, versions
from tfrs_twotower.publishing.saved_model_writer import VARIABLES
from tfrs_twotower.schema.index import Index as IndexConfig
from tfrs_twotower.schema.models_layout import RETRIEVAL, RETRIEVAL_EXACT, RETRIEVAL_STOCK

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int32]

# Where the checkpoint of a retriever keeps its index, and that what the index is corrected from.
_INDEX, _EARLIER = "_index/", "_index/_earlier/"
# What a variable takes while it is made of what was read: the array, the tensor and the variable.
_COPIES = 3


@dataclass
class EarlierVersion:
    """The version that a refresh begins with.

    Attributes:
        models: The models folder.
        version: Its number.
        new_rows: `[its corpus size]` int32, the row of each of its candidates in the new corpus; -1
            where it is gone or its embedding has changed.
    """

    models: Path
    version: int
    new_rows: Rows
    # Of the new corpus and the queries that confirm its indexes: the same for each of them.
    _exact_scores: Floats | None = field(default=None, init=False, repr=False)

    def check_memory(self) -> int:
        """Forecast of the peak memory that correcting and saving the largest index takes.

        Raises:
            UserError: If there is less.
        """
        forecast = 0
        for name in (RETRIEVAL_EXACT, *_CORRECTED):
            folder = self.models / name / str(self.version)
            if folder.is_dir():
                saved = _SavedIndex(folder)
                num_bytes = saved.bytes_under(_INDEX)
                if name == RETRIEVAL and f"{_INDEX}_row_of_earlier" not in saved:
                    # Beside the embeddings of its tree it will hold those of the corpus.
                    num_bytes += saved.bytes_under(f"{_INDEX}embeddings")
                forecast = max(forecast, _COPIES * num_bytes)
        what = f"correcting the indexes of version {self.version} takes about {readable(forecast)}"
        check_free(forecast, what, "refresh on a larger machine")
        return forecast

    def files_of_variables(self) -> list[Path]:
        """The files that hold the variables of its retrieval models."""
        folders = (
            self.models / name / str(self.version) / VARIABLES
            for name in (RETRIEVAL_EXACT, *_CORRECTED)
        )
        return [path for folder in folders if folder.is_dir() for path in folder.iterdir()]

    def corrected(
        self, name: str, embeddings: Floats, held_out: Floats, config: IndexConfig
    ) -> tuple[CandidateIndex, dict[str, Any]] | None:
        """An index of the new corpus, made of the earlier one.

        Args:
            name: Of the model.
            embeddings: `[num_candidates, embedding_dim]` of the new corpus.
            held_out: See `indexes.scann_index`.
            config: The share of changes from which it is built anew, and the target recall.

        Returns:
            The index, and what the manifest holds of its recall and its tuning; None: it must be
            built, as the earlier version has no such tree, too much has changed since that was
            built, or it misses the target recall.
        """
        is_there = self.version in versions(self.models / name)
        if not is_there or not len(held_out) or not has_tree(config, len(embeddings)):
            return None
        manifest = read_model_manifest(self.models, name, self.version)
        saved = _SavedIndex(self.models / name / str(self.version))
        index = _CORRECTED[name](manifest["index"], saved, embeddings, self.new_rows, config)
        recall = None if index is None else self._confirmed(index, held_out, config)
        if index is None or recall is None:
            return None
        kept = {key: manifest[key] for key in ("tuning",) if key in manifest}
        return index, {"recall": recall.as_dict(), **kept}

    def _confirmed(
        self, index: CandidateIndex, held_out: Floats, config: IndexConfig
    ) -> Recall | None:
        """The recall of an index tuned for an earlier corpus; None: it misses the target.

        It is measured on the queries that confirmed the earlier index, not on those it was tuned
        on.
        """
        queries, num_tuning = held_out, 0
        if config.target_recall is not None:
            tuning_queries, queries = split_queries(held_out, config.target_recall)
            num_tuning = len(tuning_queries)
        if self._exact_scores is None:
            self._exact_scores = exact_scores(index, queries, config.at)
        recall = measure_recall(index, queries, config.at, self._exact_scores)
        if config.target_recall is None:
            return recall
        if recall.lower_bound < config.target_recall:
            return None
        return recall._replace(lower_bound=config.target_recall, num_tuning_queries=num_tuning)


class _SavedIndex:
    """The variables of an index, read from a SavedModel without loading its graph."""

    def __init__(self, folder: Path) -> None:
        self._reader = tf.train.load_checkpoint(str(folder / VARIABLES / "variables"))
        self._shapes = self._reader.get_variable_to_shape_map()
        self._names = {name.partition("/.ATTRIBUTES/")[0]: name for name in self._shapes}

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> Any:
        """An array, or the bytes of a scalar text."""
        return self._reader.get_tensor(self._names[name])

    def bytes_under(self, prefix: str) -> int:
        """What the variables take whose names begin with a prefix."""
        dtypes = self._reader.get_variable_to_dtype_map()
        names = [name for short, name in self._names.items() if short.startswith(prefix)]
        return sum(math.prod(self._shapes[name]) * dtypes[name].size for name in names)

    def under(self, prefix: str) -> dict[str, Any]:
        """All whose names begin with a prefix, by the rest of the name."""
        return {
            name.removeprefix(prefix): self[name] for name in self._names if name.startswith(prefix)
        }


def _corrected_scann(
    description: Mapping[str, Any],
    saved: _SavedIndex,
    embeddings: Floats,
    new_rows: Rows,
    config: IndexConfig,
) -> EarlierScannIndex | None:
    parameters = IndexParameters.from_description(description)
    if parameters is None:
        return None
    prefix = _INDEX
    if f"{_INDEX}_row_of_earlier" in saved:
        prefix = _EARLIER
        new_rows = _mapped(saved[f"{_INDEX}_row_of_earlier"], new_rows)
    if _share_of_changes(new_rows, len(embeddings)) > config.refresh_rebuild_share:
        return None
    earlier = ScannIndex(
        saved[f"{prefix}embeddings"], parameters, state=saved.under(f"{prefix}_state/")
    )
    return EarlierScannIndex(embeddings, earlier, new_rows)


def _corrected_ivf(
    description: Mapping[str, Any],
    saved: _SavedIndex,
    embeddings: Floats,
    new_rows: Rows,
    config: IndexConfig,
) -> IvfIndex | None:
    parameters = IvfParameters.from_description(description)
    if parameters.leaf_dtype != config.leaf_dtype:
        return None
    rows = _mapped(saved[f"{_INDEX}_rows"], new_rows)
    leaves = Leaves(rows, saved[f"{_INDEX}_vectors"], saved[f"{_INDEX}_centres"])
    # A slot that was never filled holds zeros, one that a candidate has left keeps its vector.
    is_filled = (rows != NO_ROW) | leaves.vectors.any(axis=2)
    if _share_of_changes(rows[is_filled], len(embeddings)) > config.refresh_rebuild_share:
        return None
    return IvfIndex(embeddings, parameters, leaves)


_CORRECTED: Mapping[str, Callable[..., CandidateIndex | None]] = {
    RETRIEVAL: _corrected_scann,
    RETRIEVAL_STOCK: _corrected_ivf,
}


def _mapped(rows: Rows, new_rows: Rows) -> Rows:
    """The new rows of earlier ones, of any shape; -1 stays -1."""
    return np.where(rows == NO_ROW, np.int32(NO_ROW), new_rows[rows])


def _share_of_changes(rows: Rows, size: int) -> float:
    """Of the candidates that are gone, or of those that are outside the index, what is more."""
    num_kept = int((rows != NO_ROW).sum())
    return max(len(rows) - num_kept, size - num_kept) / size
