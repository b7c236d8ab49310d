"""The two-tower model: two towers and the retrieval task."""

from collections.abc import Mapping

from tfrs_twotower.encoding import encoded_spec
from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.features import Feature
from tfrs_twotower.schema.prepared import CANDIDATE_ROW, WEIGHT, NumberStatistics
from tfrs_twotower.task import RetrievalTask
from tfrs_twotower.towers import CandidateTower, QueryTower, embedding_tables

CANDIDATE_LOG_Q = "candidate_log_q"


class TwoTowerModel(tfrs.Model):
    """A query tower, a candidate tower, and the loss that draws them together.

    A training batch is one flat mapping (`tfrs_twotower.data.training_batches`): the encoded
    features of both sides, `candidate_row` `[batch]` int32, `weight` `[batch]` float32 and, for
    the logQ correction, `candidate_log_q` `[batch]` float32.
    """

    def __init__(
        self, query_tower: keras.Model, candidate_tower: keras.Model, task: RetrievalTask
    ) -> None:
        """Joins the parts."""
        super().__init__()
        self.query_tower = query_tower
        self.candidate_tower = candidate_tower
        self.task = task

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
        query_tower = QueryTower(config, tables, statistics)
        candidate_tower = CandidateTower(config, tables, statistics)
        query_tower(_one_entry(config.query_features))
        candidate_tower(_one_entry(config.candidate_features))
        task = RetrievalTask(
            temperature=config.loss.temperature,
            mask_accidental_hits=config.loss.mask_accidental_hits,
        )
        return cls(query_tower, candidate_tower, task)

    def compute_loss(self, inputs: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The retrieval loss of a batch; see the class."""
        return self.task(
            self.query_tower(inputs, training=training),
            self.candidate_tower(inputs, training=training),
            candidate_ids=inputs[CANDIDATE_ROW],
            candidate_log_q=inputs.get(CANDIDATE_LOG_Q),
            sample_weight=inputs[WEIGHT],
        )


def _one_entry(features: Mapping[str, Feature]) -> dict[str, tf.Tensor]:
    """A batch of one entry; the first call makes a tower's variables."""
    specs = {name: encoded_spec(feature, name) for name, feature in features.items()}
    return {name: tf.zeros([1, *spec.shape[1:]], spec.dtype) for name, spec in specs.items()}
