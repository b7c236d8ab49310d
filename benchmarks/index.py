"""Search alone, at equal recall@100: our SavedModels beside faiss IVF and hnswlib.

Candidates of 64 dimensions lie in clusters of Zipf-distributed size, as those of trained towers do;
queries lie between two clusters. Every approximate index is set to the cheapest setting that finds
the wanted share of the exact 100 best on 1,000 queries, and measured on others. The SavedModels
are called as the embedded server calls them, through a TensorFlow session, and answer with ids;
faiss and hnswlib are called bare and give rows. The indexes take turns: a hundred queries one by
one, so that the caches hold what they would if the index served alone; then batches of 1,000
queries, on all cores. Of the largest corpus at 0.95 follow the parts of a single query, and queries
under filters that leave from half of the corpus to a ten-thousandth, beside unfiltered ones.

`--candidates 10000000` measures another size: above a million inverted lists beside the exact
search, with bfloat16 in the leaves. The peak memory of a build is shown beside the forecast of
`twotower export`.

Needs `pip install faiss-cpu hnswlib milvus-lite pymilvus`; what is not installed is left out.
"""

import atexit
import gc
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _clustered import (
    EMBEDDING_DIM,
    FEATURE,
    Floats,
    Ints,
    K,
    exact_rows,
    export,
    recall,
    world,
)
from _filtered import filtered
from _harness import Measurement, alternate, benchmark
from _memory import forget_peak, held, peak
from _query_parts import query_parts

from serving.loading import load
from tfrs_twotower.index import CandidateIndex, ExactIndex, ScannIndex, tune, tune_ivf
from tfrs_twotower.index.memory import exact_bytes, ivf_bytes, scann_bytes
from tfrs_twotower.schema.index import Index

SIZES, TARGETS = (100_000, 1_000_000), (0.90, 0.95, 0.99)
QUICK_SIZES, QUICK_TARGETS = (100_000,), (0.95,)
TAKEN_APART = 0.95  # The target at which the largest corpus is looked at closely.
LARGEST_HNSW = LARGEST_MILVUS = 100_000
FEW_QUERIES = 100  # Of a larger corpus, of which the exact search scores one query at a time.
LARGEST = 1_000_000  # That ScaNN and faiss are given, and that is taken apart.
MILVUS_ROWS = 10_000  # That it is given at a time.
TURN = 100  # Single queries of an index before the next one has its turn.
TURNS, BATCHES, QUICK_TURNS, QUICK_BATCHES = 9, 9, 3, 3
EXACT, OURS, STOCK = "exact SavedModel", "ScaNN SavedModel", "stock SavedModel"
HALF = "stock SavedModel, bfloat16"
FAISS, HNSW, MILVUS = "faiss IVF", "hnswlib", "Milvus Lite"


@dataclass(frozen=True)
class Contestant:
    """One way to search; `find` gives the best 100, `[num_queries, 100]`, as `rows` reads them."""

    name: str
    find: Callable[[Floats], Any]
    build_s: float
    num_bytes: int
    build_peak_bytes: int | None = None  # Of ours, beyond what was held before.
    index: CandidateIndex | None = None  # Of ours.


@benchmark(
    code=["tfrs_twotower/index", "tfrs_twotower/retrieval", "serving"],
    numbers={
        "target": "measure at this recall alone, such as 0.95",
        "candidates": "measure a corpus of this size alone",
    },
)
def main(quick: bool, target: float, candidates: float) -> list[Measurement]:
    found = []
    sizes = (int(candidates),) if candidates else QUICK_SIZES if quick else SIZES
    targets = (target,) if target else QUICK_TARGETS if quick else TARGETS
    for size in sizes:
        found += of_size(size, targets, is_taken_apart=size == min(sizes[-1], LARGEST), quick=quick)
    return found


