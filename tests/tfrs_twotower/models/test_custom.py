"""A model of the user's own is trained, evaluated, exported and served like ours."""

import json

import numpy as np
import pytest

from tests import tiny_world
from tfrs_twotower import api
from tfrs_twotower.cli import main
from tfrs_twotower.evaluation.evaluate import evaluate
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.publishing.export import export
from tfrs_twotower.schema import UsageError, parse_config
from tfrs_twotower.training.train import train


def config(build: str, **training: object):
    overrides = [f"training.{name}={value}" for name, value in training.items()]
    return parse_config(
        tiny_world.CONFIG_TEXT, "own model", [f"towers.build='{build}'", *overrides]
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "prepared"
    return tiny_world.write_prepared(folder, tiny_world.config())


@pytest.mark.parametrize(
    "build",
    [
        "tests.own_models:OwnModel",
        pytest.param("tests.own_models:own_query_tower", marks=pytest.mark.slow),
    ],
)
def test_an_own_model_learns_the_planted_world(prepared, tmp_path, build):
    train(config(build), prepared, tmp_path / "run")

    assert evaluate(tmp_path / "run", prepared).systems["model"]["all"]["mrr"] == 1.0


def test_the_seed_of_the_config_is_that_of_layers_without_one(prepared, tmp_path):
    def weights(name, seed):
        train(config("tests.own_models:OwnModel", epochs=1, seed=seed), prepared, tmp_path / name)
        return load_run(tmp_path / name, prepared).model.variables[0].numpy()

    first = weights("first", 1)

    np.testing.assert_array_equal(weights("again", 1), first)
    assert np.abs(weights("other", 2) - first).max() > 1e-3


@pytest.mark.slow
def test_an_own_model_is_exported_and_answers_over_grpc(prepared, tmp_path):
    train(config("tests.own_models:OwnModel"), prepared, tmp_path / "run")
    export(tmp_path / "run", prepared, tmp_path / "models")
    number = 3
    liked = [tiny_world.candidate_id(each) for each in range(number % 2, tiny_world.SIZE, 2)]
    withheld = tiny_world.candidate_id(tiny_world.withheld(number))

    answer = api.recommend(
        tmp_path / "models",
        {"user_id": tiny_world.query_id(number)},
        k=1,
        exclude_ids=[each for each in liked if each != withheld],
        exclude_known=False,
    )

    assert list(answer.candidate_ids) == [withheld]
    # The score served is the dot product of the trained embeddings.
    run = load_run(tmp_path / "run", prepared)
    corpus = run.data.corpus()
    candidates = embed(run.model.candidate_tower, corpus.features)
    row = corpus.candidate_ids.tolist().index(withheld)
    query = embed(
        run.model.query_tower,
        run.data.query_encoder()({"user_id": [tiny_world.query_id(number)]}),
    )
    np.testing.assert_allclose(answer.scores, query @ candidates[row], atol=1e-5)


@pytest.mark.slow
def test_an_own_model_begins_warm_by_the_names_of_its_tables(prepared, tmp_path):
    build = "tests.own_models:OwnModel"
    train(config(build), prepared, tmp_path / "run")

    warm = train(
        config(build, epochs=1, learning_rate=0.0001),
        prepared,
        tmp_path / "warm",
        warm_start=tmp_path / "run",
    )

    assert {name: one.kept for name, one in warm.vocabulary_changes.items()} == {
        "user_id": 20,
        "item_id": 20,
    }
    assert evaluate(tmp_path / "warm", prepared).systems["model"]["all"]["mrr"] == 1.0


@pytest.mark.parametrize(
    ("build", "told"),
    [
        ("tests.no_such_module:build", "No module named 'tests.no_such_module'.*PYTHONPATH"),
        ("tests.own_models:no_such_function", "has no attribute 'no_such_function'"),
        ("tests.own_models:no_model", "returned a str, expected a tfrs.Model"),
        ("tests.own_models:one_tower", "no Keras model as its `candidate_tower`"),
        ("tests.own_models:towers_of_two_widths", "gives 8 dimensions, the candidate tower 5"),
        ("tests.own_models:flat_tower", r"`query_tower` gives shape \(1,\).* expected \[1, d\]"),
    ],
)
def test_a_model_that_will_not_do_is_told_before_training(prepared, tmp_path, build, told):
    with pytest.raises(UsageError, match=told):
        train(config(build), prepared, tmp_path / "run")


def test_a_name_that_is_no_function_of_a_module_is_refused_in_the_config():
    with pytest.raises(UsageError, match="towers.build"):
        config("my_towers.py")


def test_a_dry_run_of_an_own_model_shows_its_weights(prepared, tmp_path, capsys):
    path = tmp_path / "twotower.yaml"
    path.write_text(tiny_world.CONFIG_TEXT, encoding="utf-8")

    code = main(
        ["train", "--config", str(path), "--data", str(prepared), "--output", str(tmp_path / "run")]
        + ["--set", "towers.build=tests.own_models:OwnModel", "--dry_run", "--json"]
    )

    assert code == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["num_parameters"] == 2 * (2 + tiny_world.SIZE) * 8
    assert not (tmp_path / "run").exists()
