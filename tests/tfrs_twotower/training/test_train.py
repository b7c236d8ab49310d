"""Training learns what was planted, keeps the best epoch, and survives being killed."""

import json
import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests import every_kind, tiny_world
from tests.prepared_folder import Example, write_prepared_folder
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.evaluation.evaluate import evaluate
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema import UsageError, UserError, load_config
from tfrs_twotower.schema.folders import MANIFEST, MARKER
from tfrs_twotower.training import train as train_module
from tfrs_twotower.training.train import train

EPOCHS = 4  # of `every_kind`


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "prepared"
    return every_kind.write_prepared(folder, every_kind.config())


@pytest.fixture(scope="module")
def run(tmp_path_factory, prepared):
    """An uninterrupted training of every kind of feature."""
    folder = tmp_path_factory.mktemp("run") / "run"
    train(every_kind.config(), prepared, folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The planted world, validated on what is withheld."""
    folder = tmp_path_factory.mktemp("tiny") / "prepared"
    return tiny_world.write_prepared(folder, tiny_world.config(), held_out="validation")


def values(prefix: Path) -> dict[str, bytes]:
    """Everything in a checkpoint, to the last bit."""
    reader = tf.train.load_checkpoint(str(prefix))
    names = reader.get_variable_to_shape_map()
    return {
        name: np.asarray(reader.get_tensor(name)).tobytes()
        for name in names
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH"
    }


def last_checkpoint(run: Path) -> Path:
    return Path(tf.train.latest_checkpoint(str(run / "checkpoints")))


def assert_ended_alike(run: Path, other: Path) -> None:
    assert values(run / "best.weights") == values(other / "best.weights")
    assert values(last_checkpoint(run)) == values(last_checkpoint(other))
    for name in ("metrics.json", "manifest.json", "config.yaml", "inputs.json"):
        assert (run / name).read_bytes() == (other / name).read_bytes()


# --- learning -------------------------------------------------------------------------------


def test_the_planted_world_is_learned_without_a_fault(tmp_path):
    config = tiny_world.config()
    data = tiny_world.write_prepared(tmp_path / "prepared", config)

    train(config, data, tmp_path / "run")
    evaluation = evaluate(tmp_path / "run", data)

    # The withheld candidate is first for each of the twenty queries: recall@1 is 1.
    ranks = {row.query_id: row.ranks.tolist() for row in evaluation.per_query.itertuples()}
    assert ranks == {tiny_world.query_id(number): [1] for number in range(tiny_world.SIZE)}
    assert evaluation.systems["model"]["all"]["mrr"] == 1.0
    assert evaluation.systems["popularity"]["all"]["mrr"] < 0.5


def test_explicit_negatives_are_no_positives(tmp_path):
    """Each query dislikes the other parity, often: counted as liked, it would rank first."""
    config = tiny_world.config()
    queries = sorted(tiny_world.query_id(number) for number in range(tiny_world.SIZE))
    candidates = sorted(tiny_world.candidate_id(number) for number in range(tiny_world.SIZE))

    def example(query: int, candidate: int, label: int) -> Example:
        name = tiny_world.query_id(query)
        encoded = {"user_id": 2 + queries.index(name)}
        return Example(name, tiny_world.candidate_id(candidate), encoded, label=label)

    pairs = [(query, candidate) for query in range(20) for candidate in range(20)]
    withheld = [pair for pair in pairs if pair[1] == tiny_world.withheld(pair[0])]
    liked = [pair for pair in pairs if sum(pair) % 2 == 0 and pair not in withheld]
    disliked = [pair for pair in pairs if sum(pair) % 2 == 1]
    data = write_prepared_folder(
        tmp_path / "prepared",
        config,
        vocabularies={"user_id": queries, "item_id": candidates},
        candidates={name: {"item_id": 2 + row} for row, name in enumerate(candidates)},
        examples={
            "train": [example(*pair, 1) for pair in liked]
            + [example(*pair, 0) for pair in disliked * 3],
            "test": [example(*pair, 1) for pair in withheld],
        },
    )

    train(config, data, tmp_path / "run")

    assert evaluate(tmp_path / "run", data).systems["model"]["all"]["mrr"] == 1.0


# --- what a run leaves ----------------------------------------------------------------------


def test_a_run_folder_holds_what_the_next_steps_read(run):
    assert {path.name for path in run.iterdir()} >= {
        "best.weights.index",
        "checkpoints",
        "config.yaml",
        "inputs.json",
        "manifest.json",
        "metrics.json",
        "tensorboard",
    }
    assert not (run / MARKER).exists()
    assert list((run / "tensorboard").rglob("events.out.tfevents.*"))


def test_a_result_shows_its_epochs(tiny, tmp_path):
    result = train(tiny_world.config(epochs=2), tiny, tmp_path / "run")

    logs = result.to_frame()
    assert logs.index.tolist() == [1, 2]
    assert logs["loss"].tolist() == [epoch["loss"] for epoch in result.epochs]
    assert repr(result).startswith(f"Training run in {tmp_path / 'run'}: best epoch ")
    assert f"{result.epochs[1]['loss']:.4f}" in repr(result)


def test_tensorboard_projects_the_candidates_of_the_best_epoch(run, prepared):
    loaded = load_run(run, prepared)
    corpus = loaded.data.corpus()

    vectors = np.loadtxt(run / "tensorboard" / "train" / "vectors.tsv", delimiter="\t")
    labels = pd.read_csv(run / "tensorboard" / "train" / "metadata.tsv", sep="\t")

    embeddings = embed(loaded.model.candidate_tower, corpus.features)
    np.testing.assert_allclose(vectors, embeddings, atol=1e-5)
    assert labels["candidate_id"].tolist() == corpus.candidate_ids.tolist()
    assert labels["train_count"].tolist() == corpus.train_counts.tolist()


def test_of_a_large_corpus_the_most_frequent_candidates_are_projected(
    prepared, tmp_path, monkeypatch
):
    monkeypatch.setattr(train_module, "MAX_PROJECTED", 3)
    train(every_kind.config(epochs=1), prepared, tmp_path / "run")

    labels = pd.read_csv(tmp_path / "run" / "tensorboard" / "train" / "metadata.tsv", sep="\t")
    corpus = PreparedData(prepared, every_kind.config()).corpus()
    top = sorted(np.argsort(-corpus.train_counts, kind="stable")[:3])
    assert labels["candidate_id"].tolist() == corpus.candidate_ids[top].tolist()


def test_the_summary_compares_the_best_epoch_with_popularity(run):
    summary = json.loads((run / "metrics.json").read_text())

    of_epoch = [epoch["val_recall_at_10"] for epoch in summary["epochs"]]
    assert [epoch["epoch"] for epoch in summary["epochs"]] == list(range(EPOCHS))
    assert summary["best_epoch"] == int(np.argmax(of_epoch))
    systems = summary["validation"]["metrics"]
    assert systems["model"]["all"]["recall_at_10"] == pytest.approx(max(of_epoch))
    assert "popularity" in systems


def test_two_equal_trainings_end_with_the_same_bits(run, prepared, tmp_path):
    train(every_kind.config(), prepared, tmp_path / "again")

    assert_ended_alike(run, tmp_path / "again")


@pytest.mark.slow
def test_another_seed_ends_with_other_weights(tiny, tmp_path):
    for seed in (1, 2):
        train(tiny_world.config(seed=seed, epochs=1), tiny, tmp_path / str(seed))

    first, other = (values(tmp_path / seed / "best.weights") for seed in ("1", "2"))
    assert first.keys() == other.keys()
    assert first != other


def test_training_says_nothing_by_itself(tiny, tmp_path, caplog, capfd):
    with caplog.at_level(logging.WARNING):
        train(tiny_world.config(epochs=6), tiny, tmp_path / "run")

    assert caplog.text == ""
    out, err = capfd.readouterr()
    # TensorFlow notes the end of an iterator, at the first, second, fourth, ... of a process.
    assert [line for line in err.splitlines() if "OUT_OF_RANGE: End of sequence" not in line] == []
    assert out == ""


def test_further_callbacks_see_the_ranking_metric_of_each_epoch(tiny, tmp_path):
    seen = []
    show = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))

    result = train(tiny_world.config(epochs=2), tiny, tmp_path / "run", callbacks=[show])

    assert [logs["val_recall_at_10"] for logs in seen] == [
        epoch["val_recall_at_10"] for epoch in result.epochs
    ]


def test_training_stops_when_the_metric_gets_no_better(tiny, tmp_path):
    # Recall among all 20 candidates is 1 from the first epoch on.
    config = tiny_world.config(epochs=9, metric="recall_at_20", patience=2)

    result = train(config, tiny, tmp_path / "run")

    assert len(result.epochs) == 3
    assert result.best_epoch == 0


def test_without_validation_the_last_epoch_is_kept(tmp_path):
    config = tiny_world.config(epochs=2)
    data = tiny_world.write_prepared(tmp_path / "prepared", config)

    result = train(config, data, tmp_path / "run")

    assert result.best_epoch == 1
    assert result.validation is None
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["validation"] is None


def test_a_run_has_the_batch_size_that_follows_from_its_examples(tiny, tmp_path):
    """Named in its config, so that a resume and all that is made of the run have the same."""
    config = tiny_world.config(batch_size="null", epochs=2)

    def stop(epoch: int, logs: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            config,
            tiny,
            tmp_path / "run",
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=stop)],
        )
    result = train(config, tiny, tmp_path / "run", resume=True)

    assert result.batch_size == 256
    assert load_config(tmp_path / "run" / "config.yaml") == config.with_batch_size(256)


# --- refit ----------------------------------------------------------------------------------


def test_a_refit_trains_from_the_start_on_train_and_validation(tmp_path):
    """As a training does whose train split holds the events of validation, after its own."""
    config = tiny_world.config(refit="true", epochs=5, metric="mrr", patience=1)
    queries = sorted(tiny_world.query_id(number) for number in range(tiny_world.SIZE))
    candidates = sorted(tiny_world.candidate_id(number) for number in range(tiny_world.SIZE))
    parts: dict[str, list[Example]] = {"train": [], "test": []}
    for event in tiny_world.events():
        encoded = {"user_id": 2 + queries.index(event.query_id)}
        parts[event.split].append(Example(event.query_id, event.candidate_id, encoded))

    def write(name: str, **examples: list[Example]) -> Path:
        return write_prepared_folder(
            tmp_path / name,
            config,
            vocabularies={"user_id": queries, "item_id": candidates},
            candidates={name: {"item_id": 2 + row} for row, name in enumerate(candidates)},
            examples=examples,
            shards=1,
        )

    apart = write("apart", train=parts["train"], validation=parts["test"])
    merged = write("merged", train=parts["train"] + parts["test"])

    refitted = train(config, apart, tmp_path / "refit")
    train(tiny_world.config(epochs=refitted.best_epoch + 1), merged, tmp_path / "run")

    assert values(tmp_path / "refit" / "refit" / "best.weights") == values(
        tmp_path / "run" / "best.weights"
    )
    assert len(refitted.refit_epochs) == refitted.best_epoch + 1
    assert refitted.title.endswith(", refit on train and validation")
    counts = load_run(tmp_path / "refit", apart).data.corpus().train_counts
    assert counts.tolist() == [10] * tiny_world.SIZE
    with pytest.raises(UsageError, match="evaluate the test split"):
        evaluate(tmp_path / "refit", apart, split="validation")


@pytest.fixture(scope="module")
def refitted(prepared, tmp_path_factory):
    """A run that was interrupted within its refit, and resumed."""
    config = every_kind.config(refit="true", epochs=5, metric="mrr")
    folder = tmp_path_factory.mktemp("refit") / "run"
    seen = []

    def stop(epoch: int, logs: dict[str, float]) -> None:
        seen.append(epoch)
        if "val_mrr" not in logs and epoch == 0:
            raise KeyboardInterrupt

    stopper = keras.callbacks.LambdaCallback(on_epoch_end=stop)
    with pytest.raises(KeyboardInterrupt):
        train(config, prepared, folder, callbacks=[stopper])
    assert seen == [0, 1, 2, 3, 4, 0]
    return train(config, prepared, folder, resume=True)


@pytest.mark.slow
def test_an_interrupted_refit_is_a_training_on_a_folder_whose_validation_is_part_of_train(
    refitted, prepared, tmp_path
):
    """The folder is merged by hand: records, train counts and known positives."""
    merged = Path(shutil.copytree(prepared, tmp_path / "merged"))
    validation = sorted((merged / "examples").glob("validation-*"))
    manifest = json.loads((merged / MANIFEST).read_text())
    manifest["files"]["examples/train"] += manifest["files"].pop("examples/validation")
    examples = manifest["counts"]["examples"]
    for kind in ("positives", "negatives"):
        examples["train"][kind] += examples["validation"][kind]
        examples["validation"][kind] = 0
    (merged / MANIFEST).write_text(json.dumps(manifest))
    statistics = json.loads((merged / "statistics.json").read_text())
    ids = sorted(statistics["candidate_train_counts"])
    for record in tf.data.TFRecordDataset(list(map(str, validation)), compression_type="GZIP"):
        example = tf.train.Example.FromString(record.numpy()).features.feature
        if example["label"].int64_list.value[0]:
            liked = ids[example["candidate_row"].int64_list.value[0]]
            statistics["candidate_train_counts"][liked] += 1
    (merged / "statistics.json").write_text(json.dumps(statistics))

    # Epochs were left when the refit was interrupted; its schedule is shorter than the first.
    assert 1 <= refitted.best_epoch < 4
    by_hand = every_kind.config(epochs=refitted.best_epoch + 1)
    train(by_hand, merged, tmp_path / "run")

    assert values(refitted.folder / "refit" / "best.weights") == values(
        tmp_path / "run" / "best.weights"
    )
    assert len(refitted.refit_epochs) == refitted.best_epoch + 1


@pytest.mark.slow
def test_a_refit_is_judged_on_test_beside_baselines_that_know_as_much(refitted, prepared):
    evaluation = evaluate(refitted.folder, prepared)

    loaded = load_run(refitted.folder, prepared)
    assert values(refitted.folder / "refit" / "best.weights") != values(
        refitted.folder / "best.weights"
    )
    liked = [
        row
        for split in ("train", "validation")
        for row, label in zip(
            *(loaded.data.events(split)[key] for key in ("candidate_row", "label")), strict=True
        )
        if label == 1
    ]
    assert loaded.data.corpus().train_counts.tolist() == np.bincount(liked).tolist()
    assert "refit on train and validation" in evaluation.title


def test_a_refit_needs_a_validation_split(tmp_path):
    config = tiny_world.config(refit="true")
    data = tiny_world.write_prepared(tmp_path / "prepared", config)

    with pytest.raises(UserError, match="the validation split has no positive"):
        train(config, data, tmp_path / "run")


# --- refusals -------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
def test_a_finished_run_is_refused_and_left_as_it_is(run, prepared, resume):
    before = values(run / "best.weights")

    with pytest.raises(UsageError, match="run is finished: pass `overwrite=True` to replace it"):
        train(every_kind.config(), prepared, run, resume=resume)

    assert values(run / "best.weights") == before


def test_a_finished_run_is_replaced_where_the_user_says_so(tiny, tmp_path):
    train(tiny_world.config(epochs=1), tiny, tmp_path / "run")

    result = train(tiny_world.config(epochs=2), tiny, tmp_path / "run", overwrite=True)

    assert len(result.epochs) == 2


def test_a_training_that_diverges_is_told_and_leaves_no_finished_run(tiny, tmp_path):
    # A cosine over such a temperature is infinite.
    config = tiny_world.config()
    config = config.model_copy(
        update={"loss": config.loss.model_copy(update={"temperature": 1e-42})}
    )

    with pytest.raises(UserError, match="training diverged"):
        train(config, tiny, tmp_path / "run")

    assert not (tmp_path / "run" / MANIFEST).exists()


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param([], "has 0 positive examples", id="empty"),
        pytest.param([0, 0, 1], "has 1 positive examples", id="one-positive"),
    ],
)
def test_a_train_split_without_enough_positives_is_told(tmp_path, labels, expected):
    config = tiny_world.config()
    data = write_prepared_folder(
        tmp_path / "prepared",
        config,
        vocabularies={"user_id": ["u"], "item_id": ["i"]},
        candidates={"i": {"item_id": 2}},
        examples={"train": [Example("u", "i", {"user_id": 2}, label=label) for label in labels]},
    )

    with pytest.raises(UserError, match=expected):
        train(config, data, tmp_path / "run")

    assert not (tmp_path / "run").exists()


# --- killed and resumed ---------------------------------------------------------------------

KILLED = """
import os, signal, sys
from tests import every_kind
from tests.conftest import do_not_rewrite_graphs
from tfrs_twotower.training import callbacks
from tfrs_twotower.keras import keras, tf
from tfrs_twotower.training.train import train

do_not_rewrite_graphs()
data, run, moment = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

class Die(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs):
        if moment == "after-an-epoch" and epoch == 1:
            die()
        if moment == "after-the-last-epoch" and epoch == 3:
            die()

    def on_train_batch_end(self, batch, logs):
        steps = int(self.model.optimizer.iterations)
        if moment == "within-an-epoch" and steps == 2 * self.params["steps"] + 2:
            die()
        if moment == "before-a-checkpoint" and steps == 2 * self.params["steps"]:
            tf.train.CheckpointManager.save = die

train(every_kind.config(), data, run, callbacks=[Die()])
"""

KILLED_SOMETIME = """
import os, random, signal, sys, threading
from tests import every_kind
from tests.conftest import do_not_rewrite_graphs
from tfrs_twotower.keras import keras
from tfrs_twotower.training.train import train

do_not_rewrite_graphs()
data, run, seed = sys.argv[1:]
draw = random.Random(int(seed))
# Within the first three of four epochs, and then at any moment: also while files are written.
step, delay_s = draw.randrange(1, 12), draw.uniform(0.0, 0.3)

class DieSometime(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs):
        if self.model.optimizer.iterations.numpy() == step:
            threading.Timer(delay_s, os.kill, [os.getpid(), signal.SIGKILL]).start()

train(every_kind.config(), data, run, callbacks=[DieSometime()])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "finished_epochs"),
    [
        ("after-an-epoch", 2),
        ("within-an-epoch", 2),
        ("before-a-checkpoint", 1),
        ("after-the-last-epoch", 4),
    ],
)
def test_a_killed_and_resumed_training_ends_with_the_bits_of_an_uninterrupted_one(
    run, prepared, tmp_path, moment, finished_epochs
):
    command = [sys.executable, "-c", KILLED, str(prepared), str(tmp_path / "run"), moment]
    root = str(Path(__file__).parents[3])
    killed = subprocess.run(command, check=False, cwd=root, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "run" / MANIFEST).exists()
    trained = []
    count = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: trained.append(epoch))

    train(every_kind.config(), prepared, tmp_path / "run", resume=True, callbacks=[count])

    assert trained == list(range(finished_epochs, EPOCHS))
    assert_ended_alike(run, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_training_killed_at_a_random_moment_ends_with_the_same_bits(
    run, prepared, tmp_path, seed
):
    command = [sys.executable, "-c", KILLED_SOMETIME, str(prepared), str(tmp_path / "run"), seed]
    root = str(Path(__file__).parents[3])
    killed = subprocess.run(
        [str(word) for word in command], check=False, cwd=root, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    train(every_kind.config(), prepared, tmp_path / "run", resume=True)

    assert_ended_alike(run, tmp_path / "run")


class Stop(keras.callbacks.Callback):
    """Interrupts a training after its second epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if epoch == 1:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def interrupted_once(prepared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(KeyboardInterrupt):
        train(every_kind.config(), prepared, folder, callbacks=[Stop()])
    return folder


@pytest.fixture
def interrupted(interrupted_once, tmp_path):
    """A run folder that was left after two of four epochs."""
    return Path(shutil.copytree(interrupted_once, tmp_path / "run"))


def test_an_interrupted_training_goes_on_where_it_was(interrupted, prepared, run):
    train(every_kind.config(), prepared, interrupted, resume=True)

    assert_ended_alike(run, interrupted)


@pytest.mark.slow
def test_an_interrupted_training_starts_anew_without_resume(interrupted, prepared):
    begun = []
    count = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: begun.append(epoch))

    result = train(every_kind.config(epochs=1), prepared, interrupted, callbacks=[count])

    assert begun == [0]
    assert len(result.epochs) == 1


def test_an_interrupted_training_is_not_resumed_with_another_config(interrupted, prepared):
    with pytest.raises(UsageError) as caught:
        train(every_kind.config(learning_rate=0.5), prepared, interrupted, resume=True)

    message = str(caught.value)
    assert "was begun with another config: training.learning_rate: 0.01 then, 0.5 now" in message
    assert "Resume with the same config, or train anew without resuming" in message


def test_an_interrupted_training_is_not_resumed_on_other_data(interrupted, tmp_path):
    other = every_kind.write_prepared(tmp_path / "other", every_kind.config(), seed=6)

    with pytest.raises(UserError, match=r"was trained on other data than .*different: examples"):
        train(every_kind.config(), other, interrupted, resume=True)


def test_a_training_that_was_refused_can_still_be_resumed(interrupted, prepared, run):
    with pytest.raises(UsageError):
        train(every_kind.config(learning_rate=0.5), prepared, interrupted, resume=True)

    train(every_kind.config(), prepared, interrupted, resume=True)

    assert_ended_alike(run, interrupted)


@pytest.mark.parametrize(
    "left",
    [
        pytest.param([], id="nothing"),
        pytest.param([MARKER], id="marker"),
        # The config is the last input to be written.
        pytest.param([MARKER, "inputs.json", "config.yaml.tmp"], id="half-written-inputs"),
    ],
)
def test_a_training_killed_before_it_began_is_resumed_from_the_start(tiny, tmp_path, left):
    config = tiny_world.config(epochs=1)
    for name in left:
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).touch()

    result = train(config, tiny, tmp_path / "run", resume=True)

    assert len(result.epochs) == 1
    assert (tmp_path / "run" / MANIFEST).exists()
