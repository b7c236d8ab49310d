"""What config, data and training of a run suggest to change.

Each hint is one sentence of what was found, in figures, and what to do about it, by which key or
command. What the figures of an evaluation suggest is `evaluation.hints`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tfrs_twotower.schema.config import Config
from tfrs_twotower.schema.features import Id
from tfrs_twotower.schema.prepared import NOT_IN_TRAIN
from tfrs_twotower.schema.split import SPLITS

# From these on a share is worth a sentence; once it is known what it costs, from the last.
MUCH_LEFT_OUT, MUCH_COLD, COSTLY_COLD = 0.01, 0.2, 0.05
# Positives a candidate below which an embedding of its id has hardly been trained.
FEW_POSITIVES = 5.0


def config_hints(config: Config) -> list[str]:
    """Of features that give the answer away, or can make no difference."""
    hints = []
    if config.history_leaks_target:
        hints.append(
            "data without times and a query with an id and a history: the id learns all positives, "
            "and which of them the history lacks is the answer. Leave one of the two features out"
        )
    if config.ranking_is_query_independent:
        hints.append(
            "a linear `towers.context_mode: scoring_layer` ranks the candidates alike for every "
            "user and moment: give it a hidden layer, such as `towers.scoring_hidden_units: [64]`"
        )
    return hints


class ColdRecall(NamedTuple):
    """Recall@10 of a model for cold and for warm queries or candidates; None: there are none."""

    cold: float | None = None
    warm: float | None = None

    @property
    def in_words(self) -> str:
        """Both in brackets; "" where one is lacking."""
        if self.cold is None or self.warm is None:
            return ""
        return f" (recall@10 {self.cold:.3f}, of the others {self.warm:.3f})"

    @property
    def halves(self) -> bool:
        """Whether the cold ones have less than half the recall of the warm ones."""
        return self.cold is not None and self.warm is not None and 2 * self.cold < self.warm


def data_hints(
    config: Config,
    manifest: Mapping[str, Any],
    split: str = "test",
    *,
    candidates: ColdRecall | None = None,
    queries: ColdRecall | None = None,
) -> list[str]:
    """Of candidates and queries that train does not know, and of too few events.

    Args:
        config: Says what the towers read.
        manifest: Of the prepared folder.
        split: Which split the model is judged on.
        candidates: What became of cold candidates there; None: not evaluated.
        queries: Likewise of cold queries.
    """
    return [
        *left_out(manifest),
        *_cold_candidates(config, manifest, split, candidates or ColdRecall()),
        *_cold_queries(config, manifest, split, queries or ColdRecall()),
        *_few_events(config, manifest),
    ]


def training_hints(num_epochs: int, best_epoch: int, *, is_validated: bool) -> list[str]:
    """Of a training that ended while the model was still improving.

    Args:
        num_epochs: That it took.
        best_epoch: From 0.
        is_validated: Whether the best one is known from a validation split.
    """
    if not (is_validated and best_epoch == num_epochs - 1 > 0):
        return []
    return [
        f"the last of {num_epochs} epochs was the best, so the model was still improving: train "
        f"longer, with `--set training.epochs={2 * num_epochs}`"
    ]


def left_out(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Of events that cannot be judged, as no candidates file lists what they are of."""
    counts = manifest["counts"]
    num_left_out = counts.get("filtered", {}).get(NOT_IN_TRAIN, 0)
    num_kept = sum(sum(counts["examples"][split].values()) for split in SPLITS[1:])
    share = num_left_out / max(num_left_out + num_kept, 1)
    if share >= MUCH_LEFT_OUT:
        yield (
            f"{share:.0%} of the events after train ({num_left_out:,}) are left out: without a "
            "candidates file the corpus is the ids of train, and theirs are newer. Set "
            "`split.corpus: log` for a corpus of all ids of the log, or bring a candidates file"
        )


def _cold_candidates(
    config: Config, manifest: Mapping[str, Any], split: str, recall: ColdRecall
) -> Iterator[str]:
    share = _cold_share(manifest, split, "candidates")
    if share < (COSTLY_COLD if recall.halves else MUCH_COLD):
        return
    found = f"{share:.0%} of the candidates of the {split} split have no positive in train"
    found += recall.in_words
    if all(isinstance(feature, Id) for feature in config.candidate_features.values()):
        yield (
            f"{found}, and the candidate tower reads nothing but an id, which says nothing of "
            "them: longer training will not find them. Give the tower content (title, category, "
            "text), train on later events, or serve what is recent beside the model"
        )
    else:
        yield (
            f"{found}: see the slice `new candidates`; more content under `features.candidate` and "
            "`dropout` of the id feature teach the tower such candidates"
        )


def _cold_queries(
    config: Config, manifest: Mapping[str, Any], split: str, recall: ColdRecall
) -> Iterator[str]:
    share = _cold_share(manifest, split, "queries")
    if share < (COSTLY_COLD if recall.halves else MUCH_COLD):
        return
    found = f"{share:.0%} of the queries of the {split} split have no positive in train"
    found += recall.in_words
    if all(isinstance(feature, Id) for feature in config.query_features.values()):
        yield (
            f"{found}, and the query tower reads nothing but an id: give it a history, a profile "
            "or context"
        )
    elif recall.halves:
        yield (
            f"{found}: see the slice `cold`; a profile under `features.query`, and `dropout` of "
            "the id feature, teach the tower such queries"
        )


def _few_events(config: Config, manifest: Mapping[str, Any]) -> Iterator[str]:
    num_positives = manifest["counts"]["examples"]["train"]["positives"]
    per_candidate = num_positives / max(manifest["corpus_size"], 1)
    if per_candidate < FEW_POSITIVES:
        yield (
            f"train has {num_positives:,} positives for {manifest['corpus_size']:,} candidates, "
            f"{per_candidate:.1f} each: expect little of ids; content, `filters.min_per_candidate` "
            f"and a smaller `towers.embedding_dim` (now {config.towers.embedding_dim}) help"
        )


def _cold_share(manifest: Mapping[str, Any], split: str, kind: str) -> float:
    of_split = manifest.get("warm_cold", {}).get(split)
    if of_split is None:
        return 0.0
    cold, warm = of_split[f"cold_{kind}"], of_split[f"warm_{kind}"]
    return float(cold / max(cold + warm, 1))
