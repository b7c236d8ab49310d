"""Evaluation protocols: which queries, which candidates are relevant, which are eligible.

The full protocol ranks the whole corpus. Sampled protocols rank the relevant candidates of a query
among a few others: their metrics are larger, may order models differently (Krichene and Rendle, On
Sampled Metrics for Item Recommendation, KDD 2020), and compare with nothing but the same protocol.
They are used only where they are asked for.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.prepared import Arrays, PreparedData
from tfrs_twotower.evaluation.lists import read_lists
from tfrs_twotower.evaluation.ranking import Pairs
from tfrs_twotower.schema import SPLITS, Parameter, UsageError, UserError
from tfrs_twotower.schema import prepared as layout

Ints = npt.NDArray[np.int64]
Unit = Literal["user", "event"]
UNITS = ("user", "event")

FULL, SAMPLED, POPULAR, GIVEN = "full", "sampled", "popular", "given"
# A block of so many queries draws from one generator: another size draws other candidates.
QUERIES_A_DRAW = 256


class EvaluationSet(NamedTuple):
    """Queries of a split, with their relevant and their excluded candidates.

    Attributes:
        features: Encoded query features by name, one entry a query.
        query_rows: `[num_queries]` int64.
        positives: The relevant candidates, at least one a query.
        excluded: Candidates that are not eligible.
        num_known: Relevant candidates left out because they are excluded.
        listed: The only eligible candidates; None: the whole corpus.
        protocol: Its name.
        relevant_from: The least weight of a relevant candidate.
        num_left_out: Queries left out because a given list has none of their relevant candidates.
        split: The split that the queries are of.
        unit: See `load_evaluation_set`.
        excludes_known: Likewise.
    """

    features: Arrays
    query_rows: Ints
    positives: Pairs
    excluded: Pairs
    num_known: int
    listed: Pairs | None = None
    protocol: str = FULL
    relevant_from: float = 0.0
    num_left_out: int = 0
    split: str = "test"
    unit: Unit = "user"
    excludes_known: bool = True

    def take(self, kept: Ints) -> "EvaluationSet":
        """Some of the queries, given by ascending position."""
        return self._replace(
            features={name: values[kept] for name, values in self.features.items()},
            query_rows=self.query_rows[kept],
            positives=self.positives.of(kept),
            excluded=self.excluded.of(kept),
            listed=None if self.listed is None else self.listed.of(kept),
        )


class Protocol(NamedTuple):
    """The candidates among which the relevant ones are ranked."""

    kind: str  # FULL, SAMPLED (uniformly), POPULAR (by train count) or GIVEN (lists of a file).
    num_sampled: int = 0  # Of SAMPLED and POPULAR: how many others a query gets.
    lists: Path | None = None  # Of GIVEN.

    @property
    def name(self) -> str:
        """Labels results and is part of their files' names."""
        of = self.num_sampled or (self.lists and self.lists.stem)
        return f"{self.kind}-{of}" if of else self.kind

    @property
    def text(self) -> str:
        """What `parse_protocol` reads."""
        value = self.num_sampled or self.lists
        return f"{self.kind}:{value}" if value else self.kind


def parse_protocol(text: str) -> Protocol:
    """Reads `full`, `sampled:N`, `popular:N` or `given:FILE`.

    Raises:
        UsageError: If it is none of these.
    """
    kind, _, value = text.partition(":")
    if text == FULL:
        return Protocol(FULL)
    if kind in (SAMPLED, POPULAR) and value.isdecimal() and int(value):
        return Protocol(kind, num_sampled=int(value))
    if kind == GIVEN and value:
        return Protocol(GIVEN, lists=Path(value))
    raise UsageError(
        f"protocol {text!r}: expected full, sampled:N (N others at random), popular:N (N others by "
        "popularity) or given:FILE (Parquet with query_id and candidate_ids)"
    )


