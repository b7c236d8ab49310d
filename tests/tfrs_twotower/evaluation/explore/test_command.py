import socket
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


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["explore", "--models", str(tmp_path), "--port", port]) == 1

    assert capsys.readouterr().err.strip() == (
        f"error: --port {port}: Address already in use: give another one, or 0"
    )
