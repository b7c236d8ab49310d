"""How well a model ranks the corpus, beside what needs no model."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfrs_twotower.data.prepared import Corpus, PreparedData
from tfrs_twotower.evaluation import baselines, insights, metrics, operations
from tfrs_twotower.evaluation.answers import NO_ANSWER, Answers
from tfrs_twotower.evaluation.attribution import attribute, exported_index
from tfrs_twotower.evaluation.lists import rank_by_lists
from tfrs_twotower.evaluation.moments import moment_overlap, morning_and_evening
from tfrs_twotower.evaluation.protocols import (
    FULL,
    EvaluationSet,
    Protocol,
    Unit,
    evaluation_set,
    parse_protocol,
    under_protocol,
)
from tfrs_twotower.evaluation.ranking import Pairs, Ranking, rank
from tfrs_twotower.evaluation.slices import ALL, COLD, WARM, Slice, slices_of
from tfrs_twotower.evaluation.summaries import HEADLINE, LIST_LENGTH, Intervals, Values, summaries
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import EVALUATION, Run, load_run
from tfrs_twotower.models.two_tower import TwoTowerModel
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.schema import UsageError, UserError
from tfrs_twotower.schema.folders import write_json

MODEL, SERVED = "model", "served"
ATTRIBUTED_AT = (10, 100)
OPERATIONS_FILE = "operations.json"
CURVE_CUTS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
# How many queries are asked again with a feature changed.
MOVED_QUERIES = 2000

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    `systems`: for "model", "served" (what the exported index answers under the rules, where models
    are given) and each baseline, then each slice ("all", "warm", "cold", ...) the
    metrics by name, None where the slice is empty; `intervals`: likewise 95 % bootstrap intervals
    of the headline metrics; `recall_curve`: for each system recall at each of `CURVE_CUTS` up to
    the corpus size; `per_query`: one row a query with its id, its relevant candidates, their ranks
    and the ids of the model's list; `rankings`: what each system ranked; `details`: see `insights`;
    `operations`: see `operations.measure`, not part of `as_dict` since it differs from one time to
    the next.
    """

    split: str
    protocol: str
    unit: Unit
    relevant_from: float
    num_queries: dict[str, int]
    num_positives: int
    num_known: int
    num_left_out: int
    corpus_size: int
    systems: dict[str, dict[str, Values]]
    intervals: dict[str, dict[str, Intervals]]
    recall_curve: dict[str, list[float]]
    per_query: pd.DataFrame
    rankings: dict[str, Ranking] = field(repr=False)
    details: dict[str, Any] = field(default_factory=dict, repr=False)
    operations: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_below_popularity(self) -> bool:
        """Whether recommending everybody the same popular candidates does better."""
        model, popular = (self.systems[name][ALL] for name in (MODEL, "popularity"))
        return bool((model[HEADLINE[0]] or 0.0) < (popular[HEADLINE[0]] or 0.0))

    def as_dict(self) -> dict[str, Any]:
        """The aggregates, as JSON holds them."""
        return {
            "split": self.split,
            "protocol": self.protocol,
            "is_full_ranking": self.protocol == FULL,
            "unit": self.unit,
            "relevant_from": self.relevant_from,
            "num_queries": self.num_queries,
            "num_positives": self.num_positives,
            "num_positives_known_before": self.num_known,
            "num_queries_left_out": self.num_left_out,
            "corpus_size": self.corpus_size,
            "metrics": self.systems,
            "intervals": self.intervals,
            "recall_curve": {
                "k": [k for k in CURVE_CUTS if k <= self.corpus_size],
                **self.recall_curve,
            },
            **self.details,
        }


