"""The server under load: 1,000,000 candidates at recall 0.95, k = 100.

The embedded server, without and with `--enable_batching`, runs in a process of its own, as does the
load generator, on the same cores. 1, 8 and 64 clients ask `recommend`, each again as soon as it has
its answer. Then a second version appears while 8 clients ask: every answer must be, id for id, that
of one of the two versions. (In batches ScaNN finds, for a few queries in a thousand, another one of
the hundred candidates than it finds alone; counted apart.) With `--minutes N` 8 clients go on
asking for so long, and the server's memory is read before and after. The corpus is that of
benchmarks/index.py; the query tower hands the embedding of a query through.

Where the environment variable TF_MODEL_SERVER names a `tensorflow_model_server` that has ScaNN's
ops (or LD_PRELOAD gives them to it), the same is measured with it.
"""

import base64
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from _clustered import FEATURE, Floats, K, exact_rows, export, recall, world
from _harness import ROOT, Measurement, benchmark
from _load import Load, put_load
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, predict_pb2

from serving.loading import load
from serving.tensors import write
from tfrs_twotower.index import ScannIndex, tune

SIZE, QUICK_SIZE, TARGET_RECALL = 1_000_000, 100_000, 0.95
MODEL, SIGNATURE = "retrieval", "recommend"
NUM_CLIENTS, FEW = (1, 8, 64), 8
SECONDS, QUICK_SECONDS = 15.0, 3.0
SWAP_SECONDS, QUICK_SWAP_SECONDS, SWAP_AFTER_S = 30.0, 8.0, 2.0
START_TIMEOUT_S = 120.0
EMBEDDED = [sys.executable, "-m", "serving.server"]
REAL = "tensorflow_model_server"
BATCHING = "--enable_batching"

# By version, then by query: the ids it must answer with.
Expected = Mapping[int, list[list[bytes]]]


