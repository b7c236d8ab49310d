"""A later model begins with what an earlier one knew, by token and not by row."""

import json

import numpy as np
import pytest

from tests import every_kind, own_models, tiny_world
from tests.prepared_folder import Example, write_prepared_folder
from tfrs_twotower.cli import main
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.keras import tf
from tfrs_twotower.models.run_folder import build_model, load_run
from tfrs_twotower.schema import UsageError, UserError, dump_config, parse_config
from tfrs_twotower.training.train import train
from tfrs_twotower.training.warm_start import (
    VocabularyChanges,
    carry_over,
    earlier_run,
    reordered_rows,
)

# Each test trains twice.
pytestmark = pytest.mark.slow

CONFIG_TEXT = """\
columns: {query_id: user, candidate_id: item}
split: {by: column}
features:
  query: {user: {kind: id, dropout: 0.3, oov_buckets: 2}}
  candidate:
    item: {kind: id, dropout: 0.3}
    language: {kind: categorical}
    title: {kind: text, buckets: 8, max_length: 2}
towers:
  embedding_dim: 4
  candidate: {hidden_units: [5]}
training: {epochs: 2, batch_size: 8, learning_rate: 0.05, seed: 3}
"""
CONFIG_TEXT = CONFIG_TEXT.replace("candidate_id: item}", "candidate_id: item, split: split}")


def config(*overrides: str):
    return parse_config(CONFIG_TEXT, "warm start", overrides)


