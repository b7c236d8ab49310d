"""MovieLens 1M, the NCF paper's test: one film a user among 99 given ones.

Every rating a positive; the last rating of each user tests, the one before validates, the user's
earlier ones are the history that the query tower reads. The epoch is chosen on the validation part.

Published HR@10 / NDCG@10: NeuMF 0.7120 / 0.4369 (rerun by Ferrari Dacrema et al.), matrix
factorisation well tuned 0.7294 / 0.4523 (Rendle et al., RecSys 2020). None of these reads the order
of events, as ours does. The most popular, counted over all events but the test, check the harness:
0.4538 / 0.2545 on these files.
"""

import tempfile
from pathlib import Path

from _harness import TRAINED, Measurement, benchmark
from _ml1m import most_popular

from tfrs_twotower import api
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.schema import parse_config

VERSUS = "matrix factorisation, as published"
PUBLISHED = {"hit_rate_at_10": 0.7294, "ndcg_at_10": 0.4523}
QUICK_EPOCHS = 1
CONFIG = """
columns: {query_id: user_id, candidate_id: item_id, timestamp: timestamp, split: split}
features:
  query:
    past: {kind: history, length: 200, encoder: attention, dropout: 0.2}
  candidate:
    item_id: {kind: id}
split: {by: column}
towers: {embedding_dim: 64}
loss:
  temperature: 0.07
  in_batch_negatives: false
  uniform_negatives: 1024
  mask: accidental_hits
training:
  epochs: 20
  learning_rate: 0.002
  schedule: cosine
  metric: ndcg_at_10
"""


@benchmark(
    code=TRAINED,
    data="ml-1m",
    settings=True,
)
def main(quick: bool, data: Path, settings: list[str]) -> list[Measurement]:
    own = [f"training.epochs={QUICK_EPOCHS}"] if quick else []
    config = parse_config(CONFIG, "config", [*own, *settings])
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset("ncf", root / "dataset", data)
        api.prepare(config, root / "dataset", root / "prepared")
        api.train(config, root / "prepared", root / "run")
        given = f"given:{root / 'dataset' / 'given.parquet'}"
        ours = api.evaluate(root / "run", root / "prepared", protocol=given).systems["model"]["all"]
        popular = most_popular(root / "prepared", config, given, PUBLISHED)
    found = []
    for metric, published in PUBLISHED.items():
        found += [
            Measurement("attention over the past", ours[metric], metric, VERSUS, published),
            Measurement("most popular", popular[metric], metric),
        ]
    return found


if __name__ == "__main__":
    main()
