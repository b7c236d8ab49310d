"""Counts and times of requests, as Prometheus reads them, under TF Serving's names."""

import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

METRICS_PATH = "/monitoring/prometheus/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

REQUEST_COUNT = ":tensorflow:serving:request_count"
REQUEST_LATENCY = ":tensorflow:serving:request_latency"
IN_FLIGHT = ":twotower:serving:requests_in_flight"
AVAILABLE = ":twotower:serving:available_version"

LATENCY_BOUNDS_US = tuple(10 * 1.8**step for step in range(33))
"""Upper bounds of the latency buckets in microseconds, TF Serving's own."""


class Metrics:
    """What has been answered so far. Thread-safe."""

    def __init__(self) -> None:
        """Starts at zero."""
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._buckets: dict[tuple[str, str], list[int]] = defaultdict(
            lambda: [0] * (len(LATENCY_BOUNDS_US) + 1)
        )
        self._sums_us: Counter[tuple[str, str]] = Counter()

    def record(self, model: str, status: str, entrypoint: str, seconds: float) -> None:
        """Counts a Predict request.

        Args:
            model: A model of the server; "" for one that it does not have, or callers could make
                up names without end.
            status: Name of the gRPC status.
            entrypoint: "GRPC" or "REST".
            seconds: From arrival to answer.
        """
        latency_us = round(seconds * 1e6)
        with self._lock:
            self._counts[model, status] += 1
            self._sums_us[model, entrypoint] += latency_us
            self._buckets[model, entrypoint][bisect_left(LATENCY_BOUNDS_US, latency_us)] += 1

    def render(self, in_flight: int, available: Iterable[tuple[str, int]]) -> str:
        """The page that Prometheus reads.

        Args:
            in_flight: Requests running or waiting now.
            available: Model and version of what is being served.
        """
        with self._lock:
            counts = dict(self._counts)
            buckets = {key: list(values) for key, values in self._buckets.items()}
            sums_us = dict(self._sums_us)
        lines = [f"# TYPE {REQUEST_COUNT} counter"]
        for (model, status), count in sorted(counts.items()):
            lines.append(_line(REQUEST_COUNT, {"model_name": model, "status": status}, count))
        lines.append(f"# TYPE {REQUEST_LATENCY} histogram")
        for key, values in sorted(buckets.items()):
            labels = {"model_name": key[0], "API": "predict", "entrypoint": key[1]}
            total = 0
            for bound, value in zip([*LATENCY_BOUNDS_US, float("inf")], values, strict=True):
                total += value
                le = "+Inf" if bound == float("inf") else f"{bound:.6g}"
                lines.append(_line(f"{REQUEST_LATENCY}_bucket", {**labels, "le": le}, total))
            lines.append(_line(f"{REQUEST_LATENCY}_sum", labels, sums_us[key]))
            lines.append(_line(f"{REQUEST_LATENCY}_count", labels, total))
        lines += [f"# TYPE {IN_FLIGHT} gauge", _line(IN_FLIGHT, {}, in_flight)]
        lines.append(f"# TYPE {AVAILABLE} gauge")
        for model, version in sorted(available):
            lines.append(_line(AVAILABLE, {"model_name": model, "version": str(version)}, 1))
        return "\n".join(lines) + "\n"


def _line(name: str, labels: Mapping[str, str], value: int) -> str:
    if not labels:
        return f"{name} {value}"
    pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"{name}{{{pairs}}} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
