"""MovieLens 1M: SASRec's order of events, leave-last-out, and the non-learned baselines."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from tfrs_twotower import api
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.evaluation import baselines, metrics
from tfrs_twotower.evaluation.protocols import load_evaluation_set, parse_protocol, under_protocol
from tfrs_twotower.schema import Config
from tfrs_twotower.schema.prepared import CANDIDATE_ROW

COLUMNS = "{query_id: user, candidate_id: item, timestamp: at, order: place}"


def read_events(folder: Path, share: float = 1.0) -> pd.DataFrame:
    """The 999,611 events of the pre-processed file with the times of the original ratings.

    Args:
        folder: Holds `sasrec_ml-1m.txt.gz`, the maps back to original ids and `ratings.dat.gz`.
        share: Of the users, evenly over their ids; smaller for a quick look.

    Returns:
        `user`, `item` (SASRec's ids as text), `at` (Unix seconds), `place` (order of events).
    """
    events = pd.read_csv(folder / "sasrec_ml-1m.txt.gz", sep=" ", names=["user", "item"])
    events = events[events["user"] % round(1 / share) == 0]
    for name in ("user", "item"):
        pairs = pd.read_csv(folder / f"sas_to_original_{name}s.txt", sep=" ", header=None)
        events[f"original_{name}"] = events[name].map(pairs.set_index(0)[1])
    ratings = pd.read_csv(
        folder / "ratings.dat.gz",
        sep="::",
        engine="python",
        names=["original_user", "original_item", "rating", "at"],
    )
    events["place"] = range(len(events))
    keys = ["original_user", "original_item"]
    events = events.merge(ratings[[*keys, "at"]], on=keys, how="left", validate="one_to_one")
    events = events.sort_values("place")
    if events["at"].isna().any():
        raise ValueError(f"{folder}: some events have no rating in ratings.dat.gz")
    return pd.DataFrame(
        {
            "user": events["user"].astype(str),
            "item": events["item"].astype(str),
            "at": events["at"].astype("int64"),
            "place": events["place"],
        }
    )


def prepare(events: pd.DataFrame, config: Config, root: Path) -> Path:
    """Writes dataset and prepared folders under `root`; returns the latter."""
    dataset = root / "dataset"
    dataset.mkdir(parents=True)
    events.to_parquet(dataset / "interactions.parquet", index=False)
    api.prepare(config, dataset, root / "prepared")
    return root / "prepared"


def most_popular(
    prepared: Path, config: Config, protocol: str, names: Iterable[str]
) -> dict[str, float]:
    """Metrics of what published tables call the most popular: counted over all but the test.

    The baseline of an evaluation counts the train part alone, as the model does.
    """
    data = PreparedData(prepared, config)
    corpus = data.corpus()
    evaluation_set = load_evaluation_set(data, "test")
    evaluation_set = under_protocol(
        evaluation_set,
        parse_protocol(protocol),
        query_ids=data.query_ids()[evaluation_set.query_rows],
        candidate_ids=corpus.candidate_ids,
        train_counts=corpus.train_counts,
        seed=config.training.seed,
    )
    rows = np.concatenate([data.events(split)[CANDIDATE_ROW] for split in ("train", "validation")])
    counts = np.bincount(rows, minlength=len(corpus))
    ranks = baselines.popularity(evaluation_set, counts, 0).ranks
    queries = evaluation_set.positives.queries
    return {name: float(metrics.by_name(name, queries, ranks).mean()) for name in names}
