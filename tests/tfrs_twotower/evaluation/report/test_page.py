"""The report: whole and harmless."""

import html
import json
import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest

from tests import small_shop
from tfrs_twotower.cli import main
from tfrs_twotower.evaluation.evaluate import evaluate
from tfrs_twotower.evaluation.report import write_report
from tfrs_twotower.evaluation.report.figures import embedding_map, index_trials
from tfrs_twotower.schema import UserError

# The fixtures alone, a whole run and its models, take most of a minute.
pytestmark = pytest.mark.slow

SECTIONS = (
    *(
        "next_steps",
        "data",
        "training",
        "metrics",
        "slices",
        "popularity",
        "sensitivity",
        "attribution",
    ),
    *("index", "map", "users", "serving_cost", "reproduce"),
)


def test_the_page_has_every_section_and_the_metrics_of_the_evaluation(page, shop):
    text = page.read_text()
    found = json.loads((shop.run / "evaluation" / "test-full.json").read_text())

    for section in SECTIONS:
        assert f'<section id="{section}">' in text
    assert f"{found['metrics']['model']['all']['recall_at_10']:.4f}" in text
    assert "test-sampled-3" in text
    assert found["users"][0]["query_id"] in text


def test_what_to_do_next_comes_first_and_is_what_evaluate_says(shop, tmp_path, capsys):
    run, file = tmp_path / "run", tmp_path / "report.html"
    shutil.copytree(shop.run, run)
    assert main(["evaluate", "--run", str(run), "--data", str(shop.prepared)]) == 0
    said = " ".join(capsys.readouterr().err.split())
    text = write_report(run, file).read_text()

    hints = json.loads((run / "evaluation" / "test-full.json").read_text())["hints"]
    assert hints
    first = text.split('<section id="')[1]
    assert first.startswith("next_steps")
    shown = re.sub("</?code>", "`", first)
    for hint in hints:
        assert " ".join(hint.split()) in said
        assert f"<li>{hint}.</li>" in html.unescape(shown)
    assert "<code>" in first


def test_a_comparison_is_shown_where_one_is_given(shop, tmp_path):
    file = tmp_path / "drift.json"
    one = {
        "name": "<b>",
        "what": "values",
        "distance": 0.25,
        "noise": 0.1,
        "change": "x: 1% to 26%",
    }
    other = {**one, "name": "age", "is_drift": False}
    drift = {
        "title": "b beside a",
        "level": 0.05,
        "differences": [{**one, "is_drift": True}, other],
    }
    file.write_text(json.dumps(drift))
    asked = ["report", "--run", str(shop.run), "--output", str(tmp_path / "report.html")]

    assert main([*asked, "--drift", str(file)]) == 0

    text = (tmp_path / "report.html").read_text()
    section = text.split('<section id="drift">')[1].split("</section>")[0]
    assert "b beside a" in section
    assert "<td>&lt;b&gt;</td><td>values</td><td>0.2500</td><td>0.1000</td>" in section
    assert "<td>age</td>" not in section
    file.write_text("{}")
    with pytest.raises(UserError, match=r"drift.json holds no comparison: write one with"):
        write_report(shop.run, tmp_path / "report.html", drift=file)


def test_the_page_asks_no_network(page):
    # What Bokeh's own library says about itself is not fetched.
    markup = re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.DOTALL)

    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)[^"']+""", markup)
    assert "@import" not in markup
    assert "url(" not in markup


def test_what_people_wrote_is_text_and_never_markup(page):
    text = page.read_text()

    assert small_shop.HOSTILE not in text
    assert "&lt;/script&gt;&lt;script&gt;" in text


def test_without_models_the_page_does_without_their_sections(shop, tmp_path):
    text = write_report(shop.run, tmp_path / "report.html").read_text()

    assert '<section id="map">' not in text
    assert '<section id="index">' not in text
    assert '<section id="users">' in text


def test_the_page_says_which_command_measures_what_only_models_tell(shop, tmp_path):
    run, file = tmp_path / "run", tmp_path / "report.html"
    shutil.copytree(shop.run, run)
    evaluate(run, shop.prepared)
    text = write_report(run, file, models=shop.models).read_text()

    assert "<td>loading retrieval</td>" not in text
    commands = set(re.findall("<pre>twotower (evaluate .*)</pre>", text))
    [command] = (shlex.split(html.unescape(command)) for command in commands)
    command[command.index("PREPARED")] = str(shop.prepared)
    assert main(command) == 0
    text = write_report(run, file, models=shop.models).read_text()
    assert "<td>loading retrieval</td>" in text
    assert "<th>missed by the model</th>" in text
    assert "<pre>twotower evaluate" not in text


