"""What was evaluated, in words: the protocol for titles, and where its figures leak or flatter.

Of one run the same model can have a recall@10 of 0.12, 0.44 and 0.81: who asks, among which
candidates, and how the log was split decide it. So every table says them.
"""

from collections.abc import Mapping
from typing import Any

from tfrs_twotower.evaluation.protocols import FULL, POPULAR, SAMPLED, EvaluationSet
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.hints import left_out


def cautions_of(
    config: Config, manifest: Mapping[str, Any], evaluation_set: EvaluationSet
) -> list[str]:
    """Why the figures of an evaluation flatter, beside those of the service; [] if they do not.

    Args:
        config: Of the run.
        manifest: Of the prepared folder.
        evaluation_set: What was asked.
    """
    found = []
    by = config.split.by
    if evaluation_set.protocol != FULL:
        found.append(
            "ranked among a few candidates, not the corpus: larger figures, which may order models "
            "differently and compare with the same protocol only"
        )
    if by == "random":
        found.append(
            "a random split: train holds what each user did before and after, which no service "
            "knows"
            + (
                "; history and clock of an event tell which one is lacking"
                if evaluation_set.unit == "event" and config.features.context
                else ""
            )
        )
    elif by in ("leave_last_out", "temporal_user"):
        found.append(
            "a split by user: train holds events of others that are later than those it is judged "
            "on"
        )
    if evaluation_set.unit == "event":
        found.append("events as queries: users with many events count many times")
    if evaluation_set.split == "train":
        found.append("the train split: what the model has learned by heart")
    if config.history_leaks_target:
        found.append("the id has learned which candidate the history lacks")
    if any(left_out(manifest)):
        found.append("events of candidates that train lacks are left out of the data")
    return found


def among_in_words(protocol: str, corpus_size: int) -> str:
    """Which candidates are ranked under a protocol, given by its name."""
    kind, _, others = protocol.partition("-")
    if kind in (SAMPLED, POPULAR):
        return f"1 + {int(others):,} {'random' if kind == SAMPLED else 'popular'} candidates"
    if kind == FULL:
        return f"all {corpus_size:,} candidates"
    return f"the candidates of {protocol}"
