"""The pieces as a library: your own `tfrs.Model`, `tf.data` and Keras towers, no config of ours.

    python examples/your_own_model.py FOLDER

A made-up log of 400 users and 600 items of six kinds, in which a user likes one kind. A plain
`tfrs.Model` learns it with our retrieval task; the corpus is ranked; an index is tuned and its
recall confirmed; the query tower and the index become a model that TensorFlow Serving answers with.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import tfrs_twotower as tt
from tfrs_twotower.keras import keras, tf, tfrs

NUM_USERS, NUM_ITEMS, NUM_KINDS, NUM_EVENTS = 400, 600, 6, 20_000
DIMENSION, TARGET_RECALL = 16, 0.9
USERS = [f"u{number:03}" for number in range(NUM_USERS)]
ITEMS = [f"i{number:03}" for number in range(NUM_ITEMS)]  # Sorted, as an index wants its ids.


class Tower(keras.Model):
    """Ids -> embeddings of length 1."""

    def __init__(self, ids: list[str], feature: str) -> None:
        """Embeds the ids of one feature; one row more is for unknown ids."""
        super().__init__()
        self._feature = feature
        self._row_of = keras.layers.StringLookup(vocabulary=ids)
        self._table = keras.layers.Embedding(len(ids) + 1, DIMENSION)

    def call(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """`[batch, DIMENSION]` float32."""
        return tf.math.l2_normalize(self._table(self._row_of(inputs[self._feature])), axis=-1)


class PlainModel(tfrs.Model):
    """Two towers of yours, with our retrieval task in the place of `tfrs.tasks.Retrieval`."""

    def __init__(self, log_q: np.ndarray) -> None:
        """Corrects for popularity by `log_q`, `[NUM_ITEMS]` float32 log shares of the log."""
        super().__init__()
        self.user_tower, self.item_tower = Tower(USERS, "user"), Tower(ITEMS, "item")
        self._task = tt.RetrievalTask(temperature=0.1, logq_correction=True, mask="accidental_hits")
        self._log_q = tf.constant(log_q)

    def compute_loss(self, features: Mapping[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """The mean in-batch softmax loss."""
        return self._task(
            self.user_tower(features),
            self.item_tower(features),
            candidate_ids=features["item_row"],
            candidate_log_q=tf.gather(self._log_q, features["item_row"]),
        )


def make_log(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of events: seven in eight are of the kind that the user likes."""
    draw = np.random.default_rng(seed)
    users = draw.integers(0, NUM_USERS, NUM_EVENTS)
    liked = NUM_KINDS * draw.integers(0, NUM_ITEMS // NUM_KINDS, NUM_EVENTS) + users % NUM_KINDS
    others = draw.integers(0, NUM_ITEMS, NUM_EVENTS)
    return users, np.where(draw.random(NUM_EVENTS) < 7 / 8, liked, others)


def train(users: np.ndarray, items: np.ndarray) -> PlainModel:
    """Keras' own `fit` over a `tf.data.Dataset` of your making."""
    keras.utils.set_random_seed(1)
    counts = np.bincount(items, minlength=NUM_ITEMS)
    model = PlainModel(np.log(np.maximum(counts, 0.5) / counts.sum()).astype(np.float32))
    events = {"user": np.array(USERS)[users], "item": np.array(ITEMS)[items], "item_row": items}
    batches = tf.data.Dataset.from_tensor_slices(events).shuffle(NUM_EVENTS, seed=1).batch(500)
    model.compile(optimizer=keras.optimizers.Adam(0.02))
    model.fit(batches, epochs=8, verbose=0)
    return model


def main(folder: Path) -> None:
    """Trains, ranks, tunes an index and exports; prints what each step found."""
    users, items = make_log()
    num_train = NUM_EVENTS * 9 // 10
    model = train(users[:num_train], items[:num_train])
    queries = model.user_tower({"user": tf.constant(USERS)}).numpy()
    candidates = model.item_tower({"item": tf.constant(ITEMS)}).numpy()

    def rows_by_user(events: slice) -> list[set[int]]:
        return [set(items[events][users[events] == user].tolist()) for user in range(NUM_USERS)]

    known, later = rows_by_user(slice(num_train)), rows_by_user(slice(num_train, None))
    new = [sorted(after - before) for before, after in zip(known, later, strict=True)]
    ranking = tt.rank_corpus(
        queries, candidates, positives=new, exclude=[sorted(rows) for rows in known], k=100
    )
    found = ranking.metrics(["recall_at_100"])["recall_at_100"]
    by_chance = np.mean([100 / (NUM_ITEMS - len(rows)) for rows in known])
    print(f"recall@100 {found:.4f}, by chance {by_chance:.4f}")

    to_tune, to_confirm = tt.index.split_queries(queries, target_recall=TARGET_RECALL)
    index, tuning = tt.index.tune(candidates, to_tune, target_recall=TARGET_RECALL, at=20)
    print(tt.index.promise_recall(index, tuning, to_confirm))

    inputs = {"user": tf.TensorSpec([None], tf.string)}
    tt.export_retriever(model.user_tower, ITEMS, index, folder / "retrieval" / "1", inputs=inputs)
    print(f"serve it: twotower serve --model_name=retrieval --model_base_path={folder}/retrieval")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where to write the models")
    main(parser.parse_args().folder)
