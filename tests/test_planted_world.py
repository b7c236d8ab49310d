"""From a log through the Beam job, training and evaluation: what was planted is found."""

import numpy as np
import pytest

from pipelines.prepare import prepare
from tests import tiny_world
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.evaluation.evaluate import evaluate
from tfrs_twotower.schema import load_config
from tfrs_twotower.training.train import train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return tiny_world.write_dataset(tmp_path_factory.mktemp("world") / "dataset")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("world") / "prepared"
    prepare(load_config(dataset / "twotower.yaml"), str(dataset), str(folder))
    return folder


def test_every_withheld_candidate_is_recommended_first(dataset, prepared, tmp_path):
    train(load_config(dataset / "twotower.yaml"), prepared, tmp_path / "run")

    evaluation = evaluate(tmp_path / "run", prepared)

    # recall@1 = 1.0
    ranks = {row.query_id: row.ranks.tolist() for row in evaluation.per_query.itertuples()}
    assert ranks == {tiny_world.query_id(number): [1] for number in range(tiny_world.SIZE)}


def test_the_jobs_folder_reads_like_one_written_by_hand(prepared, tmp_path):
    config = tiny_world.config()
    by_job = PreparedData(prepared, config)
    by_hand = PreparedData(tiny_world.write_prepared(tmp_path / "by-hand", config), config)

    def examples(data, split):
        arrays = data.examples(split)
        names = sorted(arrays)
        rows = zip(*(arrays[name].tolist() for name in names), strict=True)
        return names, sorted(rows)

    for split in ("train", "validation", "test"):
        assert examples(by_job, split) == examples(by_hand, split)
    assert by_job.query_ids().tolist() == by_hand.query_ids().tolist()
    assert by_job.num_rows() == by_hand.num_rows()
    np.testing.assert_array_equal(by_job.known_positives(), by_hand.known_positives())
    job_corpus, hand_corpus = by_job.corpus(), by_hand.corpus()
    np.testing.assert_array_equal(job_corpus.candidate_ids, hand_corpus.candidate_ids)
    np.testing.assert_array_equal(job_corpus.train_counts, hand_corpus.train_counts)
    np.testing.assert_array_equal(job_corpus.features["item_id"], hand_corpus.features["item_id"])
