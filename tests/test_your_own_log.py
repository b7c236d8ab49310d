"""The notebook on a log that nobody here wrote, executed whole."""

from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "your_own_log.ipynb"
LOG = Path("deskdrop", "users_interactions.csv.gz")


@pytest.mark.slow
def test_a_real_log_ends_in_unread_articles_and_figures_above_every_baseline(
    public_data, tmp_path, monkeypatch
):
    log = public_data / LOG
    if not log.exists():
        pytest.skip(f"no {log}")
    monkeypatch.setenv("YOUR_LOG", str(log))
    monkeypatch.setenv("YOUR_WORKDIR", str(tmp_path))
    client = NotebookClient(
        nbformat.read(NOTEBOOK, as_version=4),
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )

    done = client.execute()

    outputs = [o for cell in done.cells if cell.cell_type == "code" for o in cell.outputs]
    said = "".join(o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in outputs)
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2
    assert " 0 of them recommended" in said
    assert "are left out: without a candidates file the corpus is the ids of train" in said
    found = pd.read_json(tmp_path / "run" / "evaluation" / "test-full.json", typ="series")
    recall = {name: parts["all"]["recall_at_10"] for name, parts in found["metrics"].items()}
    assert max(recall, key=recall.get) == "model", recall
