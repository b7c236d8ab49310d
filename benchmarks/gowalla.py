"""gowalla, full ranking: Recall@20 and NDCG@20 with 64 dimensions, as BARS and LightGCN have it.

The published split; every user with a test item ranks all 40,981 items but those of the user's
train part. The config is the one that `twotower dataset ngcf` writes, the recipe for ids without an
order. The split has no validation part: the settings were chosen on a tenth of train (`--hold-out`
trains on the other nine and shows that figure, `--set` changes a setting); the result is that of
the last epoch of a training on the whole of train. The best epoch on test is shown beside it,
because published figures are chosen so.

Published: most popular 0.0416 / 0.0317, YoutubeDNN 0.1754 / 0.1473, MF+BSL 0.1882 / 0.1584.
"""

import tempfile
from pathlib import Path

from _datasets import keep_some_users
from _harness import TRAINED, Measurement, benchmark

from tfrs_twotower import api
from tfrs_twotower.data.prepared import PreparedData
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.evaluation import metrics
from tfrs_twotower.evaluation.inputs import rank_model
from tfrs_twotower.evaluation.protocols import EvaluationSet, load_evaluation_set
from tfrs_twotower.evaluation.ranking import Ranking
from tfrs_twotower.keras import keras
from tfrs_twotower.schema import load_config

PUBLISHED = {"recall_at_20": 0.1754, "ndcg_at_20": 0.1473}
NUM_CANDIDATES = 40_981  # Of gowalla; --data may name another set cut so.
VERSUS = "YoutubeDNN, as published"
QUICK_EPOCHS = 3
QUICK_SHARE = 4  # One user in so many.


class OnTest(keras.callbacks.Callback):
    """Looks at the test split after every `every` epochs, and after the last."""

    def __init__(self, data: PreparedData, every: int) -> None:
        """Reads the test split."""
        super().__init__()
        self._evaluation_set, self._corpus, self._every = (
            load_evaluation_set(data, "test"),
            data.corpus(),
            every,
        )
        self.best = dict.fromkeys(PUBLISHED, 0.0)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Keeps the figures of the epoch with the best recall."""
        if (epoch + 1) % self._every and epoch + 1 < self.params["epochs"]:
            return
        found = figures(
            self._evaluation_set, rank_model(self.model, self._corpus, self._evaluation_set)
        )
        self.best = max(self.best, found, key=lambda one: one["recall_at_20"])


def figures(evaluation_set: EvaluationSet, ranking: Ranking) -> dict[str, float]:
    """The two metrics of the protocol."""
    queries = evaluation_set.positives.queries
    return {name: float(metrics.by_name(name, queries, ranking.ranks).mean()) for name in PUBLISHED}


@benchmark(
    code=[*TRAINED, "tfrs_twotower/datasets/ngcf.yaml"],
    data="gowalla",
    flags={"hold_out": "train on nine tenths of train, rank the rest"},
    settings=True,
)
def main(quick: bool, data: Path, hold_out: bool, settings: list[str]) -> list[Measurement]:
    own = [f"training.epochs={QUICK_EPOCHS}"] if quick else []
    own += [] if hold_out else ["split.hold_out=0.0"]
    split = "validation" if hold_out else "test"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset("ngcf", root / "dataset", data)
        if quick:
            keep_some_users(root / "dataset", QUICK_SHARE)
        config = load_config(root / "dataset" / "twotower.yaml", [*own, *settings])
        api.prepare(config, root / "dataset", root / "prepared")
        prepared = PreparedData(root / "prepared", config)
        watch = OnTest(prepared, every=1 if quick else 5)
        api.train(config, root / "prepared", root / "run", callbacks=[watch], progress=False)
        rankings = api.evaluate(root / "run", root / "prepared", split=split).rankings
        evaluation_set = load_evaluation_set(prepared, split)
        is_gowalla = len(prepared.corpus()) == NUM_CANDIDATES
    ours, popular = (figures(evaluation_set, rankings[name]) for name in ("model", "popularity"))
    found = []
    for name, published in PUBLISHED.items():
        unit = f"{name}, {split}"
        found.append(Measurement("most popular", popular[name], unit))
        if hold_out:
            found.append(Measurement("two towers", ours[name], unit))
            continue
        versus = (VERSUS, published) if is_gowalla and not quick else ()
        found += [
            Measurement("two towers, last epoch", ours[name], unit, *versus),
            Measurement("two towers, best epoch on test", watch.best[name], unit, *versus),
        ]
    return found


if __name__ == "__main__":
    main()
