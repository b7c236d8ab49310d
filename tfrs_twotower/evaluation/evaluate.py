"""The evaluation of a run: how well it ranks the corpus, beside non-learned baselines."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.evaluation import ablation, insights, rankers
from tfrs_twotower.evaluation.aggregate import aggregate
from tfrs_twotower.evaluation.attribution import attribute, exported_index
from tfrs_twotower.evaluation.hints import evaluation_hints
from tfrs_twotower.evaluation.inputs import EvaluationInputs
from tfrs_twotower.evaluation.protocols import (
    FULL,
    EvaluationSet,
    Protocol,
    Unit,
    load_evaluation_set,
    parse_protocol,
    under_protocol,
)
from tfrs_twotower.evaluation.ranking import Ranking
from tfrs_twotower.evaluation.result import MODEL, SERVED, Evaluation, evaluation_name
from tfrs_twotower.evaluation.served import ServedRetriever
from tfrs_twotower.evaluation.serving_cost import SERVING_COST_FILE, measure_serving_cost
from tfrs_twotower.evaluation.slices import slices_of
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import EVALUATION, METRICS_FILE, load_run
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.schema import Parameter, UsageError, UserError
from tfrs_twotower.schema.folders import write_json

ATTRIBUTED_AT = (10, 100)

Ints = npt.NDArray[np.int64]


def evaluate(
    run: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    unit: Unit = "user",
    protocol: str = FULL,
    relevant_from: float = 0.0,
    cut_offs: Sequence[int] = (),
    ranked_lists: Mapping[str, str | Path] | None = None,
    users: Sequence[str] = (),
    models: str | Path | None = None,
    rules: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Evaluates a run and writes `evaluation/` of the run folder.

    Args:
        run: What `twotower train` wrote.
        data: The prepared folder it was trained on.
        split: The split to evaluate: "train", "validation" or "test".
        unit: What a query is; see `load_evaluation_set`.
        protocol: See `parse_protocol`; the whole corpus by default.
        relevant_from: The least weight of a relevant candidate.
        cut_offs: k of further metrics, beside 5, 10, 20 and 100.
        ranked_lists: Further baselines: name -> Parquet file; see `baselines.ranked_lists`.
        users: Ids of users to show as examples; none: a few of them.
        models: A models folder exported from the run: what it recommends is evaluated too, as
            "served"; what the model, the index and the rules miss is told apart; and loading is
            timed.
        rules: Optional inputs of `recommend` for all queries, as JSON holds them; needs `models`.

    Returns:
        The metrics of every system and slice, with what to read beside them: `cautions`, where the
        protocol leaks or flatters, and `details["hints"]`, what data and figures suggest to change.

    Raises:
        UserError: If a folder is unusable or cannot be written, or a rule is refused; see
            `load_run` and `load_evaluation_set`.
    """
    parsed = parse_protocol(protocol)
    if any(k < 1 for k in cut_offs):
        raise UsageError(Parameter("k"), f" must be 1 or more, got {min(cut_offs)}")
    if rules and (models is None or parsed.kind != FULL):
        raise UsageError("rules are those of exported models over their corpus: name `models`")
    folder, inputs = _read(run, data, split, unit, parsed, relevant_from)
    config = inputs.data.config
    recommended: list[_Recommended] = []
    compared: dict[str, rankers.Ranker] = {MODEL: rankers.model}
    if models is not None and inputs.evaluation_set.listed is None:
        recommended = _recommended(Path(models), inputs, rules or {})
        compared[SERVED] = rankers.served(recommended[-1].ruled)
    compared |= rankers.BASIC | rankers.further_baselines(config)
    compared |= {name: rankers.ranked_lists(path) for name, path in (ranked_lists or {}).items()}
    rankings = {name: ranker(inputs) for name, ranker in compared.items()}
    slices = slices_of(inputs.data, inputs.corpus, inputs.evaluation_set)
    details = _details(inputs, rankings, users)
    details["options"] = _options(
        inputs.evaluation_set, parsed, cut_offs, ranked_lists or {}, rules or {}
    )
    if recommended:
        details["rules"] = dict(rules or {})
        details["attribution"] = [
            attribute(rankings[MODEL], found, ruled, inputs.evaluation_set)._asdict()
            for found, ruled in recommended
        ]
    evaluation = dataclasses.replace(
        aggregate(inputs, rankings, slices, seed=config.training.seed, cut_offs=cut_offs),
        details=details,
        serving_cost=measure_serving_cost(inputs, Path(models) if models else None),
    )
    training = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
    hints = evaluation_hints(config, inputs.data.manifest, training, evaluation.as_dict())
    evaluation = dataclasses.replace(evaluation, details={**details, "hints": hints})
    name = evaluation_name(split, parsed.name, unit, relevant_from)
    _write(folder / EVALUATION, name, evaluation)
    return evaluation


