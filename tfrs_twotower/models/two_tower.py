"""The two-tower model: two towers and the retrieval task."""

from collections.abc import Mapping

import numpy as np

from tfrs_twotower.data.training_batch import Negatives, TrainingBatch
from tfrs_twotower.features.encoding import encoded_spec
from tfrs_twotower.features.seeds import seed_of
from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.losses import RetrievalTask
from tfrs_twotower.models.context_modes import make_query_tower
from tfrs_twotower.models.scorers import DOT_PRODUCT, Scorer, ScoringLayer
from tfrs_twotower.models.towers import CandidateTower, embedding_tables, history_table
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import Feature
from tfrs_twotower.schema.prepared import NumberStatistics


class TwoTowerModel(tfrs.Model):
    """A query tower, a candidate tower, what scores a pair of embeddings, and the training loss.

    It is trained on the batches that `tfrs_twotower.data.training_batch` describes.
    """

    def __init__(
        self,
        query_tower: keras.Model,
        candidate_tower: keras.Model,
        task: RetrievalTask,
        scorer: Scorer = DOT_PRODUCT,
    ) -> None:
        """Joins the parts.

        Args:
            query_tower: Encoded query features by name -> `[batch, query_dim]`.
            candidate_tower: Encoded candidate features by name -> `[batch, embedding_dim]`.
            task: The loss, of the same scores.
            scorer: What scores a pair of embeddings.
        """
        super().__init__()
        self.query_tower = query_tower
        self.candidate_tower = candidate_tower
        self.task = task
        self.scorer = scorer

    @classmethod
    def from_config(
        cls,
        config: Config,
        num_rows: Mapping[str, int],
        statistics: Mapping[str, NumberStatistics],
        history_candidates: Mapping[str, np.ndarray] | None = None,
    ) -> "TwoTowerModel":
        """Builds the model that a config describes.

        Its variables exist and have their initial values.

        Args:
            config: Features, towers and loss.
            num_rows: Rows of each feature's embedding table.
            statistics: Of the number features.
            history_candidates: See `PreparedData.history_candidates`; needed where the history has
                `candidate_features`.
        """
        tables = embedding_tables(config, num_rows)
        of_queries = dict(tables)
        if config.history is not None and history_candidates:
            of_queries[config.history.name] = history_table(
                config, tables, statistics, history_candidates
            )
        query_tower = make_query_tower(config, of_queries, statistics)
        candidate_tower = CandidateTower(config, tables, statistics)
        queries = query_tower(one_entry(config.query_features))
        candidates = candidate_tower(one_entry(config.candidate_features))
        scorer: Scorer = DOT_PRODUCT
        if config.context_mode == "scoring_layer":
            scorer = ScoringLayer(
                config.towers.scoring_hidden_units,
                seed=seed_of(config.training.seed, "scoring_layer"),
            )
            scorer(queries, candidates[:, tf.newaxis])
        task = RetrievalTask.from_config(config.loss, scorer)
        return cls(query_tower, candidate_tower, task, scorer)

    def compute_loss(self, inputs: TrainingBatch, training: bool = False) -> tf.Tensor:
        """The retrieval loss of a batch."""
        shared = _with_uniform(inputs)
        own = inputs.get("own_negatives")
        query_embeddings = self.query_tower(inputs["query"], training=training)
        candidate_embeddings, own_embeddings = self._embed(shared, own, training)
        return self.task(
            query_embeddings,
            candidate_embeddings,
            candidate_ids=shared["candidate_row"],
            candidate_log_q=shared.get("candidate_log_q"),
            known_positives=inputs.get("known_positives"),
            own_negative_embeddings=own_embeddings,
            is_own_negative=None if own is None else own["candidate_row"] >= 0,
            labels=inputs.get("label"),
            sample_weight=inputs["weight"],
        )

    def _embed(
        self, shared: Negatives, own: Negatives | None, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """`[num_shared, embedding_dim]` and `[batch, num_own, embedding_dim]` embeddings."""
        if own is None:
            return self.candidate_tower(shared["candidate"], training=training), None
        # One call for both: a step of small batches is mostly the overhead of its operations.
        flat = {
            name: tf.reshape(values, tf.concat([[-1], tf.shape(values)[2:]], 0))
            for name, values in own["candidate"].items()
        }
        embeddings = self.candidate_tower(
            _concatenated(shared["candidate"], flat), training=training
        )
        own_shape = tf.shape(own["candidate_row"])
        sizes = [tf.size(shared["candidate_row"]), tf.reduce_prod(own_shape)]
        of_shared, of_own = tf.split(embeddings, sizes)
        return of_shared, tf.reshape(of_own, tf.concat([own_shape, tf.shape(of_own)[1:]], 0))


def _with_uniform(batch: TrainingBatch) -> Negatives:
    """The examples' candidates, then the uniform negatives."""
    uniform = batch.get("uniform_negatives")
    if uniform is None:
        return batch
    return _concatenated({key: values for key, values in batch.items() if key in uniform}, uniform)


def _concatenated(first: Mapping[str, object], second: Mapping[str, object]) -> Negatives:
    """Nested mappings of the same keys, concatenated tensor by tensor."""
    return tf.nest.map_structure(lambda *values: tf.concat(values, 0), first, second)


def one_entry(features: Mapping[str, Feature]) -> dict[str, tf.Tensor]:
    """A batch of one entry; the first call makes a tower's variables."""
    specs = {name: encoded_spec(feature, name) for name, feature in features.items()}
    return {name: tf.zeros([1, *spec.shape[1:]], spec.dtype) for name, spec in specs.items()}
