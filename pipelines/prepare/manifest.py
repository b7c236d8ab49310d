"""What the launcher does with the workers' report: checks it, and writes what closes the folder."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.io import filesystem
from pipelines.io.filesystem import join
from pipelines.io.output import WrittenFile
from pipelines.io.report import RANGE, Summary, written_files
from pipelines.io.tables import column
from pipelines.prepare.audit import CHECKS, DIGEST_MODULUS, TRAIN_COUNTS, train_digest
from pipelines.prepare.dataset_files import CANDIDATES, INTERACTIONS, QUERIES
from pipelines.prepare.job import Corpus, Job, count_column, load_corpus
from pipelines.prepare.split import NEVER, TRAIN
from pipelines.prepare.validate import CURES
from tfrs_twotower.schema import SPLITS, Parameter, UserError
from tfrs_twotower.schema import prepared as layout
from tfrs_twotower.schema.version import __version__

COUNTS_A_PIECE = 1 << 14  # Of the text of `statistics.json`.


def check_report(report: Summary, job: Job, max_rejected_share: float) -> None:
    """Checks that the data are worth a prepared folder.

    Raises:
        UserError: If there is nothing to learn from, or too much was rejected.
    """
    where = join(job.run.folder, layout.REJECTED)
    kinds = report.get("kinds", {})
    if not kinds.get(INTERACTIONS, {}).get("read"):
        raise UserError("the interactions are empty: there is nothing to prepare")
    for kind in (CANDIDATES, QUERIES, INTERACTIONS):
        read, rejected = _read_and_rejected(kinds.get(kind, {}))
        num_rejected = sum(rejected.values())
        # Without events there is nothing to prepare, whatever share may be rejected.
        is_nothing = kind == INTERACTIONS and num_rejected == read
        if not num_rejected or (num_rejected / read <= max_rejected_share and not is_nothing):
            continue
        reason = max(sorted(rejected), key=lambda name: rejected[name])
        cure = f": {CURES[reason]}" if reason in CURES else ""
        if num_rejected == read:
            raise UserError(
                f"every one of the {read} records of the {kind} was rejected, most as "
                f"`{reason}`{cure}\nSee {where} for the first of each reason."
            )
        raise UserError(
            f"{num_rejected} of {read} records of the {kind} ({num_rejected / read:.1%}) were "
            f"rejected, most as `{reason}`{cure}\nSee {where} for the first of each reason; ",
            Parameter("max_rejected_share"),
            f" ({max_rejected_share:g}) is the share that may be.",
        )
    if not report["examples"]["train"]["positives"]:
        raise UserError(
            "no positive event is in the train part: check `labels`, `filters` and `split` in the "
            "config"
        )


def _read_and_rejected(kind: Summary) -> tuple[int, dict[str, int]]:
    return int(kind.get("read", 0)), dict(kind.get("rejected", {}))


def publish_report(report: Summary, job: Job, *, overwrite: bool) -> dict[str, Any]:
    """Publishes what a checked report names, with vocabularies and statistics; gives the manifest.

    Args:
        report: Of the workers.
        job: The job.
        overwrite: See `Run.publish`.

    Raises:
        RuntimeError: If records were lost, or the audit found a leak.
        UsageError: See `Run.publish`.
    """
    corpus = load_corpus(report["paths"]["catalogue"], report["paths"]["candidate_counts"])
    files = written_files(report)
    files[layout.STATISTICS] = [_write_statistics(report, job, corpus)]
    files[layout.VOCABULARIES] = _publish_vocabularies(report, job)
    manifest = make_manifest(report, job, corpus, files[layout.STATISTICS][0])
    return job.run.publish(manifest, files, overwrite=overwrite)


def _write_statistics(report: Summary, job: Job, corpus: Corpus) -> WrittenFile:
    in_corpus = corpus.rows >= 0
    counts = column(corpus.counts, count_column(TRAIN, 1)).to_numpy()[in_corpus]
    # The catalogue is sorted by UTF-8 bytes, which is the order of the keys as Python sorts them.
    ids = corpus.catalogue.ids.filter(pa.array(in_corpus))
    path = job.run.new_path(layout.STATISTICS, ".json")
    with filesystem.create(path) as file:
        file.writelines(statistics_json(ids, counts, report.get("numbers", {})))
    return job.run.written(path, file, len(corpus))


def statistics_json(ids: pa.Array, counts: np.ndarray, numbers: Summary) -> Iterator[bytes]:
    """The text of `statistics.json` in pieces: a whole corpus as Python objects takes gigabytes.

    Args:
        ids: `[n]` of the candidates, sorted and distinct.
        counts: `[n]` train positives of each.
        numbers: Statistics of the `number` features, by feature.
    """
    yield b'{\n "candidate_train_counts": {'
    for start in range(0, len(ids), COUNTS_A_PIECE):
        of_ids = ids[start : start + COUNTS_A_PIECE].to_pylist()
        of_counts = counts[start : start + COUNTS_A_PIECE].tolist()
        lines = [f"\n  {json.dumps(i)}: {n}" for i, n in zip(of_ids, of_counts, strict=True)]
        yield ("," if start else "").encode() + ",".join(lines).encode()
    yield b"\n },\n" if len(ids) else b"},\n"
    rest = {"numbers": numbers, "total": int(counts.sum())}
    yield json.dumps(rest, indent=1, sort_keys=True).removeprefix("{\n").encode() + b"\n"


def _publish_vocabularies(report: Summary, job: Job) -> list[WrittenFile]:
    """Copies the vocabularies that workers left to one folder, each under its feature's name."""
    files = []
    for name, vocabulary in report.get("vocabularies", {}).items():
        path = join(job.run.folder, layout.VOCABULARIES, f"{name}.txt")
        with filesystem.create(path) as file:
            if vocabulary["path"]:
                with filesystem.open_raw(vocabulary["path"]) as staged:
                    shutil.copyfileobj(staged, file)
        files.append(job.run.written(path, file, vocabulary["size"]))
    return files


