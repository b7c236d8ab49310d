"""The container files keep what the documentation promises."""

import re
from pathlib import Path

import pytest
import yaml

SERVING = Path(__file__).parents[2] / "serving"


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((SERVING / "compose.yaml").read_text())["services"]


def test_every_published_port_is_on_the_loopback(services):
    ports = [port for service in services.values() for port in service["ports"]]

    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_stock_image_gets_the_config_without_scann(services):
    stock = services["tensorflow-serving"]

    assert stock["image"] == "tensorflow/serving:2.20.0"
    assert "--model_config_file=/models/models.stock.config" in stock["command"]


def test_models_are_mounted_read_only(services):
    assert all(service["volumes"][0].endswith(":/models:ro") for service in services.values())


def test_the_embedded_server_does_not_run_as_root():
    users = re.findall(r"^USER (\S+)$", (SERVING / "Dockerfile").read_text(), re.MULTILINE)

    assert users[-1] != "root"
