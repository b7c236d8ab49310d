"""The request log: what a server keeps of its answers, and what becomes of it."""

import threading

import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving import request_log
from serving.client import RetrievalClient
from serving.model_config import ModelConfig, RequestLogging
from serving.model_server import ModelServer
from serving.predict import Call
from serving.request_log import SUFFIX, UNFINISHED, Counts, RequestLog, is_sampled
from tests.serving.conftest import RunningServer, rest, wait_until
from tests.serving.toy_models import EAST_QUERY, predict_request


def whole_files(prefix):
    return sorted(prefix.parent.glob(f"{prefix.name}*{SUFFIX}"))


def unfinished_files(prefix):
    return [*prefix.parent.glob(f"{prefix.name}*{UNFINISHED}")]


def read(prefix):
    files = [str(path) for path in whole_files(prefix)]
    records = tf.data.TFRecordDataset(files, compression_type="GZIP").as_numpy_iterator()
    return [prediction_log_pb2.PredictionLog.FromString(record) for record in records]


def answer(*ids):
    response = predict_pb2.PredictResponse()
    response.outputs["candidate_ids"].CopyFrom(tf.make_tensor_proto([ids]))
    return response


def asked(number):
    return predict_request(user_id=[f"user {number}"])


ROWS = {"instances": [{"user_id": "north", "history": [""], "age": 1.0}]}


def ask_by_rest(server):
    running = RunningServer(server.port, server.rest_port)
    assert rest(running, "/v1/models/retrieval:predict", ROWS)[0] == 200


def logging_server(models_dir, prefix, sampling_rate=1.0):
    settings = RequestLogging(prefix, sampling_rate)
    return ModelServer([ModelConfig("retrieval", models_dir / "retrieval", logging=settings)])


def hold_up(monkeypatch, owner, name):
    """Lets a function wait until the event returned is set, longer than any caller waits."""
    goes_on = threading.Event()
    function = getattr(owner, name)

    def held_up(*args):
        goes_on.wait(60)
        return function(*args)

    monkeypatch.setattr(owner, name, held_up)
    return goes_on


def user_of(log):
    return log.predict_log.request.inputs["user_id"].string_val[0].decode()


def test_a_server_keeps_requests_answers_versions_and_labels(models_dir, tmp_path):
    prefix = tmp_path / "logs" / "retrieval"
    folder = models_dir / "retrieval"
    model = ModelConfig("retrieval", folder, labels={"stable": 3}, logging=RequestLogging(prefix))
    silent = ModelConfig("query_tower", models_dir / "query_tower")
    with ModelServer([model, silent]) as server:
        target = f"127.0.0.1:{server.port}"
        with RetrievalClient(target, version_label="stable") as client:
            client.recommend(EAST_QUERY, k=2)
        with RetrievalClient(target) as client:
            client.embed(EAST_QUERY)
            with pytest.raises(Exception, match="k"):
                client.recommend(EAST_QUERY, k=101)
        ask_by_rest(server)
        assert whole_files(prefix) == []

    by_grpc, by_rest = read(prefix)
    assert len(whole_files(prefix)) == 1
    assert unfinished_files(prefix) == []
    assert by_grpc.log_metadata.model_spec.version.value == 3
    assert by_grpc.log_metadata.sampling_config.sampling_rate == 1.0
    assert by_grpc.log_metadata.timestamp_secs > 0
    assert by_grpc.predict_log.request.model_spec.version_label == "stable"
    assert user_of(by_grpc) == "east"
    outputs = by_grpc.predict_log.response.outputs
    assert [*outputs["candidate_ids"].string_val] == [b"a", b"b"]
    assert [*outputs["valid_count"].int_val] == [2]
    assert by_rest.log_metadata.model_spec.signature_name == "serving_default"
    assert user_of(by_rest) == "north"
    assert [*by_rest.predict_log.response.outputs["candidate_ids"].string_val] == [b"c", b"b"]


def test_a_file_is_finished_once_it_is_large(tmp_path):
    log = RequestLog(max_file_bytes=1)
    for number in range(3):
        log.add(RequestLogging(tmp_path / "m"), asked(number), answer("a"))
        wait_until(lambda expected=number + 1: log.counts() == Counts(expected, 0))
    log.close()

    assert len(whole_files(tmp_path / "m")) == 3
    assert sorted(user_of(record) for record in read(tmp_path / "m")) == [
        "user 0",
        "user 1",
        "user 2",
    ]


def test_a_file_is_finished_once_it_is_old(tmp_path):
    log = RequestLog(max_file_s=0.01)
    log.add(RequestLogging(tmp_path / "m"), asked(1), answer("a"))

    wait_until(lambda: len(whole_files(tmp_path / "m")) == 1)

    assert len(read(tmp_path / "m")) == 1
    log.close()


def test_what_finds_no_room_is_lost_and_counted(tmp_path, monkeypatch):
    """The writer is held up; whoever answers is not."""
    goes_on = hold_up(monkeypatch, RequestLog, "_write")
    size = asked(1).ByteSize() + answer("a").ByteSize()
    log = RequestLog(max_waiting_bytes=2 * size)
    for number in range(5):
        log.add(RequestLogging(tmp_path / "m"), asked(number), answer("a"))

    assert log.counts() == Counts(written=0, lost=3)
    goes_on.set()
    log.close()
    assert log.counts() == Counts(written=2, lost=3)
    assert [user_of(record) for record in read(tmp_path / "m")] == ["user 0", "user 1"]
    log.add(RequestLogging(tmp_path / "m"), asked(9), answer("a"))
    assert log.counts() == Counts(written=2, lost=4)