def of_size(
    size: int, targets: tuple[float, ...], *, is_taken_apart: bool, quick: bool
) -> Iterator[Measurement]:
    candidates, tuning, queries = world(size)
    if size > LARGEST:
        queries = queries[:FEW_QUERIES]
    truth = exact_rows(candidates, queries)
    for target in targets:
        contestants = saved_models(candidates, tuning, target)
        if importlib.util.find_spec("faiss") and size <= LARGEST:
            contestants.append(faiss_ivf(candidates, tuning, target))
        if importlib.util.find_spec("hnswlib") and size <= LARGEST_HNSW:
            contestants.append(hnsw(candidates, tuning, target))
        if is_engine_there() and size <= LARGEST_MILVUS and target == TAKEN_APART:
            contestants.append(milvus_lite(candidates))
        label = f"{size:,} at {target:.2f}: "
        yield from measured(label, contestants, queries, truth, quick or size > LARGEST)
        shape, tuned = (size, EMBEDDING_DIM), {"target_recall": target}
        forecasts = {
            EXACT: exact_bytes(*shape),
            OURS: scann_bytes(*shape, Index(**tuned)),
            STOCK: ivf_bytes(*shape, Index(**tuned)),
            HALF: ivf_bytes(*shape, Index(**tuned, leaf_dtype="bfloat16")),
        }
        for name, num_bytes in forecasts.items():  # Of what is too large to be built here as well.
            yield Measurement(f"{label}{name}, forecast of the build", num_bytes / 1e9, "GB")
        for one in contestants:
            if one.build_peak_bytes is not None:
                name, peak_gb = f"{label}{one.name}, peak of the build", one.build_peak_bytes / 1e9
                forecast = forecasts[one.name] / 1e9
                yield Measurement(name, peak_gb, "GB", "forecast", ratio=forecast / peak_gb)
        if is_taken_apart and target == TAKEN_APART:
            yield from taken_apart(label, contestants, candidates, queries, quick)


def taken_apart(
    label: str, contestants: list[Contestant], candidates: Floats, queries: Floats, quick: bool
) -> Iterator[Measurement]:
    rounds = QUICK_TURNS if quick else TURNS
    for one in contestants:
        of_one = f"{label}{one.name}, "
        if isinstance(one.index, ScannIndex):
            yield from query_parts(of_one, one.index, queries, turn=TURN, rounds=rounds)
        if one.index is not None and one.name in (OURS, STOCK):
            yield from filtered(of_one, one.index, candidates, queries, rounds=rounds)


class Build(NamedTuple):
    """An index that was built and exported as `twotower export` does."""

    seconds: float
    peak_bytes: int  # Beyond what was held before.
    num_bytes: int  # Of memory, as its manifest has it.
    index: CandidateIndex | None


def saved_models(candidates: Floats, tuning: Floats, target: float) -> list[Contestant]:
    """Ours, loaded as the server loads them."""
    folder = Path(tempfile.mkdtemp())
    # All are built before the first is loaded: a build has the memory of the machine.
    builds = {
        name: built(folder / name, build, is_kept=len(candidates) <= LARGEST)
        for name, build in builders(candidates, tuning, target).items()
    }
    found = [loaded(folder / name, name, build) for name, build in builds.items()]
    shutil.rmtree(folder)
    return found


def builders(
    candidates: Floats, tuning: Floats, target: float
) -> dict[str, Callable[[], CandidateIndex]]:
    wanted: Any = {"target_recall": target, "at": K}
    is_large = len(candidates) > LARGEST
    found: dict[str, Callable[[], CandidateIndex]] = {EXACT: lambda: ExactIndex(candidates)}
    if not is_large:
        found[OURS] = lambda: tune(candidates, tuning, **wanted)[0]
        found[STOCK] = lambda: tune_ivf(candidates, tuning, **wanted)[0]
    if is_large or target == TAKEN_APART:
        found[HALF] = lambda: tune_ivf(candidates, tuning, **wanted, leaf_dtype="bfloat16")[0]
    return found


def built(folder: Path, build: Callable[[], CandidateIndex], *, is_kept: bool) -> Build:
    gc.collect()
    forget_peak()
    before, started = held(), time.perf_counter()
    index = build()
    manifest = export(index, folder)
    seconds = time.perf_counter() - started
    return Build(
        seconds, peak() - before, int(manifest["memory_bytes"]), index if is_kept else None
    )


def loaded(folder: Path, name: str, build: Build) -> Contestant:
    servable = load(folder, "retrieval", 1)

    def find(queries: Floats) -> Any:
        return servable.run("serving_default", {FEATURE: queries})["candidate_ids"]

    return Contestant(name, find, build.seconds, build.num_bytes, build.peak_bytes, build.index)


def rows(found: Any) -> Ints:
    """What a contestant found as rows: the ids of the SavedModels are the rows as text."""
    return np.asarray(found).astype(np.int64)


def faiss_ivf(candidates: Floats, tuning: Floats, target: float) -> Contestant:
    import faiss

    started = time.perf_counter()
    num_lists = int(4 * len(candidates) ** 0.5)
    index: Any = faiss.index_factory(
        EMBEDDING_DIM, f"IVF{num_lists},Flat", faiss.METRIC_INNER_PRODUCT
    )
    index.train(candidates)
    index.add(candidates)
    build_s = time.perf_counter() - started

    def find(queries: Floats) -> Ints:
        return index.search(queries, K)[1]

    def set_probes(probes: int) -> None:
        index.nprobe = probes

    cheapest(set_probes, find, tuning, exact_rows(candidates, tuning), target, num_lists)
    return Contestant(FAISS, find, build_s, faiss.serialize_index(index).nbytes)


