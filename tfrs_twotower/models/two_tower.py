"""The two-tower model: two towers and the retrieval task."""

from collections.abc import Mapping

from tfrs_twotower.data.keys import CANDIDATE_LOG_Q, KNOWN_POSITIVES, OWN, UNIFORM
from tfrs_twotower.features.encoding import encoded_spec
from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.losses import RetrievalTask
from tfrs_twotower.models.context_modes import make_query_tower
from tfrs_twotower.models.scorers import DOT_PRODUCT, Scorer, ScoringLayer
from tfrs_twotower.models.towers import CandidateTower, embedding_tables
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import Feature
from tfrs_twotower.schema.prepared import CANDIDATE_ROW, LABEL, WEIGHT, NumberStatistics


class TwoTowerModel(tfrs.Model):
    """A query tower, a candidate tower, and the loss that draws them together.

    A training batch is one flat mapping (see `training_batches`): the encoded features of both
    sides, `candidate_row` `[batch]` int32 and `weight` `[batch]` float32. As the loss needs them,

    * `candidate_log_q` `[batch]` float32, for the logQ correction;
    * `known_positives` `[batch, (num_known)]` int32 candidate rows;
    * `label` `[batch]` int32, 1 or 0, for binary cross-entropy;
    * `uniform_negatives/<key>`: candidate features, `candidate_row` and `candidate_log_q` of
      `num_uniform` further candidates that are negatives of the whole batch;
    * `own_negatives/<key>`: candidate features and `candidate_row` of negatives of single queries,
      `[batch, num_own, ...]`, row -1 where there is none;
    * `places/<history>` `[batch, 2]` int32, beside an ordered history of `[num_pasts, length]`: see
      `tfrs_twotower.features.dense.DenseFeatures`.

    `scorer`: what scores a pair of embeddings.
    """

    def __init__(
        self,
        query_tower: keras.Model,
        candidate_tower: keras.Model,
        task: RetrievalTask,
        scorer: Scorer = DOT_PRODUCT,
    ) -> None:
        """Joins the parts."""
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
    ) -> "TwoTowerModel":
        """Builds the model that a config describes.

        Its variables exist and have their initial values.

        Args:
            config: Features, towers and loss.
            num_rows: Rows of each feature's embedding table.
            statistics: Of the number features.
        """
        tables = embedding_tables(config, num_rows)
        query_tower = make_query_tower(config, tables, statistics)
        candidate_tower = CandidateTower(config, tables, statistics)
        queries = query_tower(one_entry(config.query_features))
        candidates = candidate_tower(one_entry(config.candidate_features))
        scorer: Scorer = DOT_PRODUCT
        if config.context_mode == "scoring_layer":
            scorer = ScoringLayer(config.towers.scoring_hidden_units, seed=config.training.seed)
            scorer(queries, candidates[:, tf.newaxis])
        task = RetrievalTask.from_config(config.loss, scorer)
        return cls(query_tower, candidate_tower, task, scorer)

    def compute_loss(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The retrieval loss of a batch; see the class."""
        query_embeddings = self.query_tower(inputs, training=training)
        # One call embeds all candidates: those of the examples, uniform and own negatives.
        candidate_embeddings = self.candidate_tower(_all_candidates(inputs), training=training)
        own_embeddings, is_own_negative = None, None
        own_rows = inputs.get(OWN + CANDIDATE_ROW)
        if own_rows is not None:
            num_shared = tf.shape(candidate_embeddings)[0] - tf.size(own_rows)
            own_embeddings = tf.reshape(
                candidate_embeddings[num_shared:],
                tf.concat([tf.shape(own_rows), tf.shape(candidate_embeddings)[1:]], 0),
            )
            candidate_embeddings = candidate_embeddings[:num_shared]
            is_own_negative = own_rows >= 0
        return self.task(
            query_embeddings,
            candidate_embeddings,
            candidate_ids=_with_uniform(inputs, CANDIDATE_ROW),
            candidate_log_q=_with_uniform(inputs, CANDIDATE_LOG_Q),
            known_positives=inputs.get(KNOWN_POSITIVES),
            own_negative_embeddings=own_embeddings,
            is_own_negative=is_own_negative,
            labels=inputs.get(LABEL),
            sample_weight=inputs[WEIGHT],
        )


def _with_uniform(inputs: Mapping[str, tf.Tensor], key: str) -> tf.Tensor | None:
    """The values of the examples' candidates, then those of the uniform negatives."""
    values = [inputs[prefix + key] for prefix in ("", UNIFORM) if prefix + key in inputs]
    return tf.concat(values, 0) if values else None


def _all_candidates(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Candidate features of the examples, the uniform negatives, and the own ones in a row."""
    candidates = {}
    for name, values in inputs.items():
        further = []
        if UNIFORM + name in inputs:
            further.append(inputs[UNIFORM + name])
        if OWN + name in inputs:
            own = inputs[OWN + name]
            further.append(tf.reshape(own, tf.concat([[-1], tf.shape(own)[2:]], 0)))
        candidates[name] = tf.concat([values, *further], 0) if further else values
    return candidates


def one_entry(features: Mapping[str, Feature]) -> dict[str, tf.Tensor]:
    """A batch of one entry; the first call makes a tower's variables."""
    specs = {name: encoded_spec(feature, name) for name, feature in features.items()}
    return {name: tf.zeros([1, *spec.shape[1:]], spec.dtype) for name, spec in specs.items()}