def test_a_disk_that_fails_costs_records_and_not_the_thread(tmp_path):
    (tmp_path / "file").write_text("in the way of a folder")
    log = RequestLog()
    log.add(RequestLogging(tmp_path / "file" / "m"), asked(1), answer("a"))
    wait_until(lambda: log.counts().lost == 1)
    log.add(RequestLogging(tmp_path / "m"), asked(2), answer("a"))
    log.close()

    assert log.counts() == Counts(written=1, lost=1)


def test_an_unexpected_fault_costs_its_record_alone_and_is_told_once(tmp_path, caplog):
    log = RequestLog()
    no_answer = asked(0)
    log.add(RequestLogging(tmp_path / "m"), asked(1), answer("a"))
    log.add(RequestLogging(tmp_path / "m"), asked(2), no_answer)
    log.add(RequestLogging(tmp_path / "m"), asked(3), no_answer)
    log.add(RequestLogging(tmp_path / "m"), asked(4), answer("a"))
    log.close()

    assert log.counts() == Counts(written=2, lost=2)
    assert [user_of(record) for record in read(tmp_path / "m")] == ["user 1", "user 4"]
    assert len(caplog.records) == 1


def test_a_file_that_cannot_be_finished_costs_its_records_and_not_the_thread(tmp_path, monkeypatch):
    def fail(self):
        raise ValueError("unexpected")

    log = RequestLog(max_file_bytes=1)
    with monkeypatch.context() as patched:
        patched.setattr(request_log._File, "finish", fail)
        log.add(RequestLogging(tmp_path / "m"), asked(1), answer("a"))
        wait_until(lambda: log.counts().lost == 1)
    log.add(RequestLogging(tmp_path / "m"), asked(2), answer("a"))
    log.close()

    assert log.counts() == Counts(written=1, lost=1)


def test_no_answer_by_rest_waits_for_its_record(models_dir, tmp_path, monkeypatch):
    goes_on = hold_up(monkeypatch, Call, "response")
    with logging_server(models_dir, tmp_path / "m") as server:
        ask_by_rest(server)
        goes_on.set()

    assert [user_of(record) for record in read(tmp_path / "m")] == ["north"]


def test_outside_of_the_sample_no_answer_is_made_for_the_log(models_dir, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(Call, "response", lambda *args: made.append(args))
    with logging_server(models_dir, tmp_path / "m", sampling_rate=1e-12) as server:
        ask_by_rest(server)

    assert made == []
    assert read(tmp_path / "m") == []


def test_what_cannot_be_made_by_rest_is_lost_and_counted(tmp_path):
    log = RequestLog()
    log.add_made(RequestLogging(tmp_path / "m"), lambda: asked(1), lambda: 1 / 0, 5.5)
    log.add_made(RequestLogging(tmp_path / "m"), lambda: asked(2), lambda: answer("a"), 7.5)
    log.close()

    assert log.counts() == Counts(written=1, lost=1)
    (kept,) = read(tmp_path / "m")
    assert kept.log_metadata.timestamp_secs == 7


@pytest.mark.parametrize(("owner", "name"), [(RequestLog, "add"), (request_log, "is_sampled")])
def test_no_answer_by_grpc_waits_for_its_record(models_dir, tmp_path, monkeypatch, owner, name):
    goes_on = hold_up(monkeypatch, owner, name)
    with logging_server(models_dir, tmp_path / "m", sampling_rate=1 - 1e-12) as server:
        with RetrievalClient(f"127.0.0.1:{server.port}") as client:
            client.recommend(EAST_QUERY, k=2)
        goes_on.set()

    assert [user_of(record) for record in read(tmp_path / "m")] == ["east"]


def test_what_is_outside_of_the_sample_takes_no_room_from_it(tmp_path, monkeypatch):
    """Nor is it counted as lost where the writer is held up."""
    goes_on = hold_up(monkeypatch, RequestLog, "_write")
    requests = [asked(number) for number in range(1000, 1200)]
    sampled = [request for request in requests if is_sampled(request, 0.3)]
    size = requests[0].ByteSize() + answer("a").ByteSize()
    log = RequestLog(max_waiting_bytes=2 * size)
    for request in requests:
        log.add(RequestLogging(tmp_path / "m", 0.3), request, answer("a"))
    wait_until(lambda: log.counts().lost == len(sampled) - 2)
    goes_on.set()
    log.close()

    assert log.counts() == Counts(written=2, lost=len(sampled) - 2)
    assert [record.predict_log.request for record in read(tmp_path / "m")] == sampled[:2]


def test_too_much_that_waits_for_its_hash_is_lost_and_counted(tmp_path, monkeypatch):
    goes_on = hold_up(monkeypatch, request_log, "is_sampled")
    log = RequestLog(max_unsampled_bytes=1)
    for number in range(3):
        log.add(RequestLogging(tmp_path / "m", 1 - 1e-12), asked(number), answer("a"))

    assert log.counts() == Counts(written=0, lost=2)
    goes_on.set()
    log.close()
    assert log.counts() == Counts(written=1, lost=2)
    log.add(RequestLogging(tmp_path / "m", 0.5), asked(9), answer("a"))
    assert log.counts() == Counts(written=1, lost=3)


def test_a_sample_is_the_same_everywhere_and_nested():
    requests = [asked(number) for number in range(2000)]
    small = {number for number, request in enumerate(requests) if is_sampled(request, 0.1)}
    large = {number for number, request in enumerate(requests) if is_sampled(request, 0.3)}

    # Five standard deviations around the share.
    assert 133 <= len(small) <= 267
    assert small < large
    assert all(is_sampled(request, 1.0) for request in requests)
    assert min(small) == 2
