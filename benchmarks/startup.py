"""What starting costs: wall time, processor time and memory of each command, beside TensorFlow's.

The sample log, one epoch, and its export. Each command runs in a process of its own, `import
tensorflow` and a bare `tf.saved_model.load` of the exported retriever among them, in turns; the
median of the rounds. The server is measured until it answers. `--quick`: one round.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
from _harness import Measurement, benchmark
from _processes import TWOTOWER, Cost, environment, whole
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROUNDS, QUICK_ROUNDS = 3, 1
QUERY = '{"user_id": "u0042", "clock": 1711143925}'
IMPORT = "import tensorflow"


def until_ready(models: Path) -> Cost:
    """A server from its start until it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = time.perf_counter()
    options = [f"--port={port}", f"--model_config_file={models / 'models.config'}"]
    process = subprocess.Popen(
        [sys.executable, *TWOTOWER, "serve", "--rest_api_port=0", *options],
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    soon = [("grpc.max_reconnect_backoff_ms", 100), ("grpc.enable_http_proxy", 0)]
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", soon) as channel:
            while not _is_healthy(channel):
                time.sleep(0.05)
        wall = time.perf_counter() - start
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
    finally:
        process.terminate()
        process.wait()
    return Cost(wall, ticks / os.sysconf("SC_CLK_TCK"), peak)


def _is_healthy(channel: grpc.Channel) -> bool:
    """Whether a server has loaded its models; one that still loads answers that it has not."""
    try:
        reply = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=5
        )
    except grpc.RpcError:
        return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def export_sample(folder: Path) -> Path:
    """The models of the sample log after one epoch."""
    dataset, prepared, run, models = (
        str(folder / name) for name in ("dataset", "prepared", "run", "models")
    )
    config = ("--config", f"{dataset}/twotower.yaml")
    commands: Sequence[Sequence[str]] = (
        ("dataset", "sample", "--output", dataset),
        ("prepare", *config, "--dataset", dataset, "--output", prepared),
        ("train", *config, "--data", prepared, "--output", run, "--set", "training.epochs=1"),
        ("export", "--run", run, "--data", prepared, "--output", models),
    )
    for words in commands:
        whole(*TWOTOWER, *words)
    return Path(models)


@benchmark(code=["serving/loading.py", "serving/server.py", "tfrs_twotower/cli"])
def main(quick: bool) -> list[Measurement]:
    """Exports the sample and starts each command in turns."""
    with tempfile.TemporaryDirectory() as folder:
        models = export_sample(Path(folder))
        exact = models / "retrieval_exact" / "1"
        load = f"{IMPORT} as tf; tf.saved_model.load({str(exact)!r}).signatures['recommend']"
        recommend = ("recommend", "--models", str(models), "--query", QUERY)
        contestants: dict[str, Callable[[], Cost]] = {
            IMPORT: lambda: whole("-c", IMPORT),
            "bare saved_model.load": lambda: whole("-c", load),
            "import tfrs_twotower": lambda: whole("-c", "import tfrs_twotower"),
            "twotower --version": lambda: whole(*TWOTOWER, "--version"),
            "twotower recommend --models": lambda: whole(*TWOTOWER, *recommend),
            "twotower serve, until it answers": lambda: until_ready(models),
        }
        costs: dict[str, list[Cost]] = {name: [] for name in contestants}
        for _ in range(QUICK_ROUNDS if quick else ROUNDS):
            for name, run in contestants.items():
                costs[name].append(run())
    found = []
    for name, several in costs.items():
        for what, unit, scale in (("wall", "s", 1), ("processor", "s", 1), ("peak", "MB", 1e-6)):
            value, bare = (
                scale * statistics.median(getattr(cost, what) for cost in of)
                for of in (several, costs[IMPORT])
            )
            versus = None if name == IMPORT else IMPORT
            ratio = None if name == IMPORT else bare / value
            found.append(Measurement(f"{name}: {what}", value, unit, versus, ratio=ratio))
    return found


if __name__ == "__main__":
    main()
