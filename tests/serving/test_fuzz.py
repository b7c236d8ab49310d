"""Twenty thousand odd requests to a server of its own: a status each, in bounded memory."""

import http.client
import json
import random
import signal
import statistics
import subprocess
import sys
import threading
import time

import grpc
import pytest
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

from serving.client import RetrievalClient
from tests.serving.conftest import free_port, is_healthy, render_config, wait_until
from tests.serving.test_faults import CALLERS_FAULTS, PREDICT
from tests.serving.test_predict import spread
from tests.serving.toy_models import EAST, EAST_QUERY, predict_request

NUM_GRPC, NUM_REST, NUM_AT_ONCE = 20_000, 5_000, 16
# Beside what the server takes at rest: its bounds for a request, times those that run at once.
MOST_BYTES = 2**30
# A good client waits behind the requests that run at once, most of which do less than its own: the
# median of its answers beside them, to that of its answers before them.
MOST_TIMES_AS_LATE = 2 * NUM_AT_ONCE
NUM_BEFORE = 200
INPUTS = (*EAST, "k", "exclude_ids", "allow_ids", "made up", "")
DTYPES = (0, 1, 3, 7, 7, 7, 9, 10, 14, 20, 21, 101, 999)
SIZES = (0, 1, 1, 1, 2, 3, 100, 4096, 4097, 30_000, 2**22, 2**31, 2**62, -1)


def odd_tensor(draw):
    tensor = tensor_pb2.TensorProto(dtype=draw.choice(DTYPES))
    for _ in range(draw.choice((0, 1, 1, 2, 2, 3))):
        tensor.tensor_shape.dim.add(size=draw.choice(SIZES))
    tensor.tensor_shape.unknown_rank = draw.random() < 0.05
    count = draw.randrange(4)
    draw.choice(
        (
            lambda: tensor.string_val.extend([draw.randbytes(3)] * count),
            lambda: tensor.float_val.extend([draw.uniform(-9, 9)] * count),
            lambda: tensor.int_val.extend([draw.randrange(-(2**31), 2**31)] * count),
            lambda: setattr(tensor, "tensor_content", draw.randbytes(count * 4)),
        )
    )()
    return tensor


def odd_request(draw):
    """A good request with something spoilt, the small one for all memory, or noise."""
    kind = draw.random()
    if kind < 0.02:
        return spread(4096, 30_000).SerializeToString()
    if kind < 0.05:
        return draw.randbytes(draw.randrange(200))
    request = predict_request(**EAST) if kind < 0.8 else predict_pb2.PredictRequest()
    request.model_spec.name = draw.choice(
        ("retrieval", "retrieval", "query_tower", "\0", "x" * 999)
    )
    request.model_spec.signature_name = draw.choice(("recommend", "score", "", "serving_default"))
    for name in draw.sample(INPUTS, draw.randrange(4)):
        request.inputs[name].CopyFrom(odd_tensor(draw))
    return request.SerializeToString()


def odd_json(draw, depth=0):
    leaf = (None, True, 0, -1.5, 10**400, "east", "", {"b64": "é"}, {"b64": "ZWFzdA=="}, "x" * 500)
    if depth > 3 or draw.random() < 0.4:
        return draw.choice(leaf)
    if draw.random() < 0.5:
        return [odd_json(draw, depth + 1)] * draw.choice((0, 1, 2, 3, 5))
    return {draw.choice(INPUTS): odd_json(draw, depth + 1) for _ in range(draw.randrange(4))}


@pytest.fixture
def process(models_dir, tmp_path):
    """A server, its port and its REST port."""
    config_path = tmp_path / "models.config"
    config_path.write_text(render_config(models_dir))
    port, rest_port = free_port(), free_port()
    command = [sys.executable, "-m", "serving.server", f"--model_config_file={config_path}"]
    flags = [f"--port={port}", f"--rest_api_port={rest_port}", "--enable_batching=true"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, *flags], stderr=log)
        try:
            wait_until(lambda: is_healthy(f"127.0.0.1:{port}"), timeout_s=120)
            yield process, port, rest_port
        finally:
            process.kill()
            process.wait()


def peak_bytes(process):
    with open(f"/proc/{process.pid}/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))


@pytest.mark.slow
def test_odd_requests_get_a_status_and_bounded_memory_and_disturb_nobody(process, tmp_path):
    server, port, rest_port = process
    at_rest = peak_bytes(server)
    failures, seconds, done = [], [], threading.Event()

    def ask_well():
        with RetrievalClient(f"127.0.0.1:{port}", timeout_s=60) as client:
            while not done.is_set():
                start = time.perf_counter()
                try:
                    assert client.recommend_one(EAST_QUERY, k=1).candidate_ids == ["a"]
                except Exception as error:
                    failures.append(error)
                seconds.append(time.perf_counter() - start)

    good = threading.Thread(target=ask_well)
    good.start()
    try:
        wait_until(lambda: len(seconds) >= NUM_BEFORE, timeout_s=60)
        grpc_codes = sent_over_grpc(port)
        rest_codes = sent_over_rest(rest_port)
    finally:
        done.set()
        good.join()
    taken = peak_bytes(server) - at_rest
    server.send_signal(signal.SIGTERM)
    server.wait(60)
    log = (tmp_path / "log").read_text()

    assert grpc_codes <= CALLERS_FAULTS
    assert rest_codes <= {200, 400, 404, 429}
    assert failures == []
    before, beside = (statistics.median(s) for s in (seconds[:NUM_BEFORE], seconds[NUM_BEFORE:]))
    assert beside < MOST_TIMES_AS_LATE * before
    assert taken < MOST_BYTES
    assert "Traceback" not in log


def sent_over_grpc(port):
    draw, codes = random.Random(1), set()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(PREDICT)
        for _ in range(NUM_GRPC // NUM_AT_ONCE):
            asked = [call.future(odd_request(draw), timeout=30) for _ in range(NUM_AT_ONCE)]
            codes.update(one.code() for one in asked)
    return codes


def sent_over_rest(port):
    draw, codes = random.Random(2), set()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(NUM_REST):
        document = {draw.choice(("inputs", "instances", "x")): odd_json(draw)}
        body = json.dumps(document).encode()
        connection.request("POST", "/v1/models/retrieval:predict", body)
        reply = connection.getresponse()
        reply.read()
        codes.add(reply.status)
    connection.close()
    return codes