def _read(
    run: str | Path,
    data: str | Path,
    split: str,
    unit: Unit,
    protocol: Protocol,
    relevant_from: float,
) -> tuple[Path, EvaluationInputs]:
    """The run folder, and what the evaluation reads."""
    loaded = load_run(run, data)
    full = load_evaluation_set(loaded.data, split, unit=unit, relevant_from=relevant_from)
    corpus = loaded.data.corpus()
    evaluation_set = under_protocol(
        full,
        protocol,
        query_ids=loaded.data.query_ids()[full.query_rows],
        candidate_ids=corpus.candidate_ids,
        train_counts=corpus.train_counts,
        seed=loaded.config.training.seed,
    )
    candidates = embed(loaded.model.candidate_tower, corpus.features)
    return loaded.folder, EvaluationInputs(
        loaded.model, loaded.data, corpus, evaluation_set, candidates
    )


class _Recommended(NamedTuple):
    """What exported models recommend, `[num_queries, k]` candidate rows; -1: no more."""

    found: Ints
    ruled: Ints  # Under the rules of the evaluation.


def _recommended(
    models: Path, inputs: EvaluationInputs, rules: Mapping[str, Any]
) -> list[_Recommended]:
    """At each of `ATTRIBUTED_AT`."""
    data, queries = inputs.data, inputs.query_embeddings
    retriever = ServedRetriever(
        exported_index(models, inputs.candidate_embeddings, inputs.model.scorer),
        inputs.corpus.candidate_ids,
        CandidateAttributes(data.config.resolved_rules, data.candidate_table()),
        width=queries.shape[1],
        max_k=max(ATTRIBUTED_AT),
    )
    excluded = inputs.evaluation_set.excluded
    recommended = []
    for k in ATTRIBUTED_AT:
        found = retriever.top_rows(queries, excluded, k)
        ruled = retriever.top_rows(queries, excluded, k, rules) if rules else found
        recommended.append(_Recommended(found, ruled))
    return recommended


def _details(
    inputs: EvaluationInputs, rankings: Mapping[str, Ranking], users: Sequence[str]
) -> dict[str, Any]:
    """What the report shows beside the metrics."""
    data, corpus, evaluation_set = inputs.data, inputs.corpus, inputs.evaluation_set
    moments = ablation.morning_and_evening(data.config)
    overlap = ablation.compare_moments(inputs, *moments) if moments else None
    return {
        "morning_and_evening": overlap._asdict() if overlap else None,
        "data": insights.data_facts(data),
        "popularity": insights.popularity_profile(rankings, evaluation_set, corpus),
        "sensitivity": ablation.permutation_importance(inputs),
        "users": insights.users(data, corpus, evaluation_set, rankings[MODEL], users),
    }


def _options(
    evaluation_set: EvaluationSet,
    protocol: Protocol,
    cut_offs: Sequence[int],
    ranked_lists: Mapping[str, str | Path],
    rules: Mapping[str, Any],
) -> str:
    """The options of `twotower evaluate` that repeat the evaluation."""
    words = ["--split", evaluation_set.split, "--protocol", protocol.text]
    words += ["--unit", evaluation_set.unit]
    if evaluation_set.relevant_from:
        words += ["--relevant_from", f"{evaluation_set.relevant_from:g}"]
    for k in cut_offs:
        words += ["--k", str(k)]
    for name, path in ranked_lists.items():
        words += ["--baseline", f"{name}={path}"]
    if rules:
        words += ["--rules", json.dumps(dict(rules))]
    return shlex.join(words)


def _write(folder: Path, name: str, evaluation: Evaluation) -> None:
    """Writes the files of an evaluation, each whole or not at all."""
    beside = folder / f"{name}.parquet.tmp"
    try:
        folder.mkdir(exist_ok=True)
        evaluation.per_query.to_parquet(beside, index=False)
        beside.replace(folder / f"{name}.parquet")
        write_json(folder / f"{name}.json", evaluation.as_dict())
        write_json(folder / SERVING_COST_FILE, evaluation.serving_cost)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
