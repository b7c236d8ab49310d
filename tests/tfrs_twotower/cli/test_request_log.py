"""The commands that read a server's request log."""

import json

import pytest

from tests.request_logs import answers, record, write_log
from tfrs_twotower.cli import main

CONFIG = """\
columns: {timestamp: timestamp, event: event}
labels: {events: {click: {}, impression: {label: 0}}}
"""
CLICKS = """\
user_id,item_id,timestamp,event
u,a,105,click
v,c,100,click
"""


@pytest.fixture
def shop(tmp_path):
    """A dataset folder, and beside it the log: a and b were shown to u, then once more b."""
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "twotower.yaml").write_text(CONFIG)
    (folder / "interactions.csv").write_text(CLICKS)
    write_log(
        tmp_path / "logs",
        record(100, {"user_id": ["u"]}, answers(["a", "b"]), label="stable"),
        record(101, {"user_id": ["u"]}, answers(["b"]), version=8, label="canary"),
        record(102, {"user_id": ["u"]}, {"query_embedding": [[1.0]]}),
    )
    return folder


def test_impressions_are_written_beside_the_clicks_and_compared_with_them(shop, capsys):
    logs, output = shop.parent / "logs", shop / "interactions-shown.parquet"
    flags = ["--logs", str(logs), "--config", str(shop / "twotower.yaml"), "--output", str(output)]

    assert main(["impressions", *flags]) == 0
    assert capsys.readouterr().out == "3 impressions of 1 files, 1 other_signature\n"
    assert main(["impressions", *flags]) == 2
    assert "pass --overwrite" in capsys.readouterr().err.replace("\n", " ")

    # The impressions that the folder holds by now are no clicks.
    ask = ["click-through", "--logs", str(logs), "--dataset", str(shop), "--within_s", "60"]
    assert main(ask) == 0
    said = capsys.readouterr().out
    assert "1 of 2 clicks follow no impression within 60 s" in said
    assert "stable" in said
    assert main([*ask, "--json", "--max_rank", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(row["version"], row["impressions"], row["clicks"]) for row in found["by_arm"]] == [
        (7, 1, 1),
        (8, 1, 0),
    ]
    assert found["num_skipped"] == 1
