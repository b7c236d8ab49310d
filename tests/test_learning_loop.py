"""The whole loop: serve, keep the answers, click by a known rule, train again with what was shown.

60 users, 60 items, two kinds: a user likes the items of one kind, all of them alike. The first log
is tiny, so the first model shows much that is not liked. Users click what they like of what they
are shown. Two models are then trained, both with these clicks, one also with what was shown and not
clicked; the ranks of what a user likes and has not clicked yet tell how well they know the rule.
"""

import numpy as np
import pandas as pd
import pytest

import tfrs_twotower as tt
from serving.client import RetrievalClient
from serving.model_config import read_models_config
from serving.model_server import ModelServer, ServerOptions

NUM_USERS, NUM_ITEMS, NUM_KINDS = 60, 60, 2
CLICKS_AT_FIRST, SHOWN = 1, 10
FIRST_DAY = 1_700_000_000
RULE = "{label: 0, unless_positive_within_s: 3600}"
CONFIG = f"""\
columns: {{timestamp: timestamp, event: event, split: split}}
labels: {{events: {{click: {{}}, impression: {RULE}}}}}
split: {{by: column}}
features:
  query: {{user_id: {{kind: id}}}}
  candidate: {{item_id: {{kind: id}}}}
towers: {{embedding_dim: 8}}
loss: {{kind: bce}}
training: {{epochs: 30, batch_size: 64, learning_rate: 0.02, seed: 5, patience: 30}}
export: {{retrieval: false}}  # `retrieval_exact` alone, which is made faster.
"""


def user_id(number):
    return f"u{number:02d}"


def item_id(number):
    return f"i{number:02d}"


def likes(user, item):
    return user % NUM_KINDS == item % NUM_KINDS


def clicks_at_first():
    generator = np.random.default_rng(1)
    liked = [
        (user, item)
        for user in range(NUM_USERS)
        for item in generator.choice(
            range(user % NUM_KINDS, NUM_ITEMS, NUM_KINDS), CLICKS_AT_FIRST, replace=False
        )
    ]
    return [(user_id(user), item_id(item), FIRST_DAY + n) for n, (user, item) in enumerate(liked)]


def as_log(clicks, split="train"):
    log = pd.DataFrame(clicks, columns=["user_id", "item_id", "timestamp"])
    return log.assign(event="click", split=split)


def not_clicked_yet(clicks):
    """What a user likes and has not clicked: what the models are judged by."""
    clicked = {click[:2] for click in clicks}
    return [
        (user_id(user), item_id(item), FIRST_DAY + 10**8)
        for user in range(NUM_USERS)
        for item in range(NUM_ITEMS)
        if likes(user, item) and (user_id(user), item_id(item)) not in clicked
    ]


def write_dataset(folder, clicks, test=()):
    folder.mkdir()
    (folder / "twotower.yaml").write_text(CONFIG)
    log = pd.concat([as_log(clicks), as_log(test, "test")])
    log.to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame({"item_id": map(item_id, range(NUM_ITEMS))}).to_csv(
        folder / "candidates.csv", index=False
    )


def train(folder):
    """Prepares and trains; the NDCG at 10 of what is to be found."""
    config = folder / "twotower.yaml"
    tt.prepare(config, folder, folder / "prepared")
    tt.train(config, folder / "prepared", folder / "run", progress=False)
    evaluation = tt.evaluate(folder / "run", folder / "prepared")
    return evaluation.systems["model"]["all"]["ndcg_at_10"]


def serve_and_click(models, logs):
    """Shows every user a list; what was clicked, when."""
    config = models / "models.config"
    kept = (
        f'"retrieval_exact" logging_config {{ log_collector_config {{ filename_prefix: "{logs}/r" '
        "} sampling_config { sampling_rate: 1 } }"
    )
    config.write_text(config.read_text().replace('"retrieval_exact"', kept))
    served = [model for model in read_models_config(config) if model.name == "retrieval_exact"]
    clicks = []
    with (
        ModelServer(served, rest_port=None, options=ServerOptions(optimize=False)) as server,
        RetrievalClient(f"127.0.0.1:{server.port}", timeout_s=60) as client,
    ):
        for user in range(NUM_USERS):
            answer = client.recommend_one({"user_id": user_id(user)}, k=SHOWN)
            now_s = int(pd.Timestamp.now().timestamp())
            clicks += [
                (user_id(user), candidate, now_s + 60)
                for candidate in answer.candidate_ids
                if likes(user, int(candidate[1:]))
            ]
    return clicks


@pytest.mark.slow
def test_what_was_shown_and_not_clicked_makes_the_next_model_better(tmp_path):
    before = clicks_at_first()
    first, without, with_shown = (tmp_path / name for name in ("first", "without", "with"))
    write_dataset(first, before, not_clicked_yet(before))
    at_first = train(first)
    tt.export(first / "run", first / "prepared", tmp_path / "models")

    clicked = serve_and_click(tmp_path / "models", tmp_path / "logs")

    clicks = before + clicked
    for folder in (without, with_shown):
        write_dataset(folder, clicks, not_clicked_yet(clicks))
    shown = tt.impressions(
        tmp_path / "logs", with_shown / "twotower.yaml", with_shown / "interactions-shown.parquet"
    )
    assert (shown.num_impressions, shown.skipped) == (NUM_USERS * SHOWN, {})
    rates = tt.click_through(tmp_path / "logs", with_shown / "twotower.yaml", with_shown)
    assert rates.by_arm["version"].tolist() == [1]
    assert rates.by_arm["impressions"].tolist() == [NUM_USERS * SHOWN]
    assert rates.by_arm["clicks"].tolist() == [len(clicked)]
    assert rates.by_rank["impressions"].tolist() == [NUM_USERS] * SHOWN
    assert rates.num_unshown == len(before) + len(not_clicked_yet(clicks))
    by_clicks, by_both = train(without), train(with_shown)
    assert by_both > by_clicks + 0.15
    assert by_both > at_first + 0.3