@dataclass(frozen=True)
class Server:
    """A running server of one model."""

    target: str
    process_id: int

    @property
    def processor_s(self) -> float:
        """The processor time that it has taken so far."""
        fields = Path(f"/proc/{self.process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory_mb(self) -> float:
        """What it holds of the machine's memory."""
        for line in Path(f"/proc/{self.process_id}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024 / 1e6
        raise ValueError("the process has ended")

    def available(self) -> list[int]:
        """The versions that answer; none while it starts."""
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = MODEL
        with grpc.insecure_channel(self.target) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            try:
                statuses = stub.GetModelStatus(request, timeout=5.0).model_version_status
            except grpc.RpcError:
                return []
        return [status.version for status in statuses if status.state == status.AVAILABLE]


@benchmark(
    code=["serving", "tfrs_twotower/index", "tfrs_twotower/retrieval"],
    numbers={"minutes": "ask for so long, and read the memory before and after"},
)
def main(quick: bool, minutes: float) -> list[Measurement]:
    size = QUICK_SIZE if quick else SIZE
    candidates, tuning, queries = world(size)
    with tempfile.TemporaryDirectory() as folder:
        base_path, second = Path(folder, MODEL), Path(folder, "second")
        base_path.mkdir()
        write_versions(candidates, tuning, base_path / "1", second)
        expected = {1: answers(base_path / "1", queries), 2: answers(second, queries)}
        rows = np.array(expected[1]).astype(np.int64)
        found = recall(rows, exact_rows(candidates, queries))
        measurements = [Measurement(f"{size:,}: recall@{K}", found, "")]
        del candidates
        commands = {"embedded": EMBEDDED, f"embedded {BATCHING}": [*EMBEDDED, BATCHING]}
        if "TF_MODEL_SERVER" in os.environ:
            real = [os.environ["TF_MODEL_SERVER"], "--grpc_max_threads=200"]
            parameters = f"--batching_parameters_file={ROOT / 'serving' / 'batching.config'}"
            commands |= {REAL: real, f"{REAL} {BATCHING}": [*real, BATCHING, parameters]}
        for name, command in commands.items():
            with running(command, base_path, Path(folder, f"{name}.log")) as server:
                label = f"{size:,}, {name}: "
                measurements += under_load(label, server, queries, expected, quick)
                measurements += swapped(label, server, base_path, second, queries, expected, quick)
                if minutes:
                    measurements += over_time(label, server, queries, expected, minutes)
            (base_path / "2").rename(second)
    return measurements


def write_versions(candidates: Floats, tuning: Floats, first: Path, second: Path) -> None:
    """Exports the corpus, and as another version the opposite vectors in an index alike."""
    index, _ = tune(candidates, tuning, target_recall=TARGET_RECALL, at=K)
    export(index, first)
    export(ScannIndex(-candidates, index.parameters), second)


def answers(folder: Path, queries: Floats) -> list[list[bytes]]:
    """The ids that a version answers with when it is asked one query at a time."""
    servable = load(folder, MODEL, 1)
    signature = servable.signatures[SIGNATURE]
    wanted = {**signature.defaults, "k": np.array([K], np.int32)}
    found = [
        servable.run(SIGNATURE, {**wanted, FEATURE: queries[row : row + 1]})["candidate_ids"][0]
        for row in range(len(queries))
    ]
    servable.close()
    return [ids.tolist() for ids in found]


@contextmanager
def running(command: list[str], base_path: Path, log: Path) -> Iterator[Server]:
    """Starts a server and waits for its first version; ends it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--port={port}", f"--model_name={MODEL}", f"--model_base_path={base_path}"]
    with log.open("wb") as output:
        process = subprocess.Popen(command + flags, cwd=ROOT, stdout=output, stderr=output)
    try:
        server = Server(f"127.0.0.1:{port}", process.pid)
        wait_for_version(server, 1, process, log)
        yield server
    finally:
        process.terminate()
        process.wait()


def wait_for_version(
    server: Server, version: int, process: subprocess.Popen[bytes], log: Path
) -> None:
    end = time.monotonic() + START_TIMEOUT_S
    while version not in server.available():
        if process.poll() is not None or time.monotonic() > end:
            sys.exit(f"the server does not answer:\n{log.read_text(errors='replace')}")
        time.sleep(0.1)


def requests(queries: Floats) -> list[bytes]:
    """A request of each query, serialized."""
    made = []
    for query in queries:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODEL
        request.model_spec.signature_name = SIGNATURE
        write(query[np.newaxis], request.inputs[FEATURE])
        write(np.array([K], np.int32), request.inputs["k"])
        made.append(request.SerializeToString())
    return made


def under_load(
    label: str, server: Server, queries: Floats, expected: Expected, quick: bool
) -> Iterator[Measurement]:
    for num_clients in NUM_CLIENTS:
        seconds = QUICK_SECONDS if quick else SECONDS
        before_s = server.processor_s
        borne = put_load(server.target, requests(queries), num_clients, seconds)
        taken_s = server.processor_s - before_s
        clients = f"{label}{num_clients} client{'s' * (num_clients > 1)}, "
        yield Measurement(f"{clients}throughput", borne.qps, "queries/s")
        share = borne.processor_s / (borne.processor_s + taken_s)
        yield Measurement(f"{clients}load generator's share of the processor time", share, "")
        for percent in (50, 99):
            yield Measurement(f"{clients}p{percent}", borne.percentile_ms(percent), "ms")
        yield from mistakes(clients, borne, expected)


def swapped(
    label: str,
    server: Server,
    base_path: Path,
    second: Path,
    queries: Floats,
    expected: Expected,
    quick: bool,
) -> Iterator[Measurement]:
    """Publishes the second version while clients ask."""
    seconds = QUICK_SWAP_SECONDS if quick else SWAP_SECONDS
    with ThreadPoolExecutor(1) as generator:
        asking = generator.submit(put_load, server.target, requests(queries), FEW, seconds)
        time.sleep(SWAP_AFTER_S)
        second.rename(base_path / "2")
        borne = asking.result()
    clients = f"{label}hot swap, {FEW} clients, "
    yield Measurement(f"{clients}throughput", borne.qps, "queries/s")
    yield Measurement(f"{clients}p99", borne.percentile_ms(99), "ms")
    yield from mistakes(clients, borne, expected)
    asked = {version for found in borne.answers for version, _ in map(answer, found)}
    yield Measurement(f"{clients}versions that answered", len(asked), "")


def over_time(
    label: str, server: Server, queries: Floats, expected: Expected, minutes: float
) -> Iterator[Measurement]:
    before = server.memory_mb
    borne = put_load(server.target, requests(queries), FEW, 60 * minutes)
    clients = f"{label}{FEW} clients for {minutes:g} minutes, "
    yield Measurement(f"{clients}memory before", before, "MB")
    yield Measurement(f"{clients}memory after", server.memory_mb, "MB")
    yield Measurement(f"{clients}throughput", borne.qps, "queries/s")
    yield Measurement(f"{clients}p99", borne.percentile_ms(99), "ms")
    yield from mistakes(clients, borne, expected)


def mistakes(label: str, borne: Load, expected: Expected) -> Iterator[Measurement]:
    wrong = unlike = 0
    for row, found in enumerate(borne.answers):
        for version, ids in map(answer, found):
            alone = expected[version][row]
            unlike += ids != alone
            wrong += len(set(ids) & set(alone)) < K - 1
    yield Measurement(f"{label}errors", sum(borne.errors.values()), "")
    yield Measurement(f"{label}wrong answers", wrong, "")
    yield Measurement(f"{label}answers with one candidate unlike", unlike - wrong, "")


def answer(encoded: str) -> tuple[int, list[bytes]]:
    """Version and ids of an answer that the generator kept."""
    response = predict_pb2.PredictResponse.FromString(base64.b64decode(encoded))
    return response.model_spec.version.value, list(response.outputs["candidate_ids"].string_val)


if __name__ == "__main__":
    main()
