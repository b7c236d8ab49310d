"""The notebooks beside the tour and the log of one's own, each executed whole."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


class Outputs:
    """What the cells of an executed notebook show."""

    def __init__(self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOTEBOOK_WORKDIR", str(folder))
        client = NotebookClient(
            nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4),
            timeout=600,
            kernel_name="python3",
            resources={"metadata": {"path": str(NOTEBOOKS)}},
        )
        cells = client.execute().cells
        self._outputs = [o for cell in cells if cell.cell_type == "code" for o in cell.outputs]

    @property
    def num_pictures(self) -> int:
        return sum("image/png" in output.get("data", {}) for output in self._outputs)

    @property
    def tables(self) -> list[str]:
        """As text."""
        data = [output.get("data", {}) for output in self._outputs]
        return [one["text/plain"] for one in data if "text/html" in one]

    @property
    def printed(self) -> str:
        return "".join(o["text"] for o in self._outputs if o.get("name") == "stdout")


def test_towers_of_ones_own_end_in_a_server_that_answers_with_what_the_user_likes(
    tmp_path, monkeypatch
):
    shown = Outputs("your_own_towers", tmp_path, monkeypatch)

    assert shown.num_pictures == 2
    assert "lower_bound=0.95" in shown.printed
    rows = shown.tables[-1].splitlines()[1:]
    assert [row.split()[-1] for row in rows] == ["1"] * 5  # The kind of user 7.


def test_the_evaluation_shows_each_protocol_and_answers_keep_to_the_rules(tmp_path, monkeypatch):
    shown = Outputs("evaluation_and_rules", tmp_path, monkeypatch)

    assert shown.num_pictures == 3
    assert "all 2,000 candidates: the figures to quote" in "".join(shown.tables)
    assert "caution: ranked among a few candidates" in shown.printed
    [crime] = [table for table in shown.tables if table.count("crime") >= 8]
    assert crime.count("crime") == 8


def test_the_canary_passes_takes_over_and_is_rolled_back(tmp_path, monkeypatch):
    shown = Outputs("serving_and_canary", tmp_path, monkeypatch)

    assert shown.num_pictures == 2
    assert any(table.startswith("version 2: go\n") for table in shown.tables)
    assert "{1: (), 2: ('stable',)}" in shown.printed
    assert "stable after rollback: version 1" in shown.printed
    labels = [row.split()[1] for row in shown.tables[-1].splitlines()[-2:]]
    assert labels == ["(stable,)", "()"]
