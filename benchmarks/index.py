"""Search alone, at equal recall@100: our SavedModels beside faiss IVF and hnswlib.

Candidates of 64 dimensions lie in clusters of Zipf-distributed size, as those of trained towers do;
queries lie between two clusters. Every approximate index is set to the cheapest setting that finds
the wanted share of the exact 100 best on 1,000 queries, and measured on others. The SavedModels
are called as the embedded server calls them, through a TensorFlow session, and answer with ids;
faiss and hnswlib are called bare and give rows. The indexes take turns: a hundred queries one by
one, so that the caches hold what they would if the index served alone; then batches of 1,000
queries, on all cores. Of the largest corpus at 0.95 follow the parts of a single query, and queries
under filters that leave from half of the corpus to a ten-thousandth, beside unfiltered ones.

Needs `pip install faiss-cpu hnswlib milvus-lite pymilvus`; what is not installed is left out.
"""

import atexit
import importlib.util
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _clustered import (
    EMBEDDING_DIM,
    FEATURE,
    NUM_QUERIES,
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
from _query_parts import query_parts

from serving.loading import load
from tfrs_twotower.index import CandidateIndex, ExactIndex, ScannIndex, tune, tune_ivf

SIZES, TARGETS = (100_000, 1_000_000), (0.90, 0.95, 0.99)
QUICK_SIZES, QUICK_TARGETS = (100_000,), (0.95,)
TAKEN_APART = 0.95  # The target at which the largest corpus is looked at closely.
LARGEST_HNSW = LARGEST_MILVUS = 100_000
MILVUS_ROWS = 10_000  # That it is given at a time.
TURN = 100  # Single queries of an index before the next one has its turn.
TURNS, BATCHES, QUICK_TURNS, QUICK_BATCHES = 9, 9, 3, 3
EXACT, OURS, STOCK = "exact SavedModel", "ScaNN SavedModel", "stock SavedModel"
FAISS, HNSW, MILVUS = "faiss IVF", "hnswlib", "Milvus Lite"


@dataclass(frozen=True)
class Contestant:
    """One way to search; `find` gives the best 100, `[num_queries, 100]`, as `rows` reads them."""

    name: str
    find: Callable[[Floats], Any]
    build_s: float
    num_bytes: int
    index: CandidateIndex | None = None  # Of ours.


@benchmark(
    code=["tfrs_twotower/index", "tfrs_twotower/retrieval", "serving"],
    numbers={"target": "measure at this recall alone, such as 0.95"},
)
def main(quick: bool, target: float) -> list[Measurement]:
    found = []
    sizes = QUICK_SIZES if quick else SIZES
    targets = (target,) if target else QUICK_TARGETS if quick else TARGETS
    for size in sizes:
        candidates, tuning, queries = world(size)
        truth = exact_rows(candidates, queries)
        tuning_truth = exact_rows(candidates, tuning)
        exact = exact_saved_model(candidates)
        for target in targets:
            contestants = [exact, scann_saved_model(candidates, tuning, target)]
            contestants.append(stock_saved_model(candidates, tuning, target))
            if importlib.util.find_spec("faiss"):
                contestants.append(faiss_ivf(candidates, tuning, tuning_truth, target))
            if importlib.util.find_spec("hnswlib") and size <= LARGEST_HNSW:
                contestants.append(hnsw(candidates, tuning, tuning_truth, target))
            if is_engine_there() and size <= LARGEST_MILVUS and target == TAKEN_APART:
                contestants.append(milvus_lite(candidates))
            label = f"{size:,} at {target:.2f}: "
            found += list(measured(label, contestants, queries, truth, quick))
            if (size, target) == (sizes[-1], TAKEN_APART):
                found += list(taken_apart(label, contestants, candidates, queries, quick))
    return found


def taken_apart(
    label: str, contestants: list[Contestant], candidates: Floats, queries: Floats, quick: bool
) -> Iterator[Measurement]:
    rounds = QUICK_TURNS if quick else TURNS
    for one in contestants:
        of_one = f"{label}{one.name}, "
        if isinstance(one.index, ScannIndex):
            yield from query_parts(of_one, one.index, queries, turn=TURN, rounds=rounds)
        if one.index is not None and one.name != EXACT:
            yield from filtered(of_one, one.index, candidates, queries, rounds=rounds)


def exact_saved_model(candidates: Floats) -> Contestant:
    started = time.perf_counter()
    return saved_model(EXACT, ExactIndex(candidates), started)


def scann_saved_model(candidates: Floats, tuning: Floats, target: float) -> Contestant:
    started = time.perf_counter()
    index, _ = tune(candidates, tuning, target_recall=target, at=K)
    return saved_model(OURS, index, started)


def stock_saved_model(candidates: Floats, tuning: Floats, target: float) -> Contestant:
    started = time.perf_counter()
    index, _ = tune_ivf(candidates, tuning, target_recall=target, at=K)
    return saved_model(STOCK, index, started)


def saved_model(name: str, index: CandidateIndex, started: float) -> Contestant:
    """Exports an index as `twotower export` does, and loads it as the server does."""
    folder = Path(tempfile.mkdtemp()) / "1"
    manifest = export(index, folder)
    build_s = time.perf_counter() - started
    servable = load(folder, "retrieval", 1)
    shutil.rmtree(folder.parent)

    def find(queries: Floats) -> Any:
        return servable.run("serving_default", {FEATURE: queries})["candidate_ids"]

    return Contestant(name, find, build_s, int(manifest["memory_bytes"]), index)


def rows(found: Any) -> Ints:
    """What a contestant found as rows: the ids of the SavedModels are the rows as text."""
    return np.asarray(found).astype(np.int64)


def faiss_ivf(candidates: Floats, tuning: Floats, truth: Ints, target: float) -> Contestant:
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

    cheapest(set_probes, find, tuning, truth, target, num_lists)
    return Contestant(FAISS, find, build_s, faiss.serialize_index(index).nbytes)


def hnsw(candidates: Floats, tuning: Floats, truth: Ints, target: float) -> Contestant:
    import hnswlib

    started = time.perf_counter()
    index = hnswlib.Index(space="ip", dim=EMBEDDING_DIM)
    index.init_index(max_elements=len(candidates), M=24, ef_construction=200, random_seed=0)
    index.add_items(candidates)
    build_s = time.perf_counter() - started

    def find(queries: Floats) -> Ints:
        return rows(index.knn_query(queries, K)[0])

    cheapest(index.set_ef, find, tuning, truth, target, 4000, least=K)
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
                first = next(place) % NUM_QUERIES
                one.find(queries[first : first + 1])

        return run

    def batch(one: Contestant) -> Callable[[], object]:
        return lambda: one.find(queries)

    alone = alternate({c.name: single(c) for c in contestants}, QUICK_TURNS if quick else TURNS)
    together = alternate(
        {c.name: batch(c) for c in contestants}, QUICK_BATCHES if quick else BATCHES, warm_up=1
    )
    latency = {name: 1e3 / TURN * float(np.median(turns)) for name, turns in alone.items()}
    qps = {name: NUM_QUERIES / float(np.median(seconds)) for name, seconds in together.items()}
    pairs = [(one.name, EXACT) for one in contestants[1:]]
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
