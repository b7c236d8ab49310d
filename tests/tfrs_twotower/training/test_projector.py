"""What TensorBoard's embedding projector is given."""

import numpy as np
import pandas as pd
import pytest
from google.protobuf import text_format
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from tests import tiny_world
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.training import projector
from tfrs_twotower.training.train import train


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    config = tiny_world.config()
    folder = tiny_world.write_prepared(tmp_path_factory.mktemp("tiny") / "prepared", config)
    path = next(folder.glob("candidate_attributes-*.parquet"))
    attributes = pd.read_parquet(path)
    attributes["title"] = [f"Title\t{row}\nof two lines" for row in attributes["candidate_row"]]
    attributes["genres"] = [["a", "b"]] * len(attributes)
    attributes["content"] = [[0.5, 1.5]] * len(attributes)
    attributes.to_parquet(path, index=False)
    return folder


def read(folder):
    vectors = np.loadtxt(folder / projector.VECTORS_FILE, delimiter="\t")
    return vectors, pd.read_csv(folder / projector.LABELS_FILE, sep="\t")


def test_a_run_holds_the_embeddings_of_its_best_epoch(prepared, tmp_path):
    train(tiny_world.config(epochs=2), prepared, tmp_path / "run")

    folder = tmp_path / "run" / "tensorboard" / "train"
    run = load_run(tmp_path / "run", prepared)
    vectors, labels = read(folder)
    corpus = run.data.corpus()
    np.testing.assert_allclose(
        vectors, embed(run.model.candidate_tower, corpus.features), atol=1e-5
    )
    assert labels["candidate_id"].tolist() == corpus.candidate_ids.tolist()


def test_labels_are_one_line_each_and_leave_vectors_out(prepared, tmp_path):
    data = PreparedData(prepared, tiny_world.config())
    corpus = data.corpus()

    projector.write_projector(tmp_path, np.zeros([len(corpus), 2]), corpus, data)

    _, labels = read(tmp_path)
    assert labels.columns.tolist() == ["candidate_id", "title", "genres", "train_count"]
    assert labels["title"][0] == "Title 0 of two lines"
    assert labels["genres"][0] == "a, b"
    assert labels["train_count"].tolist() == [9] * tiny_world.SIZE


def test_of_a_large_corpus_the_most_frequent_are_shown(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(projector, "MAX_POINTS", 3)
    data = PreparedData(prepared, tiny_world.config())
    corpus = data.corpus()
    corpus.train_counts[[4, 9, 17]] = 50
    embeddings = np.arange(len(corpus) * 2.0).reshape(-1, 2)

    projector.write_projector(tmp_path, embeddings, corpus, data)

    vectors, labels = read(tmp_path)
    np.testing.assert_array_equal(vectors, embeddings[[4, 9, 17]])
    assert labels["candidate_id"].tolist() == corpus.candidate_ids[[4, 9, 17]].tolist()


def test_tensorboard_reads_the_config(prepared, tmp_path):
    data = PreparedData(prepared, tiny_world.config())
    projector.write_projector(tmp_path, np.zeros([tiny_world.SIZE, 2]), data.corpus(), data)

    config = text_format.Parse((tmp_path / projector.CONFIG_FILE).read_text(), ProjectorConfig())

    (embedding,) = config.embeddings
    assert (tmp_path / embedding.tensor_path).exists()
    assert (tmp_path / embedding.metadata_path).exists()
