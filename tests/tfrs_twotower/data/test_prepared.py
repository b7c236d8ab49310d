"""The prepared folder as training reads it, and the batches it makes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests import every_kind
from tests.prepared_folder import Example, write_prepared_folder
from tfrs_twotower.data.batches import steps_per_epoch, training_batches
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.keras import tf
from tfrs_twotower.schema import Config, UserError, dump_config, parse_config
from tfrs_twotower.schema.folders import MANIFEST, MARKER
from tfrs_twotower.schema.prepared import NumberStatistics

# Sorted by UTF-8 bytes: capitals before small letters before accents before other scripts.
QUERIES = ["Bob", "ann", "eve"]
CANDIDATES = ["B", "a", "b", "é", "東"]
PRICES = {"B": 5.0, "a": 1.0, "b": 2.0, "é": 3.0, "東": 4.0}


def config(extra: str = "") -> Config:
    return parse_config(
        "columns: {timestamp: ts}\n"
        "features:\n"
        "  query: {user: {kind: id}, recent: {kind: history, length: 2}}\n"
        "  candidate: {item: {kind: id, oov_buckets: 2}, price: {kind: number}}\n" + extra,
        "test.yaml",
    )


def event(query: str, candidate: str, time: int, **values: object) -> Example:
    encoded = {"user": 2 + QUERIES.index(query), "recent": [time, 0]}
    return Example(query, candidate, encoded, time, **values)


TRAIN = [
    event("ann", "b", 3, weight=0.5),
    event("Bob", "é", 1),
    event("ann", "a", 2, weight=2.0),
    event("ann", "é", 2**40),
    event("eve", "B", 5, label=0),
    event("ann", "b", 7),
]


def write(folder, config):
    return write_prepared_folder(
        folder,
        config,
        vocabularies={"user": QUERIES, "item": CANDIDATES},
        # Neither in the order of rows.
        candidates={
            name: {"item": 3 + CANDIDATES.index(name), "price": PRICES[name]}
            for name in ("東", "b", "B", "é", "a")
        },
        examples={"train": TRAIN, "test": [event("eve", "東", 9)]},
        numbers={"price": {**every_kind.STATISTICS, "mean": 3.0}},
        shards=3,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "prepared", config())


@pytest.fixture(scope="module")
def data(folder):
    return PreparedData(folder, config())


# --- reading --------------------------------------------------------------------------------


def test_the_corpus_stands_in_the_order_of_ids_whatever_the_order_of_records(data):
    corpus = data.corpus()

    assert corpus.candidate_ids.tolist() == CANDIDATES
    assert corpus.features["price"].tolist() == [5.0, 1.0, 2.0, 3.0, 4.0]
    assert corpus.features["item"].tolist() == [3, 4, 5, 6, 7]
    assert len(corpus) == 5


def test_train_counts_are_those_of_the_positives(data):
    assert data.corpus().train_counts.tolist() == [0, 1, 2, 2, 0]


def test_log_q_is_the_log_of_the_share_and_half_a_positive_where_there_is_none(data):
    expected = np.log([0.5 / 5, 1 / 5, 2 / 5, 2 / 5, 0.5 / 5])

    np.testing.assert_allclose(data.corpus().log_q, expected, rtol=1e-6)


def test_examples_of_every_shard_are_read_whole(data):
    examples = data.examples("train")

    read = sorted(
        zip(
            examples["query_row"].tolist(),
            examples["candidate_row"].tolist(),
            examples["timestamp_s"].tolist(),  # beyond 32 bits
            examples["label"].tolist(),
            examples["weight"].tolist(),
            examples["user"].tolist(),
            examples["recent"].tolist(),
            strict=True,
        )
    )

    assert [row[:5] for row in read] == [
        (0, 3, 1, 1, 1.0),
        (1, 1, 2, 1, 2.0),
        (1, 2, 3, 1, 0.5),
        (1, 2, 7, 1, 1.0),
        (1, 3, 2**40, 1, 1.0),
        (2, 0, 5, 0, 1.0),
    ]
    assert read[0][5:] == (2, [1, 0])
    assert read[2][5:] == (3, [3, 0])


def test_events_are_the_examples_without_features(data):
    events, examples = data.events("train"), data.examples("train")

    assert set(examples) - set(events) == {"user", "recent"}
    for name, values in events.items():
        np.testing.assert_array_equal(values, examples[name])


def test_a_split_without_examples_has_arrays_of_no_entries(data):
    examples = data.examples("validation")

    assert {name: len(values) for name, values in examples.items()} == dict.fromkeys(examples, 0)
    assert examples["recent"].shape == (0, 2)
    assert set(examples) == set(data.examples("train"))


def test_query_ids_stand_in_the_order_of_rows(data):
    assert data.query_ids().tolist() == QUERIES


def test_known_positives_are_the_train_positives_of_each_query(data):
    query_rows, candidate_rows = data.known_positives()

    assert query_rows.tolist() == [0, 1, 1, 1]
    assert candidate_rows.tolist() == [3, 1, 2, 3]


def test_tables_have_a_row_for_padding_each_bucket_and_each_token(data):
    assert data.num_rows() == {"user": 1 + 1 + 3, "item": 1 + 2 + 5}


def test_statistics_of_numbers_are_read_by_name(data):
    assert data.number_statistics == {
        "price": NumberStatistics(
            num_values=10,
            mean=3.0,
            variance=4.0,
            log_mean=1.0,
            log_variance=0.5,
            quantiles=[float(tenth) for tenth in range(11)],
        )
    }


def test_every_kind_of_feature_is_read(tmp_path):
    config = every_kind.config()
    data = PreparedData(every_kind.write_prepared(tmp_path / "prepared", config), config)

    examples, corpus = data.examples("train"), data.corpus()

    encoded = {**data.query_encoder().encoded_specs, **data.candidate_encoder().encoded_specs}
    for name, values in {**examples, **corpus.features}.items():
        if name in encoded:
            assert list(values.shape[1:]) == encoded[name].shape[1:].as_list()
    assert set(encoded) <= {*examples, *corpus.features}


# --- refusals -------------------------------------------------------------------------------


def test_a_folder_of_another_schema_is_refused_with_the_first_differences(folder):
    other = parse_config(
        "columns: {timestamp: time}\n"
        "features:\n"
        "  query: {user: {kind: id}, recent: {kind: history, length: 9}}\n"
        "  candidate: {item: {kind: id, oov_buckets: 2}, price: {kind: number}}\n",
        "test.yaml",
    )

    with pytest.raises(UserError) as caught:
        PreparedData(folder, other)

    message = str(caught.value)
    assert "columns.timestamp: 'ts' in the folder, 'time' in the config" in message
    assert "features.query.recent.length: 2 in the folder, 9 in the config" in message
    assert "Prepare the data with this config (`twotower prepare`)" in message
    assert len(message.splitlines()) <= 2


def test_many_differences_are_not_all_told(folder):
    with pytest.raises(UserError, match="; and [0-9]+ more"):
        PreparedData(folder, every_kind.config())


def test_settings_that_the_records_do_not_depend_on_are_no_difference(folder):
    PreparedData(folder, config("towers: {embedding_dim: 99}\ntraining: {epochs: 3}\n"))


def test_a_folder_of_a_later_format_is_refused(tmp_path):
    later = write(tmp_path / "prepared", config())
    manifest = json.loads((later / MANIFEST).read_text())
    (later / MANIFEST).write_text(json.dumps(manifest | {"format": 99}))

    with pytest.raises(UserError, match="has format 99, this version reads format 2: prepare the"):
        PreparedData(later, config())


def test_an_unfinished_folder_is_refused(tmp_path):
    killed = write(tmp_path / "prepared", config())
    (killed / MANIFEST).unlink()
    (killed / MARKER).touch()

    with pytest.raises(UserError, match="is unfinished: make it with `twotower prepare"):
        PreparedData(killed, config())


# --- batches --------------------------------------------------------------------------------


def tensors_of(folder, config, epochs=range(1)):
    data = PreparedData(folder, config)
    return list(training_batches(data.examples("train"), data.corpus(), config, epochs))


def batches_of(folder, config, epochs=range(1)):
    """Batches with the features of both sides beside the other keys."""
    flat = (
        {**batch, **batch["query"], **batch["candidate"]}
        for batch in tensors_of(folder, config, epochs)
    )
    return [
        {name: values.numpy() for name, values in batch.items() if not isinstance(values, dict)}
        for batch in flat
    ]


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    return every_kind.write_prepared(
        tmp_path_factory.mktemp("data") / "prepared", every_kind.config()
    )


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        # 362,000 / 1,000 is nearer to 256 than to 512, as powers of two go; 363,000 is not.
        pytest.param([], 256, id="positives"),
        pytest.param(["loss.kind=bce"], 512, id="labelled-pairs"),
        pytest.param(["training.batch_size=100"], 100, id="stated"),
    ],
)
def test_the_batch_size_follows_from_the_examples_of_train(larger, tmp_path, settings, size):
    folder = Path(shutil.copytree(larger, tmp_path / "prepared"))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["counts"]["examples"] = {
        "train": {"positives": 362_000, "negatives": 1_000},
        "validation": {"positives": 100_000, "negatives": 0},
        "test": {"positives": 0, "negatives": 0},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest))
    left_out = every_kind.config(batch_size="null")
    data = PreparedData(folder, parse_config(dump_config(left_out), "test.yaml", settings))

    assert data.config.training.batch_size == data.batch_size == size
    assert data.with_validation_in_training().batch_size == size


def test_an_epoch_shows_no_positive_twice_and_leaves_out_less_than_a_batch(folder):
    batches = batches_of(folder, config("training: {batch_size: 2}"), range(20))

    # Five positives: two batches of two an epoch, and another one left out each time.
    assert len(batches) == 20 * 2
    shown = [
        [*zip(batch["user"], batch["candidate_row"], batch["weight"], strict=True)]
        for batch in batches
    ]
    epochs = [set(first + second) for first, second in zip(shown[::2], shown[1::2], strict=True)]
    assert {len(epoch) for epoch in epochs} == {4}
    assert len(set.union(*epochs)) == 5


def test_each_positive_is_shown_once_an_epoch_with_its_own_weight(folder):
    (batch,) = batches_of(folder, config("training: {batch_size: 5}"))

    shown = sorted(
        zip(
            batch["user"].tolist(),
            batch["candidate_row"].tolist(),
            batch["weight"].tolist(),
            strict=True,
        )
    )

    # The five positives; eve's explicit negative is not among them.
    assert shown == [(2, 3, 1.0), (3, 1, 2.0), (3, 2, 0.5), (3, 2, 1.0), (3, 3, 1.0)]


def test_candidate_features_are_those_of_the_candidate_of_the_row(folder):
    (batch,) = batches_of(folder, config("training: {batch_size: 5}"))

    names = [CANDIDATES[row] for row in batch["candidate_row"]]
    assert batch["price"].tolist() == [PRICES[name] for name in names]
    assert batch["item"].tolist() == [3 + CANDIDATES.index(name) for name in names]


def test_log_q_is_that_of_the_candidate_and_there_only_where_it_is_asked_for(folder):
    (batch,) = batches_of(folder, config("training: {batch_size: 5}"))

    share = {"a": 1 / 5, "b": 2 / 5, "é": 2 / 5}
    expected = [np.log(share[CANDIDATES[row]]) for row in batch["candidate_row"]]
    np.testing.assert_allclose(batch["candidate_log_q"], expected, rtol=1e-6)
    (without,) = batches_of(folder, config("loss: {logq_correction: false}"))
    assert "candidate_log_q" not in without


def test_fewer_examples_than_a_batch_are_one_batch(folder):
    (batch,) = batches_of(folder, config("training: {batch_size: 1000}"))

    assert len(batch["weight"]) == 5


def test_epochs_have_orders_of_their_own(folder):
    epochs = batches_of(folder, config("training: {batch_size: 5}"), range(20))

    orders = {tuple(batch["weight"]) for batch in epochs}

    assert len(orders) > 5


def test_the_order_is_decided_by_the_seed(folder):
    def weights(seed):
        text = f"training: {{batch_size: 5, seed: {seed}}}"
        return [batch["weight"].tolist() for batch in batches_of(folder, config(text), range(6))]

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


def test_a_resumed_training_sees_the_batches_that_an_uninterrupted_one_sees(larger):
    config = every_kind.config()

    whole = tensors_of(larger, config, range(4))
    resumed = tensors_of(larger, config, range(2, 4))

    later = whole[len(whole) // 2 :]
    assert len(resumed) == len(later)
    for expected, batch in zip(later, resumed, strict=True):
        flat = [tf.nest.flatten(tensors, expand_composites=True) for tensors in (batch, expected)]
        assert list(batch) == list(expected)
        for one, other in zip(*flat, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_share_of_the_ids_is_replaced_by_an_unknown_one(larger):
    batches = batches_of(larger, every_kind.config(), range(40))

    for name, share in (("user", 0.2), ("item", 0.1)):
        rows = np.concatenate([batch[name] for batch in batches])
        # Standard error: sqrt(0.2 * 0.8 / 4800) = 0.006.
        assert np.mean(rows == 1) == pytest.approx(share, abs=0.03)


def test_an_id_that_is_not_replaced_is_the_examples_own(larger):
    ids = PreparedData(larger, every_kind.config()).corpus().candidate_ids
    vocabulary_row = np.array([2 + int(name.removeprefix("item-")) for name in ids])

    for batch in batches_of(larger, every_kind.config()):
        kept = batch["item"] != 1
        assert (batch["item"] == vocabulary_row[batch["candidate_row"]])[kept].all()
        assert 0 < kept.mean() < 1


def test_the_two_towers_lose_ids_independently_and_anew_in_each_step(larger):
    batches = batches_of(larger, every_kind.config(), range(40))
    users = np.concatenate([batch["user"] == 1 for batch in batches])
    items = np.concatenate([batch["item"] == 1 for batch in batches])

    # 0.2 * 0.1 of 4,800 examples lose both: standard error 0.002.
    assert np.mean(users & items) == pytest.approx(0.02, abs=0.01)
    masks = {(batch["user"] == 1).tobytes() for batch in batches}
    assert len(masks) > len(batches) * 0.9


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "steps"), [(10, 3, 3), (9, 3, 3), (2, 3, 1), (3, 3, 1)]
)
def test_an_epoch_has_whole_batches_and_at_least_one(num_examples, batch_size, steps):
    assert steps_per_epoch(num_examples, batch_size) == steps