def write_data(folder, users, items, languages, settings=None):
    """A folder whose vocabularies have the given tokens, in the given order."""
    return write_prepared_folder(
        folder,
        settings or config(),
        vocabularies={"user": users, "item": items, "language": languages},
        candidates={
            item: {
                "item": 2 + row,
                "language": 2 + row % len(languages),
                "title": [1 + row % 8, 0],
            }
            for row, item in enumerate(items)
        },
        examples={
            "train": [
                Example(user, item, {"user": 3 + row})
                for row, user in enumerate(users)
                for item in items[row % 2 :: 2]
            ]
        },
    )


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A trained run of four users and five items."""
    folder = tmp_path_factory.mktemp("earlier")
    data = write_data(folder / "data", ["u1", "u2", "u3", "u4"], list("abcde"), ["en", "fr"])
    train(config(), data, folder / "run")
    return folder


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """A day on: "u2" and "d" are gone, others are new, and the order is another."""
    folder = tmp_path_factory.mktemp("later") / "data"
    return write_data(folder, ["u9", "u4", "u1", "u3"], list("xeacby"), ["fr", "de", "en"])


def rows_of(table: np.ndarray, first: int, tokens: list[str]) -> dict[str, list[float]]:
    return dict(zip(tokens, table[first:].tolist(), strict=True))


# --- rows -----------------------------------------------------------------------------------


def test_rows_follow_their_tokens():
    old = np.array([[0.0], [0.0], [1.0], [2.0], [3.0]], np.float32)
    fresh = np.array([[0.0], [0.0], [70.0], [80.0], [90.0]], np.float32)

    table, changes = reordered_rows(old, fresh, [b"a", b"b", b"c"], [b"c", b"new", b"a"], 1)

    # Padding and the unknown row stay; the unknown row is untrained: "new" gets its fresh row.
    assert table[:, 0].tolist() == [0.0, 0.0, 3.0, 80.0, 1.0]
    assert changes == VocabularyChanges(kept=2, new=1, dropped=1)


def test_a_new_token_begins_where_it_was_looked_up_before():
    old = np.array([[0.0], [5.0], [6.0], [7.0], [1.0]], np.float32)
    fresh = np.full([6, 1], 99.0, np.float32)
    bucket = int(tf.strings.to_hash_bucket_fast(["new"], 3)[0])

    table, _ = reordered_rows(old, fresh, [b"a"], [b"new", b"a"], 3)

    assert table[:, 0].tolist() == [0.0, 5.0, 6.0, 7.0, [5.0, 6.0, 7.0][bucket], 1.0]


@pytest.mark.parametrize(("old_tokens", "new_tokens"), [([], [b"a"]), ([b"a"], []), ([], [])])
def test_an_empty_vocabulary_is_one_too(old_tokens, new_tokens):
    old, fresh = (np.ones([2 + len(tokens), 3], np.float32) for tokens in (old_tokens, new_tokens))

    table, changes = reordered_rows(old, fresh, old_tokens, new_tokens, 1)

    assert table.shape == fresh.shape
    assert changes == VocabularyChanges(0, len(new_tokens), len(old_tokens))


# --- models ---------------------------------------------------------------------------------


def test_each_vocabulary_is_carried_over_and_counted(earlier, later):
    data = PreparedData(later, config())
    model = build_model(data)

    changes = carry_over(earlier_run(earlier / "run", config()), model, data)

    assert changes == {
        "user": VocabularyChanges(kept=3, new=1, dropped=1),
        "item": VocabularyChanges(kept=4, new=2, dropped=1),
        "language": VocabularyChanges(kept=2, new=1, dropped=0),
    }


def test_candidates_and_queries_that_stayed_are_embedded_as_before(earlier, later):
    """Other rows, same tokens: what the earlier model said of them it still says."""
    loaded = load_run(earlier / "run", earlier / "data")
    data = PreparedData(later, config())
    model = build_model(data)

    carry_over(earlier_run(earlier / "run", config()), model, data)

    def embedded(model, encoder, raw, tower):
        return tower({name: values.numpy() for name, values in encoder(raw).items()}).numpy()

    raw = {
        "item": tf.constant(["a", "b", "c", "e", "x", "y", "never seen"]),
        "language": tf.constant(["en", "fr", "en", "", "fr", "en", "en"]),
        "title": tf.constant(["one", "two", "", "two one", "one", "three", "one"]),
    }
    before = embedded(
        loaded.model, loaded.data.candidate_encoder(), raw, loaded.model.candidate_tower
    )
    after = embedded(model, data.candidate_encoder(), raw, model.candidate_tower)
    np.testing.assert_allclose(after, before, atol=1e-6)
    raw = {"user": tf.constant(["u1", "u3", "u4", "u9", "never seen", ""])}
    before = embedded(loaded.model, loaded.data.query_encoder(), raw, loaded.model.query_tower)
    after = embedded(model, data.query_encoder(), raw, model.query_tower)
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_a_categorical_token_without_a_past_begins_with_a_fresh_row(earlier, later):
    data = PreparedData(later, config())
    model, fresh = build_model(data), build_model(data)

    carry_over(earlier_run(earlier / "run", config()), model, data)

    def row_of_de(model):
        table = next(v for v in model.variables if "language" in v.name)
        return table.numpy()[2 + ["fr", "de", "en"].index("de")]

    np.testing.assert_array_equal(row_of_de(model), row_of_de(fresh))
    assert row_of_de(model).any()


def test_a_warm_start_on_the_same_data_begins_with_the_same_model(tmp_path):
    """Every kind of feature, dropout included."""
    settings = every_kind.config(epochs=1)
    prepared = every_kind.write_prepared(tmp_path / "data", settings)
    train(settings, prepared, tmp_path / "run")
    loaded = load_run(tmp_path / "run", prepared)
    model = build_model(loaded.data)

    changes = carry_over(earlier_run(tmp_path / "run", settings), model, loaded.data)

    assert all(of_feature.new == of_feature.dropped == 0 for of_feature in changes.values())
    for old, new in zip(loaded.model.variables, model.variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_training_goes_on_from_the_weights_it_is_given(tmp_path):
    """One epoch cannot learn the planted world from nothing, twenty epochs ago can."""
    settings = tiny_world.config(metric="mrr", patience=20)
    prepared = tiny_world.write_prepared(tmp_path / "data", settings, held_out="validation")
    train(settings, prepared, tmp_path / "run")
    short = tiny_world.config(epochs=1, learning_rate=0.0001)

    cold = train(short, prepared, tmp_path / "cold")
    warm = train(short, prepared, tmp_path / "warm", warm_start=tmp_path / "run")

    of = {"cold": cold, "warm": warm}
    mrr = {name: run.validation.systems["model"]["all"]["mrr"] for name, run in of.items()}
    assert mrr["warm"] == 1.0
    assert mrr["cold"] < 0.9
    assert cold.vocabulary_changes == {}
    assert warm.vocabulary_changes["user_id"] == VocabularyChanges(tiny_world.SIZE, 0, 0)
    kept = json.loads((tmp_path / "warm" / "metrics.json").read_text())["moved"]
    assert kept["user_id"] == {"kept": tiny_world.SIZE, "new": 0, "dropped": 0}


def test_a_dry_run_refuses_a_warm_start_that_could_not_be(tmp_path, capsys):
    path = tmp_path / "twotower.yaml"
    path.write_text(tiny_world.CONFIG_TEXT, encoding="utf-8")
    words = ["train", "--config", str(path), "--data", "data", "--output", "run", "--dry_run"]

    code = main([*words, "--warm_start", str(tmp_path / "nowhere")])

    assert code == 1
    assert str(tmp_path / "nowhere") in capsys.readouterr().err.replace("\n", "")


def test_weights_correspond_by_path_and_not_by_order_of_creation(tmp_path, monkeypatch):
    """The same model whose towers were made the other way round, as a refactored one may be."""
    settings = tiny_world.config(epochs=1)
    prepared = tiny_world.write_prepared(tmp_path / "data", settings)
    build = f"towers.build={own_models.__name__}:OwnModel"
    own = parse_config(tiny_world.CONFIG_TEXT, "own", [build, "training.epochs=1"])
    train(own, prepared, tmp_path / "run")
    trained = load_run(tmp_path / "run", prepared)
    original = own_models.OwnModel

    class OtherWayRound(original):
        def __init__(self, data):
            super(original, self).__init__()
            rows = data.num_rows()
            # Two tables of one shape: only their paths tell them apart.
            self.candidate_tower = own_models.IdTower("item_id", rows["item_id"], "candidate_tower")
            self.query_tower = own_models.IdTower("user_id", rows["user_id"], "query_tower")

    monkeypatch.setattr(own_models, "OwnModel", OtherWayRound)
    model = build_model(trained.data)
    monkeypatch.undo()
    assert ["user_id" in old.name for old in trained.model.variables] == [
        "item_id" in new.name for new in model.variables
    ]

    carry_over(earlier_run(tmp_path / "run", own), model, trained.data)

    for side in ("query_tower", "candidate_tower"):
        [old], [new] = (getattr(each, side).variables for each in (trained.model, model))
        np.testing.assert_array_equal(old, new)


# --- refusals -------------------------------------------------------------------------------


def test_a_run_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match="no folder .*: make it with `twotower train`"):
        earlier_run(tmp_path / "absent", config())


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("towers.embedding_dim=8", "towers.embedding_dim: 4 there, 8 here"),
        ("features.candidate.price={kind: number}", "features.candidate.price"),
        ("features.query.user.oov_buckets=1", "features.query.user.oov_buckets: 2 there, 1 here"),
        ("loss.learn_temperature=true", "learns_temperature"),
        (
            "features.candidate={language: {kind: categorical}, item: {kind: id, dropout: 0.3}, "
            "title: {kind: text, buckets: 8, max_length: 2}}",
            "order_of_features.candidate: ['item', 'language', 'title'] there, "
            "['language', 'item', 'title'] here",
        ),
    ],
)
def test_another_model_is_refused_naming_the_difference(earlier, override, told):
    with pytest.raises(UsageError, match="has another model") as caught:
        earlier_run(earlier / "run", config(override))

    assert told in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "training.learning_rate=0.5",
        "loss.temperature=0.2",
        "features.query.user.dropout=0.0",
        "towers.query.dropout=0.5",
        "towers.candidate.dropout=0.5",
        "towers.query.input_dropout=0.5",
        "towers.candidate.input_dropout=0.5",
    ],
)
def test_what_does_not_change_the_weights_may_change(earlier, override):
    earlier_run(earlier / "run", config(override))


def test_dropout_of_the_context_tower_may_change_too(tmp_path):
    """Of all settings of the three towers and of an encoder with dropout of its own."""
    settings = every_kind.config(epochs=1)
    towers = "towers={embedding_dim: 8, context_mode: trilinear, context: {hidden_units: [4]"
    recent = "features.query.recent={kind: history, length: 4, encoder: attention"

    def with_dropout(*keys):
        of_tower = "".join(f", {key}: 0.5" for key in keys)
        of_encoder = ", dropout: 0.5" if keys else ""
        overrides = [f"{towers}{of_tower}}}}}", f"{recent}{of_encoder}}}"]
        return parse_config(dump_config(settings), "context", overrides)

    prepared = every_kind.write_prepared(tmp_path / "data", with_dropout())
    train(with_dropout(), prepared, tmp_path / "run")

    earlier_run(tmp_path / "run", with_dropout("dropout", "input_dropout"))


@pytest.mark.parametrize("name", ["separator", "column"])
def test_a_feature_named_like_a_setting_is_a_feature(earlier, name):
    with pytest.raises(UsageError, match=f"features.candidate.{name}"):
        earlier_run(earlier / "run", config(f"features.candidate.{name}={{kind: number}}"))


def test_a_run_begun_from_other_weights_is_not_resumed(earlier, later, tmp_path):
    class Stop(tf.keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config(), later, tmp_path / "run", warm_start=earlier / "run", callbacks=[Stop()])

    with pytest.raises(UsageError, match="was begun from other weights"):
        train(config(), later, tmp_path / "run", resume=True)

    resumed = train(config(), later, tmp_path / "run", resume=True, warm_start=earlier / "run")
    assert len(resumed.epochs) == 2


def test_the_command_says_what_became_of_each_vocabulary(earlier, later, tmp_path, capsys):
    path = tmp_path / "twotower.yaml"
    path.write_text(CONFIG_TEXT, encoding="utf-8")

    code = main(
        ["train", "--config", str(path), "--data", str(later), "--output", str(tmp_path / "run")]
        + ["--warm_start", str(earlier / "run")]
    )

    lines = capsys.readouterr().out.splitlines()
    assert code == 0
    (of_items,) = (line for line in lines if line.startswith("│ item "))
    assert [cell.strip() for cell in of_items.strip("│").split("│")] == ["item", "4", "2", "1"]
