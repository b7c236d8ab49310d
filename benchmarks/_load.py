"""A load generator in a process of its own: as many clients as asked, each with its connection.

    python benchmarks/_load.py ORDER ANSWER

ORDER is a JSON file with the fields of `Order`; ANSWER, which it writes, has those of `Load`. Each
client asks again as soon as it has its answer. Requests are sent, and answers kept, as bytes: the
generator shares the cores with the server, and what it computes the server lacks.
"""

import asyncio
import base64
import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc

PREDICT = "/tensorflow.serving.PredictionService/Predict"
DEADLINE_S = 10.0
WARM_UP_S = 1.0


@dataclass(frozen=True)
class Order:
    """What load to put on which server."""

    target: str  # host:port
    requests: list[str]  # Serialized `PredictRequest`s in base64.
    num_clients: int
    seconds: float


@dataclass
class Load:
    """How the server bore it; the first second is not counted."""

    latencies_s: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)  # By gRPC status.
    # The different answers of each request, in base64.
    answers: list[list[str]] = field(default_factory=list)
    seconds: float = 0.0
    processor_s: float = 0.0  # What the generator itself took of the cores.

    @property
    def qps(self) -> float:
        """Answers a second."""
        return len(self.latencies_s) / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """The latency that so many percent of the answers did not exceed."""
        rank = math.ceil(len(self.latencies_s) * percent / 100)
        return 1e3 * sorted(self.latencies_s)[rank - 1]


def put_load(target: str, requests: list[bytes], num_clients: int, seconds: float) -> Load:
    """Runs the generator and waits for it.

    Args:
        target: `host:port` of a server.
        requests: Serialized requests, asked in turns.
        num_clients: How many ask at the same time.
        seconds: How long they ask.
    """
    order = Order(
        target, [base64.b64encode(one).decode() for one in requests], num_clients, seconds
    )
    with tempfile.TemporaryDirectory() as folder:
        order_path, answer_path = Path(folder, "order.json"), Path(folder, "answer.json")
        order_path.write_text(json.dumps(asdict(order)), encoding="utf-8")
        subprocess.run([sys.executable, __file__, order_path, answer_path], check=True)
        return Load(**json.loads(answer_path.read_text(encoding="utf-8")))


async def generate(order: Order) -> Load:
    """Puts the load on the server."""
    load = Load()
    requests = [base64.b64decode(one) for one in order.requests]
    answers: list[set[bytes]] = [set() for _ in requests]
    start = time.perf_counter() + WARM_UP_S
    end = start + order.seconds

    async def client(number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(order.target, options) as channel:
            ask = channel.unary_unary(PREDICT)
            place = number * len(requests) // order.num_clients
            while (asked := time.perf_counter()) < end:
                place = (place + 1) % len(requests)
                try:
                    answers[place].add(await ask(requests[place], timeout=DEADLINE_S))
                except grpc.aio.AioRpcError as error:
                    name = error.code().name
                    load.errors[name] = load.errors.get(name, 0) + 1
                    continue
                if asked >= start:
                    load.latencies_s.append(time.perf_counter() - asked)

    began_s = time.process_time()
    await asyncio.gather(*(client(number) for number in range(order.num_clients)))
    load.seconds = time.perf_counter() - start
    load.processor_s = time.process_time() - began_s
    load.answers = [[base64.b64encode(one).decode() for one in found] for found in answers]
    return load


def main() -> None:
    order_path, answer_path = map(Path, sys.argv[1:])
    order = Order(**json.loads(order_path.read_text(encoding="utf-8")))
    load = asyncio.run(generate(order))
    answer_path.write_text(json.dumps(asdict(load)), encoding="utf-8")


if __name__ == "__main__":
    main()