def make_manifest(
    report: Summary, job: Job, corpus: Corpus, statistics: WrittenFile
) -> dict[str, Any]:
    """The manifest of a checked report.

    Raises:
        RuntimeError: If records were lost: read is not examples, rejected and filtered together.
    """
    read, rejected = _read_and_rejected(report["kinds"][INTERACTIONS])
    examples, filtered = report["examples"], report["filtered"]
    num_examples = sum(sum(of_split.values()) for of_split in examples.values())
    accounted = num_examples + sum(rejected.values()) + sum(filtered.values())
    if read != accounted:
        raise RuntimeError(f"{read} records were read, but only {accounted} are accounted for")
    vocabularies = report.get("vocabularies", {})
    digests = {f"{layout.VOCABULARIES}/{n}.txt": v["sha256"] for n, v in vocabularies.items()}
    digests[f"{layout.STATISTICS}.json"] = statistics.sha256
    of_records = report["records_digests"]
    digests |= {name: f"{digest % 2**64:016x}" for name, digest in of_records.items()}
    audit = _audit(report, corpus)
    if any(audit["violations"].values()):
        raise RuntimeError(f"the audit found leaks in what was written: {audit['violations']}")
    return {
        "kind": "prepared",
        "format": layout.FORMAT,
        "code_version": __version__,
        "schema_fingerprint": job.config.fingerprint(),
        "record_schema": job.config.record_schema(),
        "config": job.config.model_dump(mode="json"),
        "counts": {
            "read": read,
            "rejected": rejected,
            "filtered": filtered,
            "examples": examples,
            "files": report["files"],
        },
        "time_ranges": {split: times[RANGE] for split, times in report["times"].items()},
        "cutoffs": _cutoffs(report),
        "corpus_size": len(corpus),
        "num_queries": report["num_queries"],
        "warm_cold": _warm_cold(report, corpus),
        "vocabulary_sizes": {name: v["size"] for name, v in vocabularies.items()},
        "digests": digests,
        "audit": audit,
    }


def _audit(report: Summary, corpus: Corpus) -> dict[str, dict[str, int]]:
    """The workers' audits, and whether train was counted as it was written."""
    counted = column(corpus.counts, count_column(TRAIN, 1)).to_numpy()
    counted = np.where(corpus.rows >= 0, counted, 0)
    same = train_digest(corpus.catalogue.hashes, counted) == report["train_digest"] % DIGEST_MODULUS
    checked, violations = report["audit"]["checked"], report["audit"]["violations"]
    nothing = dict.fromkeys(CHECKS, 0)
    return {
        "checked": nothing | checked | {TRAIN_COUNTS: len(corpus)},
        "violations": nothing | violations | {TRAIN_COUNTS: int(not same)},
    }


def _cutoffs(report: Summary) -> dict[str, int | None]:
    """First second of validation and of test; null where the split is not by time or empty."""
    seconds = [None if second == NEVER else second for second in report["cutoffs"]]
    return dict(zip(SPLITS[1:], seconds, strict=True))


def _warm_cold(report: Summary, corpus: Corpus) -> dict[str, dict[str, int]]:
    """Queries and candidates of each split, with and without a train positive."""
    in_corpus = corpus.rows >= 0
    is_warm = column(corpus.counts, count_column(TRAIN, 1)).to_numpy() > 0
    shares = {}
    for code, split in enumerate(SPLITS):
        counts = [column(corpus.counts, count_column(code, label)).to_numpy() for label in (0, 1)]
        is_there = (sum(counts) > 0) & in_corpus
        queries = report["queries"][split]
        shares[split] = {
            "warm_queries": queries["warm"],
            "cold_queries": queries["cold"],
            "warm_candidates": int((is_there & is_warm).sum()),
            "cold_candidates": int((is_there & ~is_warm).sum()),
        }
    return shares
