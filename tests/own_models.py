"""Models of a user's own, as the README shows them; named by `towers.build` in tests."""

from collections.abc import Mapping

from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.data.training_batch import TrainingBatch
from tfrs_twotower.keras import keras, tf, tfrs
from tfrs_twotower.losses import RetrievalTask
from tfrs_twotower.models.towers import CandidateTower, embedding_tables
from tfrs_twotower.models.two_tower import TwoTowerModel


class IdTower(keras.Model):
    """One embedding, L2-normalised."""

    def __init__(self, feature: str, num_rows: int, name: str) -> None:
        super().__init__(name=name)
        self._feature = feature
        self._table = keras.layers.Embedding(num_rows, 8, name=feature)

    def call(self, encoded: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        return tf.math.l2_normalize(self._table(encoded[self._feature]), axis=1)


class OwnModel(tfrs.Model):
    """A whole `tfrs.Model`: two towers and the task."""

    def __init__(self, data: PreparedData) -> None:
        super().__init__()
        rows = data.num_rows()
        self.query_tower = IdTower("user_id", rows["user_id"], "query_tower")
        self.candidate_tower = IdTower("item_id", rows["item_id"], "candidate_tower")
        self.task = RetrievalTask.from_config(data.config.loss)

    def compute_loss(self, inputs: TrainingBatch, training: bool = False) -> tf.Tensor:
        return self.task(
            self.query_tower(inputs["query"], training=training),
            self.candidate_tower(inputs["candidate"], training=training),
            candidate_ids=inputs["candidate_row"],
            candidate_log_q=inputs["candidate_log_q"],
            known_positives=inputs["known_positives"],
            sample_weight=inputs["weight"],
        )


def own_query_tower(data: PreparedData) -> TwoTowerModel:
    """A query tower of one's own beside ours."""
    config, rows = data.config, data.num_rows()
    tables = embedding_tables(config, rows)
    candidate_tower = CandidateTower(config, tables, data.number_statistics)
    query_tower = IdTower("user_id", rows["user_id"], "query_tower")
    return TwoTowerModel(query_tower, candidate_tower, RetrievalTask.from_config(config.loss))


def no_model(data: PreparedData) -> str:
    return "nothing"


def one_tower(data: PreparedData) -> keras.Model:
    model = OwnModel(data)
    model.candidate_tower = None
    return model


def towers_of_two_widths(data: PreparedData) -> keras.Model:
    model = OwnModel(data)
    model.candidate_tower = keras.Sequential([model.candidate_tower, keras.layers.Dense(5)])
    return model


def flat_tower(data: PreparedData) -> keras.Model:
    model = OwnModel(data)
    model.query_tower = keras.Sequential(
        [model.query_tower, keras.layers.Lambda(lambda values: values[:, 0])]
    )
    return model
