"""A query tower and an index of your own -> a model for TensorFlow Serving, without our config."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfrs_twotower.index.base import CandidateIndex
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.publishing.saved_model_writer import save
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.retrieval.retriever import Retriever, finite_or_zero
from tfrs_twotower.schema import UsageError
from tfrs_twotower.schema.models_layout import RETRIEVAL

Tensors = Mapping[str, tf.Tensor]


class KerasQueryTower(tf.Module):
    """A Keras model that takes raw features, as the query tower of a `Retriever`."""

    def __init__(self, model: keras.Model, inputs: Mapping[str, tf.TensorSpec]) -> None:
        """Calls the model once, which builds it.

        Args:
            model: Of the Keras that `tfrs_twotower.keras` gives; features by name ->
                `[batch, embedding_dim]` float32. Look-ups of ids are layers of it.
            inputs: The features by name, `[None]` for one value a query, `[None, None]` for lists.
                A list of text holds "" beside its values, our clients start each with it: the model
                must ignore "" wherever it stands.
        """
        super().__init__()
        # Tracked, unlike our own towers: its look-up layers hold tables, which are no variables.
        self._model = model
        self._inputs = {
            name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in inputs.items()
        }
        nothing = {
            name: tf.zeros([size or 1 for size in spec.shape], spec.dtype)
            for name, spec in self._inputs.items()
        }
        self.embedding_dim = int(self(nothing).shape[1])

    @property
    def inputs(self) -> dict[str, tf.TensorSpec]:
        """The raw features by name."""
        return self._inputs

    def __call__(self, raw: Tensors) -> tf.Tensor:
        """`[batch, embedding_dim]` float32, finite; see `retrieval.ServedTower`."""
        return finite_or_zero(
            self._model({name: raw[name] for name in self._inputs}, training=False)
        )


def export_retriever(
    query_tower: keras.Model,
    candidate_ids: Sequence[str],
    index: CandidateIndex,
    folder: str | Path,
    *,
    inputs: Mapping[str, tf.TensorSpec],
    default_k: int = 10,
    max_k: int = 1000,
    attributes: CandidateAttributes | None = None,
    model_name: str = RETRIEVAL,
) -> dict[str, Any]:
    """Writes a SavedModel: query features -> the best candidates, under the rules of a request.

    It has the signatures `serving_default`, `recommend` and `score`, warm-up requests and a
    manifest, as the models of `twotower export` have, and is served like them. The version folder
    appears whole or not at all.

    Args:
        query_tower: See `KerasQueryTower`.
        candidate_ids: Distinct, not empty, sorted by their UTF-8 bytes (as `sorted` sorts
            text of ASCII): equal scores come in the order of ids.
        index: An `ExactIndex`, which any server can load, or a `ScannIndex`, which needs ScaNN's
            ops; its rows are those of `candidate_ids`.
        folder: The version folder to write, such as "models/retrieval/1"; must not exist.
        inputs: See `KerasQueryTower`.
        default_k: How many candidates `serving_default` answers, 1 or more.
        max_k: The largest `k` that a request may ask for.
        attributes: What the rules of `recommend` read of the candidates, in the order of
            `candidate_ids`; None: there is nothing to filter by.
        model_name: The name under which a server serves the model.

    Returns:
        The manifest, which is also written to `assets.extra/manifest.json`.

    Raises:
        UsageError: If the folder exists.
        UserError: If an id is empty or occurs twice.
        ValueError: If ids, index and query tower do not fit together.
    """
    folder = Path(folder)
    if folder.exists():
        raise UsageError(f"{folder} exists: name the folder of a new version")
    tower = KerasQueryTower(query_tower, inputs)
    if tower.embedding_dim != index.embedding_dim:
        raise ValueError(
            "`query_tower` must give vectors as wide as the embeddings of `index`: expected "
            f"{index.embedding_dim}, got {tower.embedding_dim}."
        )
    retriever = Retriever(
        tower, index, candidate_ids, default_k=default_k, max_k=max_k, attributes=attributes
    )
    # A server looks for names that are numbers only.
    staging = folder.parent / f".{folder.name}.incomplete"
    shutil.rmtree(staging, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        manifest = save(
            retriever,
            retriever.signatures(),
            staging,
            model_name=model_name,
            facts={"corpus_size": len(candidate_ids), "index": index.description},
            searcher_bytes=index.searcher_bytes,
        )
        staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest
