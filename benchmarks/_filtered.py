"""Queries under filters of several selectivities, beside the same queries without a filter."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from _clustered import FEATURE, Floats, Ints, K, exact_rows, export, recall
from _harness import Measurement, alternate, milliseconds

from serving.loading import load
from tfrs_twotower.index import CandidateIndex
from tfrs_twotower.retrieval.attributes import CandidateAttributes
from tfrs_twotower.schema.rules import Rules

ATTRIBUTE = "share"
# The share of the corpus that a filter leaves, by the value that it asks for.
SHARES = {"50 %": 0.5, "10 %": 0.1, "1 %": 0.01, "0.1 %": 0.001, "0.01 %": 0.0001}
BATCHES = {1: 20, 64: 2}  # Calls in a turn, by rows of a call.
NUM_QUERIES = 128  # Of which the recall is read.


def filtered(
    label: str, index: CandidateIndex, candidates: Floats, queries: Floats, *, rounds: int
) -> Iterator[Measurement]:
    """Recall of the eligible candidates, and times beside those of unfiltered queries.

    Args:
        label: Put before each name.
        index: The corpus.
        candidates: `[num_candidates, embedding_dim]`, the same.
        queries: `[num_queries, embedding_dim]`.
        rounds: How often each filter has its turn.
    """
    drawn = np.random.default_rng(1).permutation(len(candidates)) / len(candidates)
    with tempfile.TemporaryDirectory() as folder:
        export(index, Path(folder, "1"), attributes=attributes(drawn))
        servable = load(Path(folder, "1"), "retrieval", 1)
    defaults = servable.signatures["recommend"].defaults

    def recommend(first: int, num_rows: int, value: str | None) -> Any:
        inputs = {**defaults, "k": np.array([K], np.int32), FEATURE: queries[first:][:num_rows]}
        if value is not None:
            # A list of text in a request begins with "".
            inputs[f"filter_{ATTRIBUTE}_any"] = np.array([[b"", value.encode()]], np.object_)
        return servable.run("recommend", inputs)["candidate_ids"]

    for value, (first, last) in bounds().items():
        eligible = np.flatnonzero((first <= drawn) & (drawn < last))
        truth = best_of(eligible, candidates, queries[:NUM_QUERIES])
        found = np.concatenate([recommend(row, 64, value) for row in range(0, NUM_QUERIES, 64)])
        answered = np.where(found == b"", b"-1", found).astype(np.int64)
        # Of the true ones: an answer to a filter that leaves few has empty slots.
        yield Measurement(f"{label}{value} eligible, recall@{K}", recall(truth, answered), "")

    for num_rows, calls in BATCHES.items():
        place = iter(range(10**9))

        def asking(
            value: str | None, num_rows: int = num_rows, calls: int = calls, place: Any = place
        ) -> Callable[[], None]:
            def run() -> None:
                for _ in range(calls):
                    recommend(next(place) * num_rows % (len(queries) - num_rows), num_rows, value)

            return run

        names = {f"{value} eligible": value for value in SHARES}
        contestants = {"no filter": asking(None)}
        contestants |= {name: asking(value) for name, value in names.items()}
        seconds = alternate(contestants, rounds)
        of_one = {name: [one / calls for one in times] for name, times in seconds.items()}
        rows = f"{label}{num_rows} {'query' if num_rows == 1 else 'queries'}, "
        yield milliseconds(of_one, "no filter", label=rows)
        for name in names:
            yield milliseconds(of_one, name, "no filter", label=rows)
    servable.close()


def best_of(eligible: Ints, candidates: Floats, queries: Floats) -> Ints:
    """The rows of the best of the eligible candidates, 100 or all."""
    if len(eligible) <= K:
        return np.tile(eligible, (len(queries), 1))
    return eligible[exact_rows(candidates[eligible], queries)]


def bounds() -> dict[str, tuple[float, float]]:
    """Which numbers of `[0, 1)` have a value; each has at most one."""
    last = np.cumsum(list(SHARES.values()))
    first = last - list(SHARES.values())
    return dict(zip(SHARES, zip(first, last, strict=True), strict=True))


def attributes(drawn: Any) -> CandidateAttributes:
    """The value of each candidate by its number, `[0, 1)`; many have none."""
    values = np.full(len(drawn), "", object)
    for value, (first, last) in bounds().items():
        values[(first <= drawn) & (drawn < last)] = value
    return CandidateAttributes(Rules(filters=[ATTRIBUTE]), pa.table({ATTRIBUTE: pa.array(values)}))
