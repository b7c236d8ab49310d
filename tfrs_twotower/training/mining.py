"""Hard negatives mined from the corpus: what the model ranks best beside the positives.

The towers change as they learn, so every few epochs the corpus is ranked again for every query of
the train split. The mined rows are kept beside the checkpoints: a training that is resumed between
two minings continues with the same negatives.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tfrs_twotower.data.batches import known_pairs
from tfrs_twotower.data.prepared import Arrays, Corpus
from tfrs_twotower.evaluation.ranking import Pairs, rank
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import CHECKPOINTS
from tfrs_twotower.models.two_tower import TwoTowerModel
from tfrs_twotower.schema.loss import Loss
from tfrs_twotower.schema.prepared import LABEL, QUERY_ROW, TIMESTAMP_S

Ints = npt.NDArray[np.int64]

MINED_FILE = "mined.npz"


def segments(epochs: range, loss: Loss) -> Iterator[range]:
    """Cuts epochs where the corpus is mined again; one segment where nothing is mined.

    Args:
        epochs: The epochs still to be trained, numbered from 0.
        loss: How many negatives are mined, and how often.
    """
    start = epochs.start
    while start < epochs.stop:
        end = epochs.stop
        if loss.mined_negatives:
            end = min(end, (start // loss.mine_every + 1) * loss.mine_every)
        yield range(start, end)
        start = end


def mined_negatives(
    epoch: int, loss: Loss, folder: Path, mine_now: Callable[[], Ints]
) -> Ints | None:
    """The mined negatives of an epoch, read from the run folder or mined now.

    Args:
        epoch: First epoch of a segment, or the one to resume at.
        loss: How many negatives are mined, and how often.
        folder: The run folder.
        mine_now: Ranks the corpus with the model as it is.

    Returns:
        `[num_queries, num_mined]` candidate rows or -1; None before the first mining, as the
        ranking of untrained towers means nothing, and where nothing is mined.
    """
    mined_at = epoch // loss.mine_every * loss.mine_every
    if not loss.mined_negatives or mined_at == 0:
        return None
    file = folder / CHECKPOINTS / MINED_FILE
    if file.exists():
        with np.load(file, allow_pickle=False) as kept:
            if int(kept["epoch"]) == mined_at:
                return np.asarray(kept["rows"], np.int64)
    rows = mine_now()
    beside = file.with_suffix(".tmp.npz")
    np.savez_compressed(beside, epoch=mined_at, rows=rows.astype(np.int32))
    beside.replace(file)
    return rows


def mine(model: TwoTowerModel, examples: Arrays, corpus: Corpus, k: int) -> Ints:
    """Ranks the corpus for each query, with the features of its last train positive.

    Args:
        model: The two towers, as they are now.
        examples: Of the train split.
        corpus: The candidates.
        k: How many best-ranked candidates to keep, without known positives.

    Returns:
        `[num_queries, min(k, corpus size)]` candidate rows, best first, by query row; -1 where
        fewer are left, and for queries without a train positive.
    """
    last = _last_positives(examples)
    query_rows = examples[QUERY_ROW][last]
    known = known_pairs(examples, len(corpus), label=1).of_queries(query_rows)
    ranking = rank(
        embed(model.query_tower, {name: values[last] for name, values in examples.items()}),
        embed(model.candidate_tower, corpus.features),
        Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64)),
        Pairs(known.value_rowids().numpy(), known.values.numpy().astype(np.int64)),
        k=k,
    )
    mined = np.full([int(examples[QUERY_ROW].max()) + 1, ranking.top_rows.shape[1]], -1, np.int64)
    mined[query_rows] = ranking.top_rows
    return mined


def _last_positives(examples: Arrays) -> Ints:
    """Positions of each query's last positive, by time, then candidate and position."""
    positives = np.flatnonzero(examples[LABEL] == 1)
    order = positives[
        np.lexsort((positives, examples[TIMESTAMP_S][positives], examples[QUERY_ROW][positives]))
    ]
    rows = examples[QUERY_ROW][order]
    is_last = np.append(rows[1:] != rows[:-1], True)
    return order[is_last]
