"""An evaluation against a definition in plain NumPy, and what it writes."""

import errno
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests import every_kind
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.evaluation import evaluate as evaluate_module
from tfrs_twotower.evaluation import inputs as inputs_module
from tfrs_twotower.evaluation import rankers
from tfrs_twotower.evaluation.aggregate import aggregate, evaluate_model
from tfrs_twotower.evaluation.evaluate import evaluate
from tfrs_twotower.evaluation.inputs import EvaluationInputs
from tfrs_twotower.evaluation.protocols import load_evaluation_set
from tfrs_twotower.evaluation.slices import slices_of
from tfrs_twotower.models import embed as embed_module
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import build_model
from tfrs_twotower.schema import UserError
from tfrs_twotower.training.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    config = every_kind.config()
    folder = every_kind.write_prepared(tmp_path_factory.mktemp("data") / "prepared", config)
    return PreparedData(folder, config)


@pytest.fixture(scope="module")
def model(data):
    """Untrained: any weights will do where definitions are compared."""
    return build_model(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("run") / "run"
    train(every_kind.config(epochs=1), data.folder, folder)
    return folder


def inputs_of(model, data, split):
    return EvaluationInputs.read(model, data, load_evaluation_set(data, split))


def by_definition(model, data, split):
    """Metrics of a split, query by query from the examples, each a walk down a sorted list."""
    corpus = data.corpus()
    candidates = model.candidate_tower(corpus.features).numpy()

    def positives(of_split):
        examples = data.examples(of_split)
        return [
            (int(q), int(c), int(t), entry)
            for entry, (q, c, t, label) in enumerate(
                zip(
                    examples["query_row"],
                    examples["candidate_row"],
                    examples["timestamp_s"],
                    examples["label"],
                    strict=True,
                )
            )
            if label == 1
        ]

    earlier = {"validation": ["train"], "test": ["train", "validation"]}[split]
    had = {(q, c) for name in earlier for q, c, _, _ in positives(name)}
    examples = data.examples(split)
    of_query = {}
    for query in sorted({q for q, _, _, _ in positives(split)}):
        own = sorted((t, c, entry) for q, c, t, entry in positives(split) if q == query)
        relevant = {c for _, c, _ in own} - {c for q, c in had if q == query}
        if not relevant:
            continue
        first = own[0][2]
        encoded = {name: values[first : first + 1] for name, values in examples.items()}
        scores = (model.query_tower(encoded).numpy() @ candidates.T)[0]
        eligible = [c for c in range(len(corpus)) if (query, c) not in had]
        order = sorted(eligible, key=lambda candidate: (-scores[candidate], candidate))
        of_query[query] = sorted(order.index(c) + 1 for c in relevant)
    means = {
        "recall_at_10": np.mean([np.mean([r <= 10 for r in ranks]) for ranks in of_query.values()]),
        "hit_rate_at_10": np.mean([min(ranks) <= 10 for ranks in of_query.values()]),
        "mrr": np.mean([1 / min(ranks) for ranks in of_query.values()]),
    }
    return of_query, means


@pytest.mark.parametrize("split", ["validation", "test"])
def test_metrics_are_those_of_a_definition_in_plain_numpy(model, data, split):
    evaluation = evaluate_model(inputs_of(model, data, split))

    of_query, means = by_definition(model, data, split)
    for name, expected in means.items():
        assert evaluation.systems["model"]["all"][name] == pytest.approx(expected)
    queries = data.query_ids()
    found = {row.query_id: sorted(row.ranks.tolist()) for row in evaluation.per_query.itertuples()}
    assert found == {queries[query]: ranks for query, ranks in of_query.items()}
    assert evaluation.num_queries["all"] == len(of_query)
    assert evaluation.num_positives == sum(map(len, of_query.values()))


def test_popularity_and_chance_are_measured_beside_the_model(model, data):
    evaluation = evaluate_model(inputs_of(model, data, "test"))

    wanted = {"recall_at_10", "recall_at_100", "hit_rate_at_10", "ndcg_at_10", "mrr"}
    for name in ("model", "popularity", "random"):
        assert evaluation.systems[name]["all"].keys() >= wanted | {"coverage_at_10"}


def test_a_slice_without_queries_has_no_metric_and_not_a_metric_of_zero(model, data):
    evaluation = evaluate_model(inputs_of(model, data, "test"))

    assert evaluation.num_queries["cold"] == 0
    assert set(evaluation.systems["model"]["cold"].values()) == {None}


def test_warm_and_cold_users_are_told_apart(tmp_path, data):
    """Cold: without a positive in train."""
    cold = {"user-3", "user-11"}

    def without_cold(folder):
        made = every_kind.write_prepared(folder, data.config)
        known = pd.read_parquet(made / "known_positives-00000-of-00001.parquet")
        known[~known["query_id"].isin(cold)].to_parquet(
            made / "known_positives-00000-of-00001.parquet"
        )
        return PreparedData(made, data.config)

    partly_cold = without_cold(tmp_path / "prepared")
    evaluation = evaluate_model(inputs_of(build_model(partly_cold), partly_cold, "test"))

    per_query = evaluation.per_query.set_index("query_id")
    assert set(per_query.index[~per_query["is_warm"]]) == cold & set(per_query.index)
    assert evaluation.num_queries["cold"] == len(cold & set(per_query.index)) > 0
    reciprocal = 1 / per_query["ranks"].map(min)
    for part, chosen in (("warm", per_query["is_warm"]), ("cold", ~per_query["is_warm"])):
        mean = reciprocal[chosen].mean()
        assert evaluation.systems["model"][part]["mrr"] == pytest.approx(mean)


def test_the_size_of_the_batches_changes_nothing(model, data, monkeypatch):
    features = data.corpus().features
    whole = embed(model.candidate_tower, features)
    monkeypatch.setattr(embed_module, "EMBED_BATCH", 4)

    np.testing.assert_allclose(embed(model.candidate_tower, features), whole, atol=1e-6)
    assert whole.shape == (every_kind.NUM_CANDIDATES, 8)


def test_embeddings_that_are_not_finite_are_told_and_not_ranked_first(data):
    """NaN is greater than nothing: each relevant candidate would have rank 1."""
    broken = build_model(data)
    output = broken.query_tower.trainable_variables[-1]
    output.assign(np.full_like(output, np.nan))

    with pytest.raises(UserError, match="training diverged: the query_tower gives values that are"):
        evaluate_model(inputs_of(broken, data, "test"))


def test_lists_of_another_system_are_measured_by_the_same_rules(model, data, tmp_path):
    evaluation_set = load_evaluation_set(data, "test")
    ids, candidates = data.query_ids()[evaluation_set.query_rows], data.corpus().candidate_ids
    perfect = [
        candidates[
            evaluation_set.positives.candidate_rows[evaluation_set.positives.queries == query]
        ].tolist()
        for query in range(len(ids))
    ]
    lists = pd.DataFrame({"query_id": ids, "candidate_ids": perfect})
    lists.to_parquet(tmp_path / "oracle.parquet")

    inputs = EvaluationInputs.read(model, data, evaluation_set)
    ranker = rankers.ranked_lists(tmp_path / "oracle.parquet")
    evaluation = aggregate(
        inputs,
        {"model": rankers.model(inputs), "oracle": ranker(inputs)},
        slices_of(data, inputs.corpus, evaluation_set),
    )

    oracle = evaluation.systems["oracle"]["all"]
    assert (oracle["recall_at_10"], oracle["ndcg_at_10"], oracle["mrr"]) == (1.0, 1.0, 1.0)


def test_an_evaluation_shows_the_headline_metrics_and_is_a_frame(model, data):
    evaluation = evaluate_model(inputs_of(model, data, "test"))

    table = evaluation.to_frame()
    assert table.loc[("model", "all"), "mrr"] == evaluation.systems["model"]["all"]["mrr"]
    assert table.loc[("model", "cold")].isna().all()
    first, *lines = repr(evaluation).splitlines()
    assert first == "test split, 8 users, all 15 candidates: the figures to quote"
    assert [line.split()[0] for line in lines[2:]] == ["model", "popularity", "random"]
    assert f"{evaluation.systems['popularity']['all']['mrr']:.4f}" in lines[3]
    assert "<table" in evaluation._repr_html_()


# --- of a run -------------------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "name"), [("user", "test-full"), ("event", "test-full-event")])
def test_an_evaluation_of_a_run_is_written_beside_it(run, data, unit, name):
    evaluation = evaluate(run, data.folder, unit=unit)

    aggregates = json.loads((run / "evaluation" / f"{name}.json").read_text())
    per_query = pd.read_parquet(run / "evaluation" / f"{name}.parquet")
    assert aggregates == json.loads(json.dumps(evaluation.as_dict()))
    assert aggregates["unit"] == unit
    assert len(per_query) == evaluation.num_queries["all"]
    assert per_query["ranks"].map(len).sum() == evaluation.num_positives


def test_the_corpus_is_read_and_embedded_once(run, data, monkeypatch):
    """Queries are embedded again with shuffled features and in other moments, candidates never."""
    calls = {"corpus": 0, "candidate_tower": 0, "query_tower": 0}
    read_corpus = PreparedData.corpus

    def counted_corpus(self):
        calls["corpus"] += 1
        return read_corpus(self)

    def counted_embed(tower, encoded):
        calls[tower.name] += 1
        return embed(tower, encoded)

    monkeypatch.setattr(PreparedData, "corpus", counted_corpus)
    for module in (evaluate_module, inputs_module):
        monkeypatch.setattr(module, "embed", counted_embed)
    evaluate(run, data.folder)

    assert (calls["corpus"], calls["candidate_tower"]) == (1, 1)
    # All, the sample unchanged, each feature shuffled, morning and evening.
    assert calls["query_tower"] == 2 + len(data.config.query_features) + 2


@pytest.mark.slow
def test_an_evaluation_that_cannot_be_written_leaves_the_one_before(run, data, monkeypatch):
    evaluate(run, data.folder)
    before = pd.read_parquet(run / "evaluation" / "test-full.parquet")

    def fill_the_disk(table, path, **options):
        Path(path).write_bytes(b"PAR1 half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fill_the_disk)
    with pytest.raises(UserError, match="cannot write .*evaluation: No space left"):
        evaluate(run, data.folder)

    after = pd.read_parquet(run / "evaluation" / "test-full.parquet")
    pd.testing.assert_frame_equal(after, before)


def test_aggregates_are_json_that_any_reader_accepts(run, data):
    text = json.dumps(evaluate(run, data.folder).as_dict(), allow_nan=False)

    assert json.loads(text)["num_queries"]["all"] > 0


@pytest.mark.slow
def test_the_same_evaluation_writes_the_same_bytes(run, data):
    path = run / "evaluation" / "test-full.json"
    evaluate(run, data.folder)
    first = path.read_bytes()

    evaluate(run, data.folder)

    assert path.read_bytes() == first


def test_a_model_below_popularity_is_said_so(model, data):
    evaluation = evaluate_model(inputs_of(model, data, "test"))
    ours, popular = (evaluation.systems[name]["all"] for name in ("model", "popularity"))

    ours["recall_at_10"], popular["recall_at_10"] = 0.1, 0.2
    assert evaluation.is_below_popularity
    ours["recall_at_10"] = 0.2
    assert not evaluation.is_below_popularity


# --- in detail ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detailed(run, data):
    return evaluate(run, data.folder)


def test_dearer_baselines_stand_beside_the_model(detailed):
    assert set(detailed.systems) == {
        *("model", "popularity", "recent popularity", "sequential rules", "item-kNN", "random")
    }


def test_an_interval_holds_its_metric_in_every_slice_that_is_not_empty(detailed):
    assert "model" in detailed.intervals
    for system, parts in detailed.intervals.items():
        assert {part for part, count in detailed.num_queries.items() if count} == set(parts)
        for part, of_metric in parts.items():
            for metric, (low, high) in of_metric.items():
                assert low <= detailed.systems[system][part][metric] + 1e-9
                assert high >= detailed.systems[system][part][metric] - 1e-9


def test_a_slice_of_candidates_counts_those_relevant_ones_only(detailed):
    """Recall over known and new candidates, weighted by how many there are, is that over all."""
    per_query = detailed.per_query
    hits = sum((ranks <= 10).sum() for ranks in per_query["ranks"])
    parts = detailed.systems["model"]
    found = 0.0
    for part in ("head", "tail"):
        assert "coverage_at_10" not in parts[part]
        precision, count = parts[part]["precision_at_10"], detailed.num_queries[part]
        found += 10 * precision * count

    assert found == pytest.approx(hits)


def test_the_curve_of_recall_goes_through_the_metrics(detailed):
    curve = detailed.as_dict()["recall_curve"]

    assert curve["k"][-1] <= detailed.corpus_size
    assert curve["model"][curve["k"].index(10)] == detailed.systems["model"]["all"]["recall_at_10"]


def test_the_lists_of_each_query_are_kept_by_id(run, detailed, data):
    stored = pd.read_parquet(run / "evaluation" / "test-full.parquet")

    ids = data.corpus().candidate_ids
    top_rows = detailed.rankings["model"].top_rows
    assert [list(ids_of) for ids_of in stored["top_candidate_ids"]] == [
        ids[row[row >= 0]].tolist() for row in top_rows
    ]


@pytest.mark.parametrize("protocol", ["sampled:4", "popular:4"])
def test_a_sampled_protocol_is_named_in_the_results_and_their_files(run, data, protocol):
    evaluation = evaluate(run, data.folder, protocol=protocol)

    name = protocol.replace(":", "-")
    aggregates = json.loads((run / "evaluation" / f"test-{name}.json").read_text())
    assert (aggregates["protocol"], aggregates["is_full_ranking"]) == (name, False)
    longest = 4 + max(map(len, evaluation.per_query["ranks"]))
    assert max(ranks.max() for ranks in evaluation.per_query["ranks"]) <= longest


def test_an_empty_split_is_told(run, data):
    with pytest.raises(UserError, match="no positive of weight 99.0 or more"):
        evaluate(run, data.folder, relevant_from=99.0)