def hnsw(candidates: Floats, tuning: Floats, target: float) -> Contestant:
    import hnswlib

    started = time.perf_counter()
    index = hnswlib.Index(space="ip", dim=EMBEDDING_DIM)
    index.init_index(max_elements=len(candidates), M=24, ef_construction=200, random_seed=0)
    index.add_items(candidates)
    build_s = time.perf_counter() - started

    def find(queries: Floats) -> Ints:
        return rows(index.knn_query(queries, K)[0])

    cheapest(index.set_ef, find, tuning, exact_rows(candidates, tuning), target, 4000, least=K)
    return Contestant(HNSW, find, build_s, index.index_file_size())


def is_engine_there() -> bool:
    return all(importlib.util.find_spec(name) for name in ("milvus_lite", "pymilvus"))


def milvus_lite(candidates: Floats) -> Contestant:
    """Set up as `twotower embeddings --to milvus:` does, with the index that Milvus chooses."""
    from pymilvus import DataType, MilvusClient

    name, vector, row = "candidates", "embedding", "row"
    started = time.perf_counter()
    file = Path(tempfile.mkdtemp()) / "milvus.db"
    atexit.register(shutil.rmtree, file.parent, ignore_errors=True)
    client = MilvusClient(str(file))
    schema = client.create_schema(auto_id=False)
    schema.add_field(row, DataType.INT64, is_primary=True)
    schema.add_field(vector, DataType.FLOAT_VECTOR, dim=EMBEDDING_DIM)
    index = client.prepare_index_params()
    index.add_index(vector, index_type="AUTOINDEX", metric_type="IP")
    client.create_collection(name, schema=schema, index_params=index)
    for first in range(0, len(candidates), MILVUS_ROWS):
        some = enumerate(candidates[first : first + MILVUS_ROWS], first)
        client.insert(name, [{row: place, vector: embedding} for place, embedding in some])
    client.flush(name)
    client.load_collection(name)
    build_s = time.perf_counter() - started

    def find(queries: Floats) -> Ints:
        found = client.search(name, list(queries), limit=K, anns_field=vector)
        return np.array([[hit[row] for hit in hits] for hits in found])

    num_bytes = sum(one.stat().st_size for one in file.parent.rglob("*") if one.is_file())
    return Contestant(MILVUS, find, build_s, num_bytes)


def cheapest(
    set_effort: Callable[[int], None],
    find: Callable[[Floats], Ints],
    queries: Floats,
    truth: Ints,
    target: float,
    most: int,
    least: int = 1,
) -> None:
    """Sets the lowest effort that meets the target."""
    while least < most:
        middle = (least + most) // 2
        set_effort(middle)
        if recall(find(queries), truth) >= target:
            most = middle
        else:
            least = middle + 1
    set_effort(least)


def measured(
    label: str, contestants: list[Contestant], queries: Floats, truth: Ints, quick: bool
) -> Iterator[Measurement]:
    for one in contestants:
        found = recall(rows(one.find(queries)), truth)
        yield Measurement(f"{label}{one.name}, recall@{K}", found, "")
    place = iter(range(10**9))

    def single(one: Contestant) -> Callable[[], object]:
        def run() -> None:
            for _ in range(TURN):
                first = next(place) % len(queries)
                one.find(queries[first : first + 1])

        return run

    def batch(one: Contestant) -> Callable[[], object]:
        return lambda: one.find(queries)

    alone = alternate({c.name: single(c) for c in contestants}, QUICK_TURNS if quick else TURNS)
    together = alternate(
        {c.name: batch(c) for c in contestants}, QUICK_BATCHES if quick else BATCHES, warm_up=1
    )
    latency = {name: 1e3 / TURN * float(np.median(turns)) for name, turns in alone.items()}
    qps = {name: len(queries) / float(np.median(seconds)) for name, seconds in together.items()}
    pairs = [(one.name, EXACT) for one in contestants[1:]]
    if contestants[1].name == OURS:
        pairs += [(OURS, one.name) for one in contestants[2:]]
    for name, other in [(EXACT, None), *pairs]:
        versus = None if other is None else f"{label}{other}"
        ratio = None if other is None else latency[other] / latency[name]
        yield Measurement(f"{label}{name}, one query", latency[name], "ms", versus, ratio=ratio)
        ratio = None if other is None else qps[name] / qps[other]
        yield Measurement(f"{label}{name}, batched", qps[name], "queries/s", versus, ratio=ratio)
    for one in contestants:
        yield Measurement(f"{label}{one.name}, build", one.build_s, "s")
        yield Measurement(f"{label}{one.name}, memory", one.num_bytes / 1e6, "MB")


if __name__ == "__main__":
    main()
