"""MovieLens 1M, leave-last-out, full ranking over 3,416 items: a query tower that reads the past.

SASRec's pre-processed events; the last event of each user tests, the one before validates, and the
model sees all events before the one to find, at most 200. What the user has had is not eligible.
The epoch is chosen on the validation events.

Published, by the same protocol: SASRec 0.2500 / 0.1341 (HR@10 / NDCG@10), with full cross-entropy
0.3152 / 0.1821 (Klenitskiy and Vasilev, RecSys 2023); most popular 0.0363 / 0.0178.
"""

import tempfile
from pathlib import Path

from _harness import Measurement, benchmark
from _ml1m import COLUMNS, prepare, read_events

from tfrs_twotower import api
from tfrs_twotower.schema import parse_config

PUBLISHED = {"hit_rate_at_10": 0.3152, "ndcg_at_10": 0.1821}
QUICK_SHARE = 1 / 8
CONFIG = f"""
columns: {COLUMNS}
split: {{by: leave_last_out}}
features:
  query:
    past: {{kind: history, length: 200, encoder: attention, blocks: 2, heads: 1, dropout: 0.2}}
  candidate:
    item: {{kind: id}}
towers: {{embedding_dim: 64}}
loss:
  temperature: 0.08
  in_batch_negatives: false
  uniform_negatives: 3000
  mask_known_positives: false
training: {{epochs: 100, batch_size: 8192, learning_rate: 0.001, patience: 8, metric: ndcg_at_10}}
"""


@benchmark(data="ml-1m")
def main(quick: bool, data: Path) -> list[Measurement]:
    config = parse_config(CONFIG, "config", ["training.epochs=3"] if quick else [])
    events = read_events(data, QUICK_SHARE if quick else 1.0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepared = prepare(events, config, root)
        api.train(config, prepared, root / "run")
        systems = api.evaluate(root / "run", prepared).systems
    found = []
    for metric, published in PUBLISHED.items():
        value, popular = (systems[name]["all"][metric] for name in ("model", "popularity"))
        versus = "SASRec, full cross-entropy, as published"
        found += [
            Measurement(f"attention, {metric}", value, metric, versus, published),
            Measurement(f"attention, {metric}", value, metric, "most popular", popular),
        ]
    return found


if __name__ == "__main__":
    main()