def test_users_are_shown_with_the_history_up_to_their_first_event_of_the_split(shop, tmp_path):
    shutil.copytree(shop.run, tmp_path / "run")
    found = tmp_path / "found.json"
    asked = ["evaluate", "--run", str(tmp_path / "run"), "--data", str(shop.prepared)]
    assert main([*asked, "--user", "u05", "--json", str(found)]) == 0

    log = pd.read_csv(shop.dataset / "interactions.csv").sort_values(["ts", "item"])
    manifest = json.loads((shop.prepared / "manifest.json").read_text())
    before, _ = manifest["time_ranges"]["test"]
    had = log[(log["user"] == "u05") & (log["ts"] < before)]["item"].tolist()
    in_train = log[(log["user"] == "u05") & (log["ts"] < manifest["time_ranges"]["validation"][0])]
    [user] = json.loads(found.read_text())["users"]
    assert [entry["candidate_id"] for entry in user["history"]] == had[:-7:-1]
    assert had[-6:] != in_train["item"].tolist()[-6:], "validation must tell something"


def test_the_terminal_says_how_alike_morning_and_evening_are(shop, tmp_path, capsys):
    shutil.copytree(shop.run, tmp_path / "run")
    asked = ["--run", str(tmp_path / "run"), "--data", str(shop.prepared)]
    assert main(["evaluate", *asked]) == 0
    said = capsys.readouterr().out
    assert main(["sensitivity", *asked]) == 0
    share = capsys.readouterr().out.split()[0]

    line = f"morning and evening: {share} of the ten best are the same (context mode user_tower)"
    assert line in said


def test_a_sampled_evaluation_is_labelled_as_such(shop, tmp_path):
    text = write_report(shop.run, tmp_path / "report.html", evaluation="test-sampled-3").read_text()

    assert "1 + 3 random candidates" in text
    assert "Not a figure to quote: ranked among a few candidates, not the corpus" in text


def test_a_run_that_is_not_evaluated_is_told(shop, tmp_path):
    shutil.copytree(shop.run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "evaluation")

    with pytest.raises(
        UserError, match="run has no evaluation test-full: make it with `twotower ev"
    ):
        write_report(tmp_path / "run", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_models_that_are_not_there_are_told(shop, tmp_path):
    with pytest.raises(UserError, match="no models in .*nowhere"):
        write_report(shop.run, tmp_path / "report.html", models=tmp_path / "nowhere")


# --- figures --------------------------------------------------------------------------------


def test_the_map_keeps_the_plane_of_the_largest_variance():
    # Twice as far along the second axis as along the first, nothing else: all is kept.
    embeddings = np.zeros([4, 5], np.float32)
    embeddings[:, 1], embeddings[:, 3] = [-2, -2, 2, 2], [-1, 1, -1, 1]

    drawing, kept = embedding_map(embeddings, list("abcd"), ["x", "x", "y", "y"])

    assert kept == pytest.approx(1.0)
    drawn = {
        name: (abs(x), abs(y))
        for renderer in drawing.renderers
        for name, x, y in zip(
            *(renderer.data_source.data[c] for c in ("name", "x", "y")), strict=True
        )
    }
    assert drawn == {name: pytest.approx((2.0, 1.0), abs=1e-5) for name in "abcd"}


def test_rare_groups_of_the_map_are_drawn_together_and_nobody_is_lost():
    groups = [f"g{place % 14}" for place in range(40)]

    drawing, _ = embedding_map(np.eye(40, dtype=np.float32), groups, groups)

    assert len(drawing.renderers) == 10
    assert sum(len(renderer.data_source.data["x"]) for renderer in drawing.renderers) == 40


def test_the_legend_of_the_map_covers_no_candidate():
    groups = [f"g{place % 3}" for place in range(9)]

    drawing, _ = embedding_map(np.eye(9, dtype=np.float32), groups, groups)

    assert drawing.legend[0] in drawing.below


def test_a_corpus_of_one_is_a_map_of_one_point():
    drawing, _ = embedding_map(np.ones([1, 1], np.float32), ["a"], [""])

    assert len(drawing.renderers[0].data_source.data["x"]) == 1


def test_the_settings_that_an_export_tried_are_drawn():
    trial = {
        "num_leaves": 9,
        "leaves_to_search": 2,
        "reorder": 50,
        "recall": 0.9,
        "latency_ms": 1.5,
    }
    other = {**trial, "recall": 0.97, "latency_ms": 2.5}

    drawing = index_trials(
        {"at": 100, "target_recall": 0.95, "chosen": other, "trials": [trial, other]}
    )

    assert drawing.renderers[0].data_source.data["recall"] == [0.9, 0.97]
