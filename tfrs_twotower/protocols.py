"""What an evaluation asks: which queries, what counts as right, what is not eligible."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data import Arrays, PreparedData
from tfrs_twotower.ranking import Pairs
from tfrs_twotower.schema import SPLITS, UsageError, UserError
from tfrs_twotower.schema import prepared as layout

Ints = npt.NDArray[np.int64]
Unit = Literal["user", "event"]


class EvaluationSet(NamedTuple):
    """Queries of a split, with their relevant and their excluded candidates.

    `features`: encoded query features, one entry a query; `query_rows`: `[num_queries]`;
    `positives`: the relevant candidates, at least one a query; `excluded`: candidates that are not
    eligible; `num_known`: relevant candidates left out because they are excluded.
    """

    features: Arrays
    query_rows: Ints
    positives: Pairs
    excluded: Pairs
    num_known: int


def evaluation_set(
    data: PreparedData, split: str, *, unit: Unit = "user", exclude_known: bool = True
) -> EvaluationSet:
    """The full-corpus protocol.

    Args:
        data: The prepared folder.
        split: "train", "validation" or "test".
        unit: "user": each query once, as it is at its first event of the split, and all its
            positives of the split are relevant. "event": each positive event is a query of its
            own with one relevant candidate.
        exclude_known: Whether the query's positives of earlier splits are not eligible.

    Raises:
        UserError: If the split has no positive to find.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    examples = data.examples(split)
    is_positive = examples[layout.LABEL] == 1
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
    known = _known_pairs(data, split) if exclude_known else Pairs(*np.zeros([2, 0], np.int64))
    is_known = _is_among(query_rows[first_of_query][positives.queries], positives, known, data)
    asked, queries = np.unique(positives.queries[~is_known], return_inverse=True)
    if not len(asked):
        raise UserError(
            f"{data.folder}: the {split} split has no positive that its query did not have before: "
            "give it a larger share in `split` of the config, or evaluate another split"
        )
    entries = first_of_query[asked]
    skipped = (*keys, layout.LABEL, layout.WEIGHT)
    return EvaluationSet(
        features={
            name: values[entries] for name, values in examples.items() if name not in skipped
        },
        query_rows=query_rows[entries],
        positives=Pairs(queries, positives.candidate_rows[~is_known]),
        excluded=_pairs_of(query_rows[entries], known),
        num_known=int(is_known.sum()),
    )


def _known_pairs(data: PreparedData, split: str) -> Pairs:
    """(query row, candidate row) pairs of the positives of the splits before, ordered."""
    if split == "train":
        return Pairs(*np.zeros([2, 0], np.int64))
    query_rows, candidate_rows = data.known_positives()
    if split == "test":
        validation = data.examples("validation")
        is_positive = validation[layout.LABEL] == 1
        query_rows = np.append(query_rows, validation[layout.QUERY_ROW][is_positive])
        candidate_rows = np.append(candidate_rows, validation[layout.CANDIDATE_ROW][is_positive])
    pairs = np.unique(np.stack([query_rows, candidate_rows], axis=1).astype(np.int64), axis=0)
    return Pairs(pairs[:, 0], pairs[:, 1])


def _is_among(
    query_rows: Ints, positives: Pairs, known: Pairs, data: PreparedData
) -> npt.NDArray[np.bool_]:
    """For each positive whether its query had it before."""
    size = int(data.manifest["corpus_size"])
    return np.isin(
        query_rows * size + positives.candidate_rows, known.queries * size + known.candidate_rows
    )


def _pairs_of(query_rows: Ints, known: Pairs) -> Pairs:
    """The known pairs of each asked query, queries counted by their position in `query_rows`."""
    first = np.searchsorted(known.queries, query_rows, side="left")
    last = np.searchsorted(known.queries, query_rows, side="right")
    lengths = last - first
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts - first, lengths)
    return Pairs(np.repeat(np.arange(len(query_rows)), lengths), known.candidate_rows[positions])
