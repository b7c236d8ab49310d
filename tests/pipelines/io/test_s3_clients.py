"""Clients of S3 are made once, and again where something else is asked."""

import pytest

from pipelines.io import s3_clients

boto3_client = pytest.importorskip("apache_beam.io.aws.clients.s3.boto3_client")
pytest.importorskip("boto3", reason="needs the extra `aws`")


def client_of(endpoint="http://127.0.0.1:9", **options):
    given = {"s3_access_key_id": "a", "s3_secret_access_key": "b", "s3_region_name": "eu-west-1"}
    return boto3_client.Client({**given, "s3_endpoint_url": endpoint, **options}).client


def test_operations_share_a_client_and_not_beams_wrapper_of_it():
    s3_clients.share()

    assert client_of() is client_of()
    assert boto3_client.Client({"s3_region_name": "eu-west-1"}) is not boto3_client.Client(
        {"s3_region_name": "eu-west-1"}
    )


def test_another_server_or_account_has_a_client_of_its_own(monkeypatch):
    s3_clients.share()
    one = client_of()

    assert client_of("http://127.0.0.1:10") is not one
    assert client_of(s3_access_key_id="c") is not one
    monkeypatch.setenv("AWS_PROFILE_OF_ANOTHER", "x")
    assert client_of() is not one
