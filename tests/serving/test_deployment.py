"""The container files keep what the documentation promises."""

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import typer.main
import yaml

from serving import server
from serving.metrics import METRICS_PATH
from serving.rest import READY_PATH

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "serving"
DOCKERFILE = (SERVING / "Dockerfile").read_text()
APP_OPTIONS = typer.main.get_command(server._APP).params


# Of the package's requirements those that no image of the server has, as they are imported.
NOT_IN_THE_IMAGE = (
    *("apache_beam", "bokeh", "jinja2", "pandas", "pyarrow", "pydantic", "scipy", "tensorboard"),
    *("tensorflow_recommenders", "yaml"),
)


@pytest.mark.slow
def test_the_server_needs_no_more_than_its_image_has():
    script = (
        f"import sys; sys.modules |= dict.fromkeys({NOT_IN_THE_IMAGE})\n"
        "from serving import server; sys.exit(server.main(['--help']))"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=200
    )

    assert done.returncode == 0, done.stderr
    assert "--model_config_file" in done.stdout


def test_docker_is_sent_what_the_images_copy_and_nothing_else():
    sent = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = {
        source
        for dockerfile in (DOCKERFILE, (ROOT / "pipelines" / "Dockerfile").read_text())
        for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE)
        for source in line.split()
    }

    assert {source.partition("/")[0] for source in copied} == set(sent)
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.parametrize("folder", ["serving", "pipelines"])
def test_a_build_can_name_its_base_image_by_digest(folder):
    lines = (ROOT / folder / "Dockerfile").read_text().splitlines()
    first = next(place for place, line in enumerate(lines) if line[:1] not in ("#", ""))

    assert re.fullmatch(r"ARG BASE=\S+:\S+", lines[first])
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE}"]


def test_the_base_of_the_workers_has_the_beam_of_the_package():
    [tag] = re.findall(
        r"^ARG BASE=apache/beam_python3\.11_sdk:(\S+)$",
        (ROOT / "pipelines" / "Dockerfile").read_text(),
        re.MULTILINE,
    )

    assert f"apache-beam=={tag}" in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def services():
    return yaml.safe_load((SERVING / "compose.yaml").read_text())["services"]


def test_every_published_port_is_on_the_loopback(services):
    ports = [port for service in services.values() for port in service["ports"]]

    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_stock_image_gets_the_config_without_scann(services):
    stock = services["tensorflow-serving"]

    assert stock["image"] == "tensorflow/serving:2.20.0"
    assert "--model_config_file=/models/models.stock.config" in stock["command"]


@pytest.mark.parametrize(
    "flag",
    [
        "--model_config_file_poll_wait_seconds=5",
        "--allow_version_labels_for_unavailable_models=true",
        "--grpc_max_threads=200",
        "--enable_grpc_healthcheck_service=true",
        "--monitoring_config_file=/etc/monitoring.config",
    ],
)
def test_the_stock_image_is_told_what_it_does_not_do_by_itself(services, flag):
    assert flag in services["tensorflow-serving"]["command"]


def test_the_flags_of_the_files_are_the_embedded_servers_too(services):
    """So that one server replaces the other."""
    entrypoint = re.search(r"ENTRYPOINT (\[.*?\])", DOCKERFILE.replace("\\\n", ""), re.DOTALL)
    flags = [*services["tensorflow-serving"]["command"], *json.loads(entrypoint[1])[3:]]
    known = {option for one in APP_OPTIONS for option in one.opts}

    assert flags
    assert all(flag.startswith("--") for flag in flags)
    assert {flag.partition("=")[0] for flag in server._understood(flags)} <= known


def test_each_replica_has_a_port_and_the_time_to_drain(services):
    replicas = services["replicas"]
    [published] = replicas["ports"]
    first, last = map(int, re.findall(r":(\d+)-(\d+):8500$", published)[0])
    entrypoint = re.search(r"ENTRYPOINT (\[.*?\])", DOCKERFILE.replace("\\\n", ""), re.DOTALL)
    flags = dict(flag.split("=") for flag in json.loads(entrypoint[1])[3:])
    grace_s = {option: one.default for one in APP_OPTIONS for option in one.opts}

    assert last - first + 1 == replicas["deploy"]["replicas"] > 1
    assert float(replicas["stop_grace_period"].removesuffix("s")) > (
        float(flags["--drain_seconds"]) + grace_s["--shutdown_grace_seconds"]
    )


@pytest.fixture(scope="module")
def manifests():
    found = yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text())
    return {manifest["kind"]: manifest for manifest in found}


# The oldest Kubernetes in which all that the manifests use is stable, and a recent one.
@pytest.mark.parametrize("version", ["1.27", "1.35"])
def test_the_manifests_are_those_of_kubernetes(manifests, version):
    assert manifests.keys() == {"Deployment", "Service", "PodDisruptionBudget"}
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_replicas_fit_the_flags_of_the_server(manifests):
    pod = manifests["Deployment"]["spec"]["template"]
    [container] = pod["spec"]["containers"]
    flags = dict(flag.split("=") for flag in container["args"])
    known = {option for one in APP_OPTIONS for option in one.opts}

    assert flags.keys() <= known
    seconds = float(flags["--drain_seconds"]) + float(flags["--shutdown_grace_seconds"])
    assert pod["spec"]["terminationGracePeriodSeconds"] > seconds
    assert float(flags["--drain_seconds"]) > 2 * container["readinessProbe"]["periodSeconds"]
    assert container["readinessProbe"]["httpGet"] == {"path": READY_PATH, "port": "rest"}
    ports = [port["containerPort"] for port in container["ports"]]
    assert [port["port"] for port in manifests["Service"]["spec"]["ports"]] == ports == [8500, 8501]


def test_what_selects_the_replicas_finds_them(manifests):
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]

    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels


def test_the_metrics_of_the_stock_image_are_where_the_embedded_server_has_them():
    assert f'path: "{METRICS_PATH}"' in (SERVING / "monitoring.config").read_text()


def test_models_are_mounted_read_only(services):
    assert all(service["volumes"][0].endswith(":/models:ro") for service in services.values())


def test_the_embedded_server_does_not_run_as_root():
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)

    assert users[-1] != "root"
