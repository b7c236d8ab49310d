"""How much the moment changes what a run recommends."""

from pathlib import Path

from tfrs_twotower.evaluation.evaluate import rank_model
from tfrs_twotower.evaluation.insights import spread
from tfrs_twotower.evaluation.moments import (
    LIST_LENGTH,
    Moment,
    MomentOverlap,
    moment_overlap,
    morning_and_evening,
)
from tfrs_twotower.evaluation.protocols import EvaluationSet, evaluation_set
from tfrs_twotower.evaluation.ranking import Ranking
from tfrs_twotower.models.run_folder import load_run
from tfrs_twotower.schema import UsageError

MAX_QUERIES = 2000


def sensitivity(
    run: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    first: Moment | None = None,
    second: Moment | None = None,
) -> MomentOverlap:
    """Compares the lists of two moments, over at most 2,000 users of a split.

    Args:
        run: What `twotower train` wrote.
        data: The prepared folder it was trained on.
        split: Whose users are asked.
        first: Raw values of context features; default: a morning.
        second: Default: the evening of that day.

    Raises:
        UserError: If a folder does not serve; see `load_run` and `moment_overlap`.
        UsageError: If the model has no context, or a moment is empty, or none is given and the
            model reads no hour.
    """
    loaded = load_run(run, data)
    if not loaded.config.features.context:
        raise UsageError(
            "the config has no context features: no moment changes what is recommended"
        )
    default = morning_and_evening(loaded.config)
    if (first is None) != (second is None):
        raise UsageError("give both moments or none")
    if first is None or second is None:
        if default is None:
            raise UsageError("the model reads no hour of a day: say which two moments to compare")
        first, second = default
    if not (first and second):
        raise UsageError(
            "a moment is empty: name a value of a context feature, one of "
            f"{', '.join(loaded.config.features.context)}"
        )
    asked = evaluation_set(loaded.data, split)
    asked = asked.take(spread(len(asked.query_rows), MAX_QUERIES))
    corpus = loaded.data.corpus()

    def rank(asked: EvaluationSet) -> Ranking:
        return rank_model(loaded.model, corpus, asked, LIST_LENGTH)

    return moment_overlap(rank, asked, loaded.data, first, second)
