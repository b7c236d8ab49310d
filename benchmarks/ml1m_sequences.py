"""MovieLens 1M, leave-last-out: a query tower that reads the past, among all items and 100.

SASRec's pre-processed events with the config that `twotower dataset sasrec` writes, the recipe for
ids with an order. The last event of each user tests, the one before validates, and the model sees
all events before the one to find, at most 200. What the user has had is not eligible. The epoch is
chosen on the validation events, then the model is trained once more on train and validation
(`training.refit`). Ranked are all 3,416 items, then the one item among 100 others, drawn uniformly
from what the user has not had.

Published, HR@10 / NDCG@10, all items: SASRec 0.2500 / 0.1341, with full cross-entropy 0.3152 /
0.1821 (Klenitskiy and Vasilev, RecSys 2023); among 100: SASRec.pytorch 0.8225 / 0.5918. The most
popular, counted over all events before the test, check the harness: 0.0363 / 0.0178 of all items.
"""

import tempfile
from pathlib import Path

from _datasets import keep_some_users
from _harness import TRAINED, Measurement, benchmark
from _ml1m import most_popular

from tfrs_twotower import api
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.schema import load_config

# Protocol -> whose figures stand beside ours, and what they are.
PUBLISHED = {
    "full": (
        "SASRec, full cross-entropy, as published",
        {"hit_rate_at_10": 0.3152, "ndcg_at_10": 0.1821},
    ),
    "sampled:100": (
        "SASRec.pytorch, as published",
        {"hit_rate_at_10": 0.8225, "ndcg_at_10": 0.5918},
    ),
}
QUICK_SHARE = 16  # One user in so many.


@benchmark(
    code=[*TRAINED, "tfrs_twotower/datasets/sasrec.yaml"],
    data="ml-1m",
    settings=True,
)
def main(quick: bool, data: Path, settings: list[str]) -> list[Measurement]:
    own = ["training.epochs=1"] if quick else []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepared, dataset = root / "prepared", root / "dataset"
        write_dataset("sasrec", dataset, data)
        if quick:
            keep_some_users(dataset, QUICK_SHARE)
        config = load_config(dataset / "twotower.yaml", [*own, *settings])
        api.prepare(config, dataset, prepared)
        api.train(config, prepared, root / "run")
        found = []
        for protocol, (versus, published) in PUBLISHED.items():
            systems = api.evaluate(root / "run", prepared, protocol=protocol).systems
            popular = most_popular(prepared, config, protocol, published)
            for metric, theirs in published.items():
                ours = systems["model"]["all"][metric]
                unit = f"{metric}, {protocol}"
                found += [
                    Measurement("attention", ours, unit, versus, theirs),
                    Measurement("most popular", popular[metric], unit),
                ]
    return found


if __name__ == "__main__":
    main()
