"""What the figures of an evaluation suggest to change, beside `schema.hints`.

Each hint is one sentence: the figure, and the key or command that changes it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfrs_twotower.evaluation import rankers
from tfrs_twotower.evaluation.result import MODEL, POPULARITY
from tfrs_twotower.evaluation.slices import ALL, COLD, KNOWN_CANDIDATES, NEW_CANDIDATES, WARM
from tfrs_twotower.evaluation.summaries import HEADLINE
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.hints import ColdRecall, config_hints, data_hints, training_hints

RECALL = HEADLINE[0]
# Lists that are so many times as popular as what is chosen are biased.
POPULARITY_BIAS = 1.5
# Shuffling a feature that is read changes more of the ten best than this.
UNCHANGED = 0.01
# Of what exact search finds, the share that an index may miss without a word.
INDEX_LOSS = 0.01


def evaluation_hints(
    config: Config,
    manifest: Mapping[str, Any],
    training: Mapping[str, Any],
    evaluation: Mapping[str, Any],
) -> list[str]:
    """All that is known after an evaluation, what most likely matters most first.

    Args:
        config: Of the run.
        manifest: Of the prepared folder.
        training: `metrics.json` of the run.
        evaluation: As `Evaluation.as_dict` gives it; `attribution` is there if it was measured.
    """
    systems, split = evaluation["metrics"], evaluation["split"]
    recall = {part: values.get(RECALL) for part, values in systems[MODEL].items()}
    return [
        *config_hints(config),
        *data_hints(
            config,
            manifest,
            split,
            candidates=ColdRecall(recall[NEW_CANDIDATES], recall[KNOWN_CANDIDATES]),
            queries=ColdRecall(recall[COLD], recall[WARM]),
        ),
        *training_hints(
            len(training["epochs"]),
            training["best_epoch"],
            is_validated=training["validation"] is not None,
        ),
        *_better_baseline(config, systems, evaluation["intervals"]),
        *_popularity_bias(config, systems[MODEL][ALL]),
        *_unused_features(config, evaluation["sensitivity"]),
        *_index_loss(config, evaluation.get("attribution", [])),
    ]


def _better_baseline(
    config: Config, systems: Mapping[str, Any], intervals: Mapping[str, Any]
) -> Iterator[str]:
    """Of a baseline above the model's interval; popularity has a warning of its own.

    Ranked lists that were given are no baselines: among them may be an oracle.
    """
    own = {*rankers.BASIC, *rankers.further_baselines(config)} - {MODEL, POPULARITY}
    baselines = {name: systems[name][ALL][RECALL] or 0.0 for name in own & systems.keys()}
    best = max(sorted(baselines), key=lambda name: baselines[name], default=None)
    if best is None or ALL not in intervals[MODEL]:
        return
    _, highest = intervals[MODEL][ALL][RECALL]
    if baselines[best] > highest:
        advice = "search settings with `twotower tune`"
        if config.history is None:
            advice = f"give the query tower a feature of `kind: history`, and {advice}"
        yield (
            f"{best} finds more (recall@10 {baselines[best]:.3f}) than the model "
            f"({systems[MODEL][ALL][RECALL]:.3f}, its interval ends at {highest:.3f}): {advice}"
        )


def _popularity_bias(config: Config, metrics: Mapping[str, float | None]) -> Iterator[str]:
    ratio, coverage = metrics["popularity_ratio_at_10"], metrics["coverage_at_10"]
    if ratio is None or ratio < POPULARITY_BIAS:
        return
    loss = config.loss
    if loss.kind == "softmax" and loss.logq_correction:
        advice = (
            "`--set loss.logq_correction=false` has the loss push popular candidates down, as "
            "they are drawn more often as negatives"
        )
    elif not loss.ranks_batch:
        advice = (
            "`loss.hard_negatives` takes the negatives from the batch, which holds popular "
            "candidates more often"
        )
    else:
        advice = "the rules `mmr_lambda` and `max_per_category` vary the lists when they are served"
    yield (
        f"the ten best are {ratio:.1f} times as popular as what is chosen, and "
        f"{coverage or 0.0:.0%} of the corpus is in any of them: {advice}"
    )


def _unused_features(config: Config, importance: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if config.ranking_is_query_independent:
        return
    unused = [one for one in importance if 1 - one["overlap_at_10"] < UNCHANGED]
    for is_context in (True, False):
        names = [one["feature"] for one in unused if one["is_context"] == is_context]
        if not names:
            continue
        features = ", ".join(f"`{name}`" for name in names)
        most = max(1 - one["overlap_at_10"] for one in unused if one["feature"] in names)
        found = f"shuffling {features} among the queries changes {most:.1%} of the ten best"
        if is_context:
            other = "trilinear" if config.context_mode == "user_tower" else "user_tower"
            yield (
                f"{found}: the moment makes no difference. Try `--set towers.context_mode={other}`,"
                " or leave it out of `features.context`, and compare with `twotower compare`"
            )
        else:
            yield f"{found}: leave it out of `features.query`, or look at how often it is missing"


def _index_loss(config: Config, attribution: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """At the cut-off where the index misses most."""
    losses = {
        row["missed_by_index"] / max(row["missed_by_index"] + row["found"], 1): row
        for row in attribution
    }
    loss = max(losses, default=0.0)
    if loss >= INDEX_LOSS:
        row = losses[loss]
        # Half of what is lost now, to three digits.
        target = round(1 - (1 - (config.index.target_recall or 1 - loss)) / 2, 3)
        yield (
            f"the index misses {loss:.1%} ({row['missed_by_index']:,}) of the relevant candidates "
            f"that exact search has among the first {row['k']}: `twotower export --target-recall "
            f"{target:g}`"
        )
