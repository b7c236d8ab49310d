"""Starts a Beam worker as the boot program of a container does, which a machine may lack.

    python -m tests.pipelines.sdk_worker --id=ID --provision_endpoint=HOST:PORT

For runners that start workers as processes: `--environment_type=PROCESS`.
"""

import sys

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
from apache_beam.runners.worker.sdk_worker import SdkHarness

STATE_CACHE_BYTES = 100 << 20


def main() -> None:
    """Works until the runner ends the process."""
    given = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
    with grpc.insecure_channel(given["provision_endpoint"]) as channel:
        provision = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        info = provision.GetProvisionInfo(request, metadata=[("worker_id", given["id"])]).info
    SdkHarness(
        info.control_endpoint.url,
        worker_id=given["id"],
        state_cache_size=STATE_CACHE_BYTES,
        data_buffer_time_limit_ms=-1,
    ).run()


if __name__ == "__main__":
    main()
