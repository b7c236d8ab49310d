"""n replicas with a share of the batch each do what one device does with the whole batch."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

SCRIPT = textwrap.dedent(
    """
    import json, sys
    from tfrs_twotower.keras import keras, tf
    import numpy as np
    from tfrs_twotower.schema.loss import Loss
    from tfrs_twotower.losses import RetrievalTask

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    BATCH, NUM_UNIFORM, DIM, OWN = 8, 4, 3, 2
    rng = np.random.default_rng(0)
    queries = rng.normal(size=[BATCH, DIM]).astype("float32")
    positives = rng.normal(size=[BATCH, DIM]).astype("float32")
    uniform = rng.normal(size=[NUM_UNIFORM, DIM]).astype("float32")
    own = rng.normal(size=[BATCH, OWN, DIM]).astype("float32")
    batch = {
        "weight": rng.uniform(0.5, 2.0, BATCH).astype("float32"),
        "rows": np.array([4, 1, 4, 0, 5, 1, 9, 2], "int32"),
        "uniform_rows": np.array([1, 7, 0, 3], "int32"),
        "known": tf.ragged.constant(
            [[1, 4], [1], [4], [0, 9], [5], [1, 3], [9], [2]], dtype=tf.int32
        ),
        "log_q": np.log(rng.uniform(0.01, 0.3, BATCH)).astype("float32"),
        "uniform_log_q": np.log(rng.uniform(0.01, 0.3, NUM_UNIFORM)).astype("float32"),
        "is_own": rng.uniform(size=[BATCH, OWN]) < 0.7,
        "labels": np.array([1, 0, 1, 1, 0, 1, 1, 1], "int32"),
        "position": np.arange(BATCH),
        "uniform_position": np.arange(NUM_UNIFORM),
    }

    def differentiated(settings, strategy, num_replicas):
        with strategy.scope():
            tables = [tf.Variable(t) for t in (queries, positives, uniform, own)]
            task = RetrievalTask.from_config(Loss(**settings))
            trained = [*tables, *task.trainable_variables]

        def step(share):
            with tf.GradientTape() as tape:
                at, uniform_at = share["position"], share["uniform_position"]
                loss = task(
                    tf.gather(tables[0], at),
                    tf.concat([tf.gather(tables[1], at), tf.gather(tables[2], uniform_at)], 0),
                    candidate_ids=tf.concat([share["rows"], share["uniform_rows"]], 0),
                    candidate_log_q=tf.concat([share["log_q"], share["uniform_log_q"]], 0),
                    known_positives=share["known"],
                    own_negative_embeddings=tf.gather(tables[3], at),
                    is_own_negative=share["is_own"],
                    labels=share["labels"],
                    sample_weight=share["weight"],
                )
            gradients = tape.gradient(loss, trained, unconnected_gradients="zero")
            return loss, [tf.convert_to_tensor(g) for g in gradients]

        def parts(name, replica):
            values = batch[name]
            size = len(values) // num_replicas if name != "known" else BATCH // num_replicas
            return values[replica * size : (replica + 1) * size]

        share = strategy.experimental_distribute_values_from_function(
            lambda context: {
                name: tf.convert_to_tensor(parts(name, context.replica_id_in_sync_group))
                if name != "known"
                else parts(name, context.replica_id_in_sync_group)
                for name in batch
            }
        )
        loss, gradients = tf.function(lambda s: strategy.run(step, args=(s,)))(share)
        losses = strategy.experimental_local_results(loss)
        return {
            "losses": [float(l) for l in losses],
            # Optimizers sum the gradients of replicas.
            "gradients": [
                strategy.reduce("SUM", g, axis=None).numpy().tolist() for g in gradients
            ],
        }

    one, two = tf.distribute.OneDeviceStrategy("CPU:0"), tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"]
    )
    results = {
        kind: [differentiated(settings, one, 1), differentiated(settings, two, 2)]
        for kind, settings in json.loads(sys.argv[1]).items()
    }
    print("RESULT", json.dumps(results))
    """
)

KINDS = {
    "softmax": {"temperature": 0.5, "learn_temperature": True},
    "uniform negatives alone": {"in_batch_negatives": False, "uniform_negatives": 4},
    "hard negatives": {"hard_negatives": 3},
    "margin": {"kind": "margin"},
    "bpr on hard negatives": {"kind": "bpr", "hard_negatives": 2},
    "bce": {"kind": "bce"},
}


@pytest.fixture(scope="module")
def results():
    """By kind, loss and gradients on one device and on two; devices are set before TensorFlow."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(KINDS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_devices_with_half_a_batch_equal_one_with_the_whole(results, kind):
    one, two = results[kind]

    # Each replica reports the loss of the global batch.
    np.testing.assert_allclose(two["losses"], one["losses"] * 2, rtol=1e-5)
    for share, whole in zip(two["gradients"], one["gradients"], strict=True):
        np.testing.assert_allclose(share, whole, atol=1e-5)
    # Queries and positives have a gradient, and what else the kind learns from.
    moved = [np.abs(whole).max() > 1e-3 for whole in one["gradients"]]
    assert moved[:2] == [True, True]
    assert sum(moved) >= 3