def evaluate(
    run: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    unit: Unit = "user",
    protocol: str = FULL,
    relevant_from: float = 0.0,
    ranked_lists: Mapping[str, str | Path] | None = None,
    users: Sequence[str] = (),
    models: str | Path | None = None,
    rules: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Evaluates a run and writes `evaluation/` of the run folder.

    Beside the aggregates and the ranks by query stand, in `operations.json`, the times that this
    machine took.

    Args:
        run: What `twotower train` wrote.
        data: The prepared folder it was trained on.
        split: The split to evaluate.
        unit: See `evaluation_set`.
        protocol: See `parse_protocol`; the whole corpus by default.
        relevant_from: See `evaluation_set`.
        ranked_lists: Further baselines: name -> Parquet file; see `baselines.ranked_lists`.
        users: Ids of users to look at closely; none: a few of them.
        models: A models folder exported from the run: ranks what it answers too, tells apart what
            the model, the index and the rules miss, and how long the models take to load.
        rules: Optional inputs of `recommend` for all queries, as JSON holds them; needs `models`.

    Raises:
        UserError: If a folder does not serve or cannot be written, or a rule is refused; see
            `load_run` and `evaluation_set`.
    """
    parsed = parse_protocol(protocol)
    if rules and (models is None or parsed.kind != FULL):
        raise UsageError("rules are those of exported models over their corpus: name `models`")
    loaded = load_run(run, data)
    asked = evaluation_set(loaded.data, split, unit=unit, relevant_from=relevant_from)
    corpus = loaded.data.corpus()
    asked = under_protocol(
        asked,
        parsed,
        query_ids=loaded.data.query_ids()[asked.query_rows],
        candidate_ids=corpus.candidate_ids,
        train_counts=corpus.train_counts,
        seed=loaded.config.training.seed,
    )
    candidates = embed(loaded.model.candidate_tower, corpus.features)
    answered = None
    if models is not None and asked.listed is None:
        answered = _answered(Path(models), loaded, asked, candidates, rules or {})
    evaluation = evaluate_model(
        loaded.model,
        loaded.data,
        asked,
        split=split,
        unit=unit,
        ranked_lists=ranked_lists,
        answered=answered[-1].ruled if answered else None,
        detailed=True,
    )
    details = _details(loaded.model, loaded.data, corpus, asked, evaluation, users)
    details["options"] = _options(split, unit, parsed, relevant_from, ranked_lists or {}, rules)
    if answered:
        exact = evaluation.rankings[MODEL]
        details["rules"] = dict(rules or {})
        details["attribution"] = [
            attribute(exact, found, ruled, asked)._asdict() for found, ruled in answered
        ]
    evaluation.details.update(details)
    evaluation.operations.update(
        operations.measure(loaded, candidates, asked, Path(models) if models else None)
    )
    name = evaluation_name(split, parsed.name, unit, relevant_from)
    _write(loaded.folder / EVALUATION, name, evaluation)
    return evaluation


class _Answered(NamedTuple):
    """What exported models answer every query with, `[num_queries, k]` rows; -1: no answer."""

    found: Ints
    ruled: Ints  # Under the rules of the evaluation.


def _answered(
    models: Path, run: Run, asked: EvaluationSet, candidates: Floats, rules: Mapping[str, Any]
) -> list[_Answered]:
    """The answers at each of `ATTRIBUTED_AT`."""
    index = exported_index(models, candidates, getattr(run.model, "scorer", None))
    queries = embed(run.model.query_tower, asked.features)
    answers = Answers(
        index,
        run.data.corpus().candidate_ids,
        CandidateAttributes(run.config.resolved_rules, run.data.candidate_table()),
        width=queries.shape[1],
        max_k=max(ATTRIBUTED_AT),
    )
    found = []
    for k in ATTRIBUTED_AT:
        free = answers.to(queries, asked.excluded, k)
        ruled = answers.to(queries, asked.excluded, k, rules) if rules else free
        found.append(_Answered(free, ruled))
    return found


def _write(folder: Path, name: str, evaluation: Evaluation) -> None:
    """Writes the files of an evaluation, each whole or not at all."""
    beside = folder / f"{name}.parquet.tmp"
    try:
        folder.mkdir(exist_ok=True)
        evaluation.per_query.to_parquet(beside, index=False)
        beside.replace(folder / f"{name}.parquet")
        write_json(folder / f"{name}.json", evaluation.as_dict())
        write_json(folder / OPERATIONS_FILE, evaluation.operations)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error


def _options(
    split: str,
    unit: Unit,
    protocol: Protocol,
    relevant_from: float,
    ranked_lists: Mapping[str, str | Path],
    rules: Mapping[str, Any] | None,
) -> str:
    """The options of `twotower evaluate` that ask a run the same again."""
    words = ["--split", split, "--protocol", protocol.text, "--unit", unit]
    if relevant_from:
        words += ["--relevant_from", f"{relevant_from:g}"]
    for name, path in ranked_lists.items():
        words += ["--baseline", f"{name}={path}"]
    if rules:
        words += ["--rules", json.dumps(dict(rules))]
    return shlex.join(words)


def evaluation_name(
    split: str, protocol: str = FULL, unit: str = "user", relevant_from: float = 0.0
) -> str:
    """How the files of an evaluation are named."""
    of_unit = "" if unit == "user" else f"-{unit}"
    above = f"-from-{relevant_from:g}" if relevant_from else ""
    return f"{split}-{protocol}{of_unit}{above}"


def evaluate_model(
    model: TwoTowerModel,
    data: PreparedData,
    asked: EvaluationSet,
    *,
    split: str,
    unit: Unit,
    ranked_lists: Mapping[str, str | Path] | None = None,
    answered: Ints | None = None,
    detailed: bool = False,
) -> Evaluation:
    """Ranks the candidates for every query with the model and the baselines.

    Args:
        model: The two towers.
        data: The prepared folder.
        asked: The queries, under any protocol.
        split: The split they are of.
        unit: What a query is.
        ranked_lists: See `evaluate`.
        answered: `[num_queries, k]` rows that exported models answer; -1: no answer.
        detailed: Whether to take the dearer baselines (recent popularity, neighbours), all slices
            and intervals too.
    """
    corpus = data.corpus()
    query_ids = data.query_ids()[asked.query_rows]
    candidates = embed(model.candidate_tower, corpus.features)
    seed = data.config.training.seed
    rankings = {MODEL: _rank_model(model, candidates, asked, LIST_LENGTH)}
    if answered is not None:
        queries, places = np.nonzero(answered != NO_ANSWER)
        listed = Pairs(queries, answered[queries, places])
        rankings[SERVED] = rank_by_lists(
            listed, asked.positives, len(query_ids), len(corpus), LIST_LENGTH
        )
    rankings |= {
        "popularity": baselines.popularity(asked, corpus.train_counts, LIST_LENGTH),
        "random": baselines.chance(asked, len(corpus), seed, LIST_LENGTH),
    }
    if detailed:
        rankings.update(_further_baselines(data, corpus, asked))
    for name, path in (ranked_lists or {}).items():
        rankings[name] = baselines.ranked_lists(
            path, asked, query_ids, corpus.candidate_ids, LIST_LENGTH
        )
    slices = slices_of(data, corpus, asked)
    if not detailed:
        slices = {name: slices[name] for name in (ALL, WARM, COLD)}
    found_in = {
        part: summaries(rankings, asked, chosen, corpus, candidates, seed if detailed else None)
        for part, chosen in slices.items()
    }
    return Evaluation(
        split=split,
        protocol=asked.protocol,
        unit=unit,
        relevant_from=asked.relevant_from,
        num_queries={
            part: len(np.unique(asked.positives.queries[chosen.is_positive]))
            for part, chosen in slices.items()
        },
        num_positives=len(asked.positives.queries),
        num_known=asked.num_known,
        num_left_out=asked.num_left_out,
        corpus_size=len(corpus),
        systems={
            name: {part: found[0][name] for part, found in found_in.items()} for name in rankings
        },
        intervals={
            name: {part: found[1][name] for part, found in found_in.items() if found[1]}
            for name in rankings
        },
        recall_curve={
            name: [
                float(metrics.recall_at_k(asked.positives.queries, ranking.ranks, k).mean())
                for k in CURVE_CUTS
                if k <= len(corpus)
            ]
            for name, ranking in rankings.items()
        },
        per_query=_per_query(query_ids, corpus.candidate_ids, asked, rankings[MODEL], slices[WARM]),
        rankings=rankings,
    )


def rank_model(model: TwoTowerModel, corpus: Corpus, asked: EvaluationSet, k: int = 0) -> Ranking:
    """Where the model ranks the relevant candidates of an evaluation set.

    Args:
        model: The two towers.
        corpus: The candidates.
        asked: The queries.
        k: Length of the lists of best candidates; counting ranks alone is much faster.
    """
    return _rank_model(model, embed(model.candidate_tower, corpus.features), asked, k)


def _rank_model(model: TwoTowerModel, candidates: Floats, asked: EvaluationSet, k: int) -> Ranking:
    queries = embed(model.query_tower, asked.features)
    scorer = getattr(model, "scorer", None)
    return rank(
        queries,
        candidates,
        asked.positives,
        asked.excluded,
        k=k,
        listed=asked.listed,
        score=scorer and scorer.matrix,
    )


def _details(
    model: TwoTowerModel,
    data: PreparedData,
    corpus: Corpus,
    asked: EvaluationSet,
    evaluation: Evaluation,
    users: Sequence[str],
) -> dict[str, Any]:
    """What the report shows beside the metrics."""
    config = data.config
    some = asked.take(insights.spread(len(asked.query_rows), MOVED_QUERIES))
    candidates = embed(model.candidate_tower, corpus.features)

    def rank_some(asked: EvaluationSet) -> Ranking:
        return _rank_model(model, candidates, asked, LIST_LENGTH)

    moved = {
        name: rank_some(insights.shuffled(some, name, config.training.seed))
        for name in config.query_features
    }
    moments = morning_and_evening(config)
    overlap = moment_overlap(rank_some, some, data, *moments) if moments else None
    return {
        "morning_and_evening": overlap._asdict() if overlap else None,
        "data": insights.data_facts(data),
        "popularity": insights.popularity_profile(evaluation.rankings, asked, corpus),
        "sensitivity": insights.sensitivity(
            moved, rank_some(some), some, list(config.features.context)
        ),
        "users": insights.users(data, corpus, asked, evaluation.rankings[MODEL], users),
    }


def _further_baselines(
    data: PreparedData, corpus: Corpus, asked: EvaluationSet
) -> dict[str, Ranking]:
    rankings = {}
    if data.config.columns.timestamp is not None:
        recent = baselines.recent_counts(data.events("train"), len(corpus))
        rankings["recent popularity"] = baselines.popularity(asked, recent, LIST_LENGTH)
    rankings["item-kNN"] = baselines.item_knn(
        asked, data.known_positives(), int(data.manifest["num_queries"]), len(corpus), LIST_LENGTH
    )
    return rankings


def _per_query(
    query_ids: npt.NDArray[np.str_],
    candidate_ids: npt.NDArray[np.str_],
    asked: EvaluationSet,
    ranking: Ranking,
    warm: Slice,
) -> pd.DataFrame:
    queries, rows = asked.positives
    firsts = np.searchsorted(queries, np.arange(len(query_ids)))
    lists = np.append(candidate_ids, "").astype(object)[ranking.top_rows]
    lengths = (ranking.top_rows >= 0).sum(1)
    return pd.DataFrame(
        {
            "query_id": query_ids,
            "is_warm": warm.is_positive[firsts],
            "candidate_rows": np.split(rows, firsts[1:]),
            "ranks": np.split(ranking.ranks, firsts[1:]),
            "top_candidate_ids": [ids[:length] for ids, length in zip(lists, lengths, strict=True)],
        }
    )
