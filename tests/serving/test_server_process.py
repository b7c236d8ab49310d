"""The server as a command: its errors, and how it starts, swaps and stops."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving import model_server
from serving.client import RetrievalClient
from serving.errors import LoadError
from serving.loading import Servable
from serving.metrics import METRICS_PATH
from serving.model_config import ModelConfig, VersionPolicy
from serving.model_server import ModelServer, ServerOptions
from serving.servables import State
from serving.server import main
from tests.serving import toy_models
from tests.serving.conftest import (
    RunningServer,
    free_port,
    is_healthy,
    render_config,
    rest,
    wait_until,
)
from tests.serving.toy_models import EAST_QUERY, predict_request

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ INFO [a-z]+")


@pytest.fixture
def busy_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def failure(capsys, *argv):
    """Exit code and standard error of a server that does not start."""
    code = main([str(arg) for arg in argv])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--port", "--rest_api_port"])
def test_a_busy_port_is_told_in_one_line(models_dir, busy_port, flag, capsys):
    ports = {"--port": 0, flag: busy_port}
    flags = [f"{name}={port}" for name, port in ports.items()]

    code, said = failure(capsys, f"--model_base_path={models_dir / 'retrieval'}", *flags)

    assert code == 1
    assert said == (
        f"error: cannot listen on 127.0.0.1:{busy_port}: is it in use? Choose another {flag}\n"
    )


def test_a_folder_that_is_no_model_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "1").mkdir()

    code, said = failure(capsys, "--port=0", f"--model_base_path={tmp_path}")

    assert code == 1
    assert said.splitlines()[-1].startswith(f"error: {tmp_path / '1'} is not a SavedModel")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        pytest.param([], "nothing to serve", id="no model"),
        pytest.param(["--model_config_file=nowhere"], "cannot read the model config", id="config"),
        pytest.param(
            ["--model_config_file=a", "--model_base_path=b"], "not both", id="both ways to say it"
        ),
        pytest.param(
            ["--batching_parameters_file=a", "--model_base_path=b"],
            "no effect without --enable_batching",
            id="batching not enabled",
        ),
        pytest.param(
            ["--batching_parameters_file=nowhere", "--enable_batching=true", "--model_base_path=b"],
            "cannot read the batching parameters file nowhere",
            id="batching parameters",
        ),
        pytest.param(["--prot=1"], "No such option: --prot", id="misspelt flag"),
        pytest.param(["--port=x"], "Invalid value for '--port'", id="no number"),
        pytest.param(["--port=99999"], "less than or equal to 65535", id="no port"),
        pytest.param(["--rest_api_port=65536"], "less than or equal to 65535", id="no REST port"),
        pytest.param(
            ["--ssl_config_file=nowhere", "--model_base_path=b"],
            "cannot read the SSL config file nowhere",
            id="TLS",
        ),
    ],
)
def test_misuse_is_told_and_exits_with_2(argv, said, capsys):
    code, error = failure(capsys, *argv)

    assert code == 2
    assert said in error
    assert "Traceback" not in error


def test_flags_that_tf_serving_needs_are_taken_and_told(capsys):
    flags = (
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_grpc_healthcheck_service",
        "--grpc_max_threads=200",
        "--monitoring_config_file=/etc/monitoring.config",
    )

    code, error = failure(capsys, *flags)

    assert code == 2
    assert [line for line in error.splitlines() if line.endswith("not needed by this server")] == [
        f"{flag.partition('=')[0]}: not needed by this server" for flag in flags
    ]
    assert "nothing to serve" in error


def test_a_server_listens_on_ipv6(models_dir):
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    with ModelServer(models, host="::1") as server:
        with RetrievalClient(f"[::1]:{server.port}") as client:
            assert client.recommend_one(EAST_QUERY, k=1).candidate_ids == ["a"]
        connection = http.client.HTTPConnection("::1", server.rest_port, timeout=10)
        connection.request("GET", "/v1/models/retrieval")
        assert connection.getresponse().status == 200
        connection.close()


@pytest.mark.slow
def test_the_command_serves_until_sigterm(models_dir, tmp_path):
    config_path = tmp_path / "models.config"
    config_path.write_text(render_config(models_dir))
    port = free_port()
    command = [sys.executable, "-m", "serving.server", f"--port={port}"]
    process = subprocess.Popen(
        [*command, f"--model_config_file={config_path}"], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: is_healthy(f"127.0.0.1:{port}"), timeout_s=60)
        with RetrievalClient(f"127.0.0.1:{port}") as client:
            assert client.recommend(EAST_QUERY, k=1)[0].candidate_ids == ["a"]
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    finally:
        process.kill()

    assert process.returncode == 0
    assert "east" not in log
    # Its own lines alone: nothing of TensorFlow's, no traceback.
    assert [line for line in log.splitlines() if not LOG_LINE.match(line)] == []


MANY = 20


@pytest.fixture
def loading(tmp_path):
    """Starts the command on so many models that it is still loading them; ends what is left."""
    toy_models.write_retrieval(tmp_path / "retrieval", 3)
    config_path = tmp_path / "models.config"
    names = ["retrieval", *(f"copy-{number}" for number in range(1, MANY))]
    base_path = f'base_path: "{tmp_path}/retrieval" model_platform: "tensorflow"'
    entries = "".join(f'config {{ name: "{name}" {base_path} }}\n' for name in names)
    config_path.write_text(f"model_config_list {{ {entries} }}")
    processes = []

    def start(port):
        process = subprocess.Popen(
            [sys.executable, "-m", "serving.server"]
            + [f"--port={port}", f"--model_config_file={config_path}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert "INFO loading" in process.stderr.readline()
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_stop_while_it_loads_stops(loading, number):
    process = loading(free_port())
    process.send_signal(number)
    log = process.stderr.read()

    assert process.wait(timeout=30) == 0
    assert "INFO stopping\n" in log
    assert "serving gRPC" not in log
    assert log.count("INFO loading") < MANY - 1


@pytest.mark.slow
def test_a_server_that_is_killed_while_it_loads_is_in_nobodys_way(loading, tmp_path):
    port = free_port()
    before = sorted(tmp_path.rglob("*"))
    killed = loading(port)
    killed.kill()
    killed.wait()

    loading(port)

    assert sorted(tmp_path.rglob("*")) == before
    wait_until(lambda: is_healthy(f"127.0.0.1:{port}"), timeout_s=60)
    with RetrievalClient(f"127.0.0.1:{port}") as client:
        assert client.recommend(EAST_QUERY, k=1)[0].candidate_ids == ["a"]


class Gate:
    """Holds every run of a model until it is opened."""

    def __init__(self, monkeypatch):
        self.reached, self.opened = threading.Event(), threading.Event()
        run = Servable.run

        def held(*args):
            self.reached.set()
            assert self.opened.wait(30)
            return run(*args)

        monkeypatch.setattr(Servable, "run", held)


@pytest.fixture
def gate(monkeypatch):
    return Gate(monkeypatch)


def stop_behind(server, gate):
    """Stops a server while it computes; returns once it takes no more requests."""
    assert gate.reached.wait(30)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    wait_until(lambda: not is_healthy(f"127.0.0.1:{server.port}"))
    gate.opened.set()
    return stopping


def test_a_stopping_server_answers_what_it_has_begun(models_dir, gate):
    server = ModelServer([ModelConfig("retrieval", models_dir / "retrieval")], rest_port=None)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        pending = stub.Predict.future(predict_request(**toy_models.EAST), timeout=30)
        stopping = stop_behind(server, gate)
        code = pending.code()
        stopping.join()

    assert code == grpc.StatusCode.OK


def test_a_stopping_server_answers_the_rest_request_that_it_has_begun(models_dir, gate):
    document = {"inputs": toy_models.EAST}
    server = ModelServer([ModelConfig("retrieval", models_dir / "retrieval")])
    server.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    connection.request("POST", "/v1/models/retrieval:predict", json.dumps(document))
    stopping = stop_behind(server, gate)
    reply = connection.getresponse()
    answer = json.loads(reply.read())
    stopping.join()
    connection.close()

    assert reply.status == 200
    assert answer["outputs"]["candidate_ids"] == [["a", "b"]]


def test_callers_of_rest_are_answered_or_sent_elsewhere_by_a_server_that_stops(models_dir):
    """Each client asks one question after the other, on its connection as long as it has one."""
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    server = ModelServer(models)
    server.start()
    document = json.dumps({"inputs": toy_models.EAST})
    seen, stopped = [], threading.Event()

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
        while not stopped.is_set():
            try:
                connection.request("POST", "/v1/models/retrieval:predict", document)
                reply = connection.getresponse()
                seen.append((reply.status, reply.headers["Connection"]))
                reply.read()
            except (OSError, http.client.HTTPException):
                connection.close()
        connection.close()

    clients = [threading.Thread(target=ask) for _ in range(16)]
    for client in clients:
        client.start()
    wait_until(lambda: len(seen) > 200)
    server.stop()
    stopped.set()
    for client in clients:
        client.join()

    assert set(seen) <= {(200, None), (200, "close"), (503, "close")}
    # Of each connection that was open, the last answer said so.
    assert sum(ends == "close" for _, ends in seen) >= len(clients)


def health_of(channel):
    check = health_pb2_grpc.HealthStub(channel).Check
    return check(health_pb2.HealthCheckRequest(), timeout=5).status


def test_a_draining_server_answers_while_health_checks_turn_callers_away(models_dir, monkeypatch):
    draining, drained = threading.Event(), threading.Event()

    def drain(seconds):
        assert seconds == 7.0
        draining.set()
        assert drained.wait(30)

    options = ServerOptions(drain_s=7.0)
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    server = ModelServer(models, rest_port=None, options=options)
    server.start()
    monkeypatch.setattr(model_server.time, "sleep", drain)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    assert draining.wait(30)
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        health = health_of(channel)
        code = stub.Predict.future(predict_request(**toy_models.EAST), timeout=30).code()
    drained.set()
    stopping.join()

    assert health == health_pb2.HealthCheckResponse.NOT_SERVING
    assert code == grpc.StatusCode.OK


def test_health_checks_are_told_before_a_load_has_ended(tmp_path, monkeypatch):
    base_path = tmp_path / "retrieval"
    toy_models.write_retrieval(base_path, 1)
    options = ServerOptions(poll_s=0.02, grace_s=1.0)
    server = ModelServer([ModelConfig("retrieval", base_path)], rest_port=None, options=options)
    server.start()
    loading, loaded = threading.Event(), threading.Event()

    def load(*_):
        loading.set()
        assert loaded.wait(30)
        raise LoadError("not any more")

    monkeypatch.setattr(model_server, "load", lambda *args, **_: load(*args))
    toy_models.write_retrieval(base_path, 2)
    assert loading.wait(30)
    server.stop()  # Comes back although the load goes on.

    assert server.is_loading
    assert not is_healthy(f"127.0.0.1:{server.port}")
    loaded.set()
    wait_until(lambda: not server.is_loading)


def test_those_who_watch_the_health_take_no_place_of_a_request(models_dir):
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    options = ServerOptions(max_running=1, max_waiting=0)
    with (
        ModelServer(models, rest_port=None, options=options) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch
        watching = [watch(health_pb2.HealthCheckRequest()) for _ in range(100)]
        told = {next(one).status for one in watching}
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        code = stub.Predict.future(predict_request(**toy_models.EAST), timeout=30).code()
        for one in watching:
            one.cancel()

    assert told == {health_pb2.HealthCheckResponse.SERVING}
    assert code == grpc.StatusCode.OK


NUM_CLIENTS = 64


def test_nobody_is_cancelled_by_a_server_that_stops_under_load(models_dir):
    """Each client asks one question after the other on a connection of its own."""
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    server = ModelServer(models, rest_port=None)
    server.start()
    codes, stopped = [], threading.Event()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]

    def ask():
        with grpc.insecure_channel(f"127.0.0.1:{server.port}", options=options) as channel:
            predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
            while not stopped.is_set():
                codes.append(predict.future(predict_request(**toy_models.EAST), timeout=30).code())

    threads = [threading.Thread(target=ask) for _ in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(codes) > 4 * NUM_CLIENTS, timeout_s=60)
    server.stop()
    stopped.set()
    for thread in threads:
        thread.join()

    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


def test_clients_of_two_servers_lose_no_answer_when_one_stops_under_load(models_dir):
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    answers, failures, stopped = [], [], threading.Event()
    with ModelServer(models, rest_port=None) as stays:
        stops = ModelServer(models, rest_port=None)
        stops.start()
        target = f"ipv4:127.0.0.1:{stops.port},127.0.0.1:{stays.port}"
        asking = [
            threading.Thread(target=ask_on_and_on, args=(target, stopped, answers, failures))
            for _ in range(NUM_CLIENTS)
        ]
        for thread in asking:
            thread.start()
        wait_until(lambda: len(answers) > 4 * NUM_CLIENTS or failures, timeout_s=60)
        stops.stop()
        before = len(answers)
        wait_until(lambda: len(answers) > before + 4 * NUM_CLIENTS or failures, timeout_s=60)
        stopped.set()
        for thread in asking:
            thread.join()

    assert failures == []
    assert {tuple(answer.candidate_ids) for answer in answers} == {("a",)}


def metrics_page(rest_port):
    with urllib.request.urlopen(f"http://127.0.0.1:{rest_port}{METRICS_PATH}", timeout=10) as reply:
        return reply.read().decode()


def state_of(server, version):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "retrieval"
    running = RunningServer(server.port, None)
    with running.stub(model_service_pb2_grpc.ModelServiceStub) as stub:
        statuses = stub.GetModelStatus(request, timeout=10).model_version_status
    return {status.version: status.state for status in statuses}.get(version)


def test_who_waits_past_the_deadline_is_told_so_and_counted(models_dir, gate):
    with (
        ModelServer([ModelConfig("retrieval", models_dir / "retrieval")]) as server,
        RunningServer(server.port, server.rest_port).stub() as stub,
    ):
        running = stub.Predict.future(predict_request(**toy_models.EAST), timeout=2)
        assert gate.reached.wait(30)
        code = running.code()
        wait_until(lambda: 'status="DEADLINE_EXCEEDED"} 1' in metrics_page(server.rest_port))
        gate.opened.set()
        wait_until(lambda: "requests_in_flight 0" in metrics_page(server.rest_port))

    assert code == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_rest_caller_waits_no_longer_than_the_server_says(models_dir, gate):
    options = ServerOptions(rest_timeout_s=0.2)
    models = [ModelConfig("retrieval", models_dir / "retrieval")]
    with ModelServer(models, options=options) as server:
        running = RunningServer(server.port, server.rest_port)
        status, answer = rest(running, "/v1/models/retrieval:predict", {"inputs": toy_models.EAST})
        gate.opened.set()

    assert status == 504
    assert "deadline" in answer["error"]


def test_a_version_outlasts_the_run_that_its_caller_has_left(tmp_path, gate):
    base_path = tmp_path / "retrieval"
    toy_models.write_retrieval(base_path, 1)
    models = [ModelConfig("retrieval", base_path)]
    options = ServerOptions(poll_s=0.02)
    with (
        ModelServer(models, rest_port=None, options=options) as server,
        RunningServer(server.port, None).stub() as stub,
    ):
        left = stub.Predict.future(predict_request(**toy_models.EAST), timeout=30)
        assert gate.reached.wait(30)
        left.cancel()
        toy_models.write_retrieval(base_path, 2)
        wait_until(lambda: state_of(server, 2) == State.AVAILABLE)
        wait_until(lambda: state_of(server, 1) == State.UNLOADING)
        gate.opened.set()
        wait_until(lambda: state_of(server, 1) == State.END)


def test_health_tells_of_each_service(embedded):
    assert is_healthy(embedded.target)


def ask_on_and_on(target, stopped, answers, failures):
    with RetrievalClient(target) as client:
        while not stopped.is_set():
            try:
                answers.append(client.recommend(EAST_QUERY, k=1)[0])
            except Exception as error:
                failures.append(error)


def test_a_hot_swap_loses_no_request_and_mixes_no_answer(tmp_path):
    base_path = tmp_path / "retrieval"
    toy_models.write_retrieval(base_path, 1)
    staged = toy_models.write_retrieval(tmp_path / "staged", 2, mirrored=True)
    answers, failures, stopped = [], [], threading.Event()

    with ModelServer(
        [ModelConfig("retrieval", base_path)], rest_port=None, options=ServerOptions(poll_s=0.02)
    ) as server:
        target = f"127.0.0.1:{server.port}"
        asking = [
            threading.Thread(target=ask_on_and_on, args=(target, stopped, answers, failures))
            for _ in range(4)
        ]
        for thread in asking:
            thread.start()
        wait_until(lambda: answers)
        staged.rename(base_path / "2")
        wait_until(lambda: answers[-1].model_version == 2)
        stopped.set()
        for thread in asking:
            thread.join()

    assert failures == []
    # The mirrored candidates turn the order round: d (1, 0) is the best for "east".
    assert {(a.model_version, *a.candidate_ids) for a in answers} == {(1, "a"), (2, "d")}


def test_labels_follow_the_config_file_and_outlast_a_broken_one(tmp_path, caplog):
    base_path = tmp_path / "retrieval"
    toy_models.write_retrieval(base_path, 1)
    toy_models.write_retrieval(base_path, 2, mirrored=True)
    config_path = tmp_path / "models.config"
    config = (
        f'model_config_list {{ config {{ name: "retrieval" base_path: "{base_path}" '
        'model_version_policy { all {} } version_labels { key: "stable" value: %d } } }'
    )
    config_path.write_text(config % 1)
    models = [ModelConfig("retrieval", base_path, VersionPolicy(latest=None), labels={"stable": 1})]

    def stable_version():
        return client.recommend(EAST_QUERY)[0].model_version

    with (
        ModelServer(
            models,
            rest_port=None,
            options=ServerOptions(poll_s=0.02),
            config_path=config_path,
        ) as server,
        RetrievalClient(f"127.0.0.1:{server.port}", version_label="stable") as client,
    ):
        assert stable_version() == 1
        config_path.write_text("half a conf")
        wait_until(lambda: "not a TF Serving model config" in caplog.text)
        assert stable_version() == 1
        config_path.write_text(config % 2)
        wait_until(lambda: stable_version() == 2)


def test_a_message_above_the_limit_is_refused(models_dir):
    options = ServerOptions(max_message_bytes=20_000)
    models = [ModelConfig("retrieval", models_dir / "retrieval")]

    with (
        ModelServer(models, rest_port=None, options=options) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(predict_request(**toy_models.many_rows(4000)), timeout=10)

    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
