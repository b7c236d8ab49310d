import sys

import pytest

from tfrs_twotower.cli import main


def test_without_panel_a_line_tells_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "panel", None)

    assert main(["explore", "--models", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: `twotower explore` needs Panel: pip install -e '.[explore]' in the clone"
    )


def test_a_folder_without_models_is_told(tmp_path, capsys):
    pytest.importorskip("panel")

    assert main(["explore", "--models", str(tmp_path)]) == 1
    assert "no models in" in capsys.readouterr().err


def test_a_version_is_not_compared_with_itself(exported_once, capsys):
    pytest.importorskip("panel")

    assert main(["explore", "--models", str(exported_once), "--compare", "1"]) == 2
    assert "--compare: version 1 is shown anyway" in capsys.readouterr().err
