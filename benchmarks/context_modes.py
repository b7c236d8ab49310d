"""Context modes on MovieLens 1M: HR@10 beside 100 negatives, and how much the moment moves lists.

SASRec's pre-processed events; the last event of each user tests, the one before validates. The
test item is ranked among 100 others, drawn uniformly from what the user has not had; chance is
0.099. Context is the hour of the event. Context sensitivity is one minus the overlap of the ten
best of the whole corpus in the morning (08:00) and in the evening (20:00).

scikit-rec's figures (`docs/user-guide/two-tower.md`), with ids and hour: user_tower 0.2270,
trilinear 0.2210, scoring_layer 0.2053.
"""

import tempfile
from pathlib import Path

from _harness import TRAINED, Measurement, benchmark
from _ml1m import COLUMNS, prepare, read_events

from tfrs_twotower import api
from tfrs_twotower.evaluation.ablation import context_sensitivity
from tfrs_twotower.schema import Config, parse_config

PROTOCOL = "sampled:100"
SCIKIT_REC = {"user_tower": 0.2270, "trilinear": 0.2210, "scoring_layer": 0.2053}
QUICK_SHARE = 1 / 32

UNIFORM = "in_batch_negatives: false, uniform_negatives: 1024, mask: accidental_hits"
IDS = {
    "towers": "embedding_dim: 64",
    "loss": f"{{temperature: 0.1, {UNIFORM}}}",
    "training": "{epochs: 10, batch_size: 2048, learning_rate: 0.003, schedule: cosine, "
    "metric: hit_rate_at_10}",
}
SCORED = {
    **IDS,
    "towers": "embedding_dim: 64, scoring_hidden_units: [64]",
    "loss": "{kind: bce, temperature: 1.0, implicit_negatives: 8}",
}
HISTORIES = {
    "query": "past: {kind: history, length: 200, encoder: attention}",
    "towers": "embedding_dim: 64",
    "loss": f"{{temperature: 0.07, {UNIFORM}}}",
    "training": "{epochs: 12, learning_rate: 0.002, schedule: cosine, metric: hit_rate_at_10}",
}
# Name -> mode and settings.
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "user_tower": ("user_tower", IDS),
    "trilinear": ("trilinear", IDS),
    "scoring_layer": ("scoring_layer", SCORED | {"towers": "embedding_dim: 64"}),
    "scoring_layer, 64 hidden units": ("scoring_layer", SCORED),
    "user_tower, history": ("user_tower", HISTORIES),
    "trilinear, history": ("trilinear", HISTORIES),
}
# Each mode once, with ids and with histories.
QUICK_CASES = ("user_tower", "scoring_layer, 64 hidden units", "trilinear, history")


def make_config(mode: str, settings: dict[str, str], quick: bool) -> Config:
    """The config of a case."""
    query = settings.get("query", "user: {kind: id}")
    text = f"""
columns: {COLUMNS}
split: {{by: leave_last_out}}
features:
  query: {{{query}}}
  context: {{clock: {{kind: timestamp, parts: [hour], embedding_dim: 64}}}}
  candidate: {{item: {{kind: id}}}}
towers: {{context_mode: {mode}, {settings["towers"]}}}
loss: {settings["loss"]}
training: {settings["training"]}
export: {{retrieval: {str(mode != "scoring_layer").lower()}}}
"""
    return parse_config(text, mode, ["training.epochs=1"] if quick else [])


@benchmark(
    code=TRAINED,
    data="ml-1m",
)
def main(quick: bool, data: Path) -> list[Measurement]:
    events = read_events(data, QUICK_SHARE if quick else 1.0)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepared: dict[str, Path] = {}
        for name in QUICK_CASES if quick else CASES:
            mode, settings = CASES[name]
            config = make_config(mode, settings, quick)
            # Records depend on the features alone.
            key = config.fingerprint()
            if key not in prepared:
                prepared[key] = prepare(events, config, root / key)
            run = root / name.replace(" ", "-")
            api.train(config, prepared[key], run)
            asked = api.evaluate(run, prepared[key], protocol=PROTOCOL)
            rate = asked.systems["model"]["all"]["hit_rate_at_10"]
            popular = asked.systems["popularity"]["all"]["hit_rate_at_10"]
            moved = 1 - context_sensitivity(run, prepared[key]).overlap_at_10
            theirs = SCIKIT_REC.get(name)
            found += [
                Measurement(name, rate, "HR@10", theirs and "scikit-rec, as published", theirs),
                Measurement(name, rate, "HR@10", "most popular", popular),
                Measurement(name, moved, "context sensitivity"),
            ]
    return found


if __name__ == "__main__":
    main()
