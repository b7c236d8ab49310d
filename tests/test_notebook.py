"""The tour, executed whole on the sample."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "two_tower_tour.ipynb"
TIMEOUT_S = 600


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tour")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOUR_EPOCHS", "3")
        patch.setenv("TOUR_WORKDIR", str(folder))
        # Relative to the notebook's own folder, as Jupyter starts it.
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(NOTEBOOK.parent)}},
        )
        return client.execute()


def outputs(notebook, kind: str) -> list[str]:
    return [
        output["data"][kind]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if kind in output.get("data", {})
    ]


def test_the_first_cell_says_outside_of_a_clone_what_to_put_there(tmp_path):
    first = next(c for c in nbformat.read(NOTEBOOK, as_version=4).cells if c.cell_type == "code")

    done = subprocess.run(
        [sys.executable, "-c", first.source],
        cwd=tmp_path,
        env={"PATH": ""},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert "set REPOSITORY above to the address or the folder" in done.stderr


@pytest.mark.slow
def test_the_tour_draws_its_three_plots(executed):
    assert len(outputs(executed, "image/png")) == 3


@pytest.mark.slow
def test_the_tour_ends_with_recommendations_for_a_known_and_a_new_user(executed):
    known, new = outputs(executed, "text/html")[-2:]

    for table in (known, new):
        assert "title" in table
        assert table.count("<tr") == 1 + 8
    assert known != new


@pytest.mark.slow
def test_the_tour_says_nothing_that_looks_like_a_fault(executed):
    said = [
        output["text"]
        for cell in executed.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output["output_type"] == "stream" and output["name"] == "stderr"
    ]

    assert not [text for text in said if "rror" in text or "Traceback" in text]