def load_evaluation_set(
    data: PreparedData,
    split: str,
    *,
    unit: Unit = "user",
    exclude_known: bool | None = None,
    relevant_from: float = 0.0,
) -> EvaluationSet:
    """Reads the queries of a split, to be ranked over the whole corpus.

    Args:
        data: The prepared folder.
        split: "train", "validation" or "test".
        unit: "user": each query once, as it is at its first event of the split, and all its
            positives of the split are relevant. "event": each positive event is a query of its
            own with one relevant candidate.
        exclude_known: Whether the query's positives of earlier splits are not eligible; None: as
            `rules.exclude_known` of the config says.
        relevant_from: Positives of at least this weight are relevant; weaker ones are neither
            relevant nor excluded.

    Raises:
        UserError: If the split has no positive to find.
        UsageError: If it is unknown, or the validation split of a refit run.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if split == "validation" and split in data.training_splits:
        raise UsageError(
            "the run was refit on train and validation, so the validation split judges nothing: "
            "evaluate the test split; metrics.json of the run has the validation of the first "
            "training"
        )
    examples = data.examples(split)
    is_positive = (examples[layout.LABEL] == 1) & (examples[layout.WEIGHT] >= relevant_from)
    examples = {name: values[is_positive] for name, values in examples.items()}
    keys = (layout.CANDIDATE_ROW, layout.TIMESTAMP_S, layout.QUERY_ROW)
    order = np.lexsort([examples[key] for key in keys])
    examples = {name: values[order] for name, values in examples.items()}
    query_rows = examples[layout.QUERY_ROW].astype(np.int64)
    candidate_rows = examples[layout.CANDIDATE_ROW].astype(np.int64)
    if unit == "user":
        first_of_query = np.unique(query_rows, return_index=True)[1]
        queries = np.unique(query_rows, return_inverse=True)[1]
        pairs = np.unique(np.stack([queries, candidate_rows], axis=1), axis=0)
        positives = Pairs(pairs[:, 0], pairs[:, 1])
    else:
        first_of_query = np.arange(len(query_rows))
        positives = Pairs(first_of_query, candidate_rows)
    if exclude_known is None:
        exclude_known = data.config.rules.exclude_known
    known = _known_pairs(data, split) if exclude_known else Pairs(*np.zeros([2, 0], np.int64))
    size = int(data.manifest["corpus_size"])
    is_known = np.isin(
        query_rows[first_of_query][positives.queries] * size + positives.candidate_rows,
        known.queries * size + known.candidate_rows,
    )
    kept, queries = np.unique(positives.queries[~is_known], return_inverse=True)
    if not len(kept):
        above = f" of weight {relevant_from} or more" if relevant_from else ""
        lower = ("lower ", Parameter("relevant_from"))
        larger = ("give it a larger share in `split` of the config",)
        raise UserError(
            f"{data.folder}: the {split} split has no positive{above} that its query did not have "
            "before: ",
            *(lower if relevant_from else larger),
            ", or evaluate another split",
        )
    entries = first_of_query[kept]
    skipped = (*keys, layout.LABEL, layout.WEIGHT, *data.config.candidate_aggregates)
    return EvaluationSet(
        features={
            name: values[entries] for name, values in examples.items() if name not in skipped
        },
        query_rows=query_rows[entries],
        positives=Pairs(queries, positives.candidate_rows[~is_known]),
        excluded=_pairs_of(query_rows[entries], known),
        num_known=int(is_known.sum()),
        excludes_known=exclude_known,
        relevant_from=relevant_from,
        split=split,
        unit=unit,
    )


def under_protocol(
    evaluation_set: EvaluationSet,
    protocol: Protocol,
    *,
    query_ids: npt.NDArray[np.str_],
    candidate_ids: npt.NDArray[np.str_],
    train_counts: Ints,
    seed: int,
) -> EvaluationSet:
    """The same queries under another protocol, ranked among fewer candidates.

    Args:
        evaluation_set: The full protocol.
        protocol: Which candidates: a query's relevant ones, and those drawn or given.
        query_ids: `[num_queries]` ids of the queries.
        candidate_ids: `[corpus_size]` ids of the corpus by row.
        train_counts: `[corpus_size]`, what popularity draws by.
        seed: Decides what is drawn.

    Raises:
        UserError: If the given lists cannot be read, or hold no relevant candidate.
    """
    if protocol.kind == FULL:
        return evaluation_set
    if protocol.lists is not None:
        return _among_given(evaluation_set, protocol, query_ids, candidate_ids)
    weights = train_counts if protocol.kind == POPULAR else np.ones_like(train_counts)
    drawn = draw_others(evaluation_set, weights, protocol.num_sampled, seed)
    pairs = np.concatenate([np.stack(evaluation_set.positives), np.stack(drawn)], axis=1)
    pairs = np.unique(pairs, axis=1)
    return evaluation_set._replace(listed=Pairs(pairs[0], pairs[1]), protocol=protocol.name)


def draw_others(evaluation_set: EvaluationSet, weights: Ints, num_drawn: int, seed: int) -> Pairs:
    """Draws candidates that are neither relevant nor excluded, without replacement.

    Args:
        evaluation_set: The queries.
        weights: `[corpus_size]` what the first draw of a query is proportional to; a candidate of
            weight 0 is not drawn.
        num_drawn: How many a query; fewer where there are no more.
        seed: Decides what is drawn.

    References:
        Efraimidis and Spirakis, Weighted Random Sampling with a Reservoir, 2006.
    """
    corpus_size, num_queries = len(weights), len(evaluation_set.query_rows)
    num_drawn = min(num_drawn, corpus_size)
    with np.errstate(divide="ignore"):
        scale = (1.0 / weights).astype(np.float32)
    drawn = []
    for block, start in enumerate(range(0, num_queries, QUERIES_A_DRAW)):
        end = min(start + QUERIES_A_DRAW, num_queries)
        waiting = np.random.default_rng([seed, block]).standard_exponential(
            [end - start, corpus_size], np.float32
        )
        waiting *= scale  # The smallest waiting times win.
        for pairs in (evaluation_set.positives, evaluation_set.excluded):
            part = pairs.between(start, end)
            waiting[part.queries, part.candidate_rows] = np.inf
        rows = np.argpartition(waiting, num_drawn - 1, axis=1)[:, :num_drawn]
        is_there = np.isfinite(np.take_along_axis(waiting, rows, axis=1))
        queries = np.broadcast_to(np.arange(start, end)[:, np.newaxis], rows.shape)
        drawn.append(Pairs(queries[is_there], rows[is_there]))
    return Pairs(*(np.concatenate(parts) for parts in zip(*drawn, strict=True)))


def _among_given(
    evaluation_set: EvaluationSet,
    protocol: Protocol,
    query_ids: npt.NDArray[np.str_],
    candidate_ids: npt.NDArray[np.str_],
) -> EvaluationSet:
    """Queries without a list, or whose list has no relevant candidate, are left out.

    A list decides what is eligible: candidates that the query had before are not excluded.
    """
    assert protocol.lists is not None
    pairs = read_lists(protocol.lists, query_ids, candidate_ids).drop_duplicates()
    size = len(candidate_ids)
    is_relevant = np.isin(
        evaluation_set.positives.queries * size + evaluation_set.positives.candidate_rows,
        pairs["query"] * size + pairs["row"],
    )
    if not is_relevant.any():
        raise UserError(
            f"{protocol.lists}: no list holds a relevant candidate of its query: are these lists "
            "of this data set and split?"
        )
    pairs = pairs.sort_values(["query", "row"])
    kept = np.unique(evaluation_set.positives.queries[is_relevant])
    nothing = np.zeros(0, np.int64)
    return evaluation_set._replace(
        positives=Pairs(*(column[is_relevant] for column in evaluation_set.positives)),
        excluded=Pairs(nothing, nothing),
        listed=Pairs(pairs["query"].to_numpy(np.int64), pairs["row"].to_numpy(np.int64)),
        protocol=protocol.name,
        num_left_out=len(evaluation_set.query_rows) - len(kept),
    ).take(kept)


def _known_pairs(data: PreparedData, split: str) -> Pairs:
    """(query row, candidate row) pairs of the positives of the splits before, ordered."""
    if split == "train":
        return Pairs(*np.zeros([2, 0], np.int64))
    query_rows, candidate_rows = data.known_positives()
    if split == "test":
        validation = data.events("validation")
        is_positive = validation[layout.LABEL] == 1
        query_rows = np.append(query_rows, validation[layout.QUERY_ROW][is_positive])
        candidate_rows = np.append(candidate_rows, validation[layout.CANDIDATE_ROW][is_positive])
    pairs = np.unique(np.stack([query_rows, candidate_rows], axis=1).astype(np.int64), axis=0)
    return Pairs(pairs[:, 0], pairs[:, 1])


def _pairs_of(query_rows: Ints, known: Pairs) -> Pairs:
    """The known pairs of each query, queries numbered by their position in `query_rows`."""
    first = np.searchsorted(known.queries, query_rows, side="left")
    last = np.searchsorted(known.queries, query_rows, side="right")
    lengths = last - first
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts - first, lengths)
    return Pairs(np.repeat(np.arange(len(query_rows)), lengths), known.candidate_rows[positions])
