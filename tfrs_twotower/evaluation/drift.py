"""Drift: what two prepared folders, or one and a server's queries, differ in beyond chance.

Both are read by the config of the first. Features are compared as the towers read them: those of
the query and the context by event, those of the candidate by positive event.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tfrs_twotower.data.prepared import MADE_BY, PreparedData
from tfrs_twotower.data.remote import RemoteFolder, url_of
from tfrs_twotower.evaluation.drift_counts import Sample, measures, measures_of_queries
from tfrs_twotower.evaluation.drift_noise import Difference, Measure, compare
from tfrs_twotower.evaluation.drift_queries import ServedQueries
from tfrs_twotower.schema import SPLITS, Config, Parameter, UsageError, UserError
from tfrs_twotower.schema.folders import read_manifest
from tfrs_twotower.schema.results import Tabular

LEVEL = 0.05


class Churn(NamedTuple):
    """How many tokens of a vocabulary are in both folders, in the second, in the first alone."""

    kept: int
    new: int
    gone: int


@dataclass(frozen=True, repr=False)
class Drift(Tabular):
    """The result of a comparison of two prepared folders, or of one and a request log.

    Attributes:
        a: The first folder.
        b: The second, or that of the request log.
        splits: Which splits are compared.
        num_examples: Of each; of a request log the queries asked.
        num_queries: Of each prepared folder.
        corpus_size: Likewise.
        churn: By vocabulary; that of the candidates' ids is the churn of the catalogue. Of a
            request log there is none: it has no vocabularies.
        differences: What was compared, the largest distance beyond its noise first.
        level: Probability that two samples of one population differ in any difference.
        skipped: Records of a request log without a query, by reason; see `ServedQueries`.
    """

    a: str
    b: str
    splits: tuple[str, ...]
    num_examples: tuple[int, int]
    num_queries: tuple[int, ...]
    corpus_size: tuple[int, ...]
    churn: dict[str, Churn]
    differences: list[Difference]
    level: float = LEVEL
    skipped: dict[str, int] = field(default_factory=dict)

    def drifting(self, above: float = 0.0) -> list[Difference]:
        """What differs by more than chance and by more than `above`, the largest first."""
        return [one for one in self.differences if one.is_drift and (one.distance or 0.0) > above]

    @property
    def title(self) -> str:
        """What was compared, and how much of it drifts."""
        drifting = len(self.drifting())
        return (
            f"{self.b} beside {self.a}, {' and '.join(self.splits)}: {drifting} of "
            f"{len(self.differences)} comparisons differ by more than chance"
        )

    def to_frame(self) -> pd.DataFrame:
        """A row a difference."""
        rows = [{**one._asdict(), "is_drift": one.is_drift} for one in self.differences]
        return pd.DataFrame(rows).set_index(["name", "what"])

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "title": self.title,
            "a": self.a,
            "b": self.b,
            "splits": list(self.splits),
            "num_examples": list(self.num_examples),
            "num_queries": list(self.num_queries),
            "corpus_size": list(self.corpus_size),
            "level": self.level,
            "skipped": self.skipped,
            "churn": {name: churn._asdict() for name, churn in self.churn.items()},
            "differences": [
                {**one._asdict(), "change": one.change, "is_drift": one.is_drift}
                for one in self.differences
            ],
        }


def drift(
    a: str | Path,
    b: str | Path | None = None,
    *,
    requests: str | Path | None = None,
    split: str = "train",
    level: float = LEVEL,
) -> Drift:
    """Compares a prepared folder with another one of its config, or with what a server was asked.

    Args:
        a: The earlier prepared folder, such as the one that the served model was trained on.
        b: The later one; None: `requests` are given.
        requests: The folder of a server's request log.
        split: Which examples are compared: "train", "validation", "test", or "all".
        level: Probability that two samples of one population are told to differ in anything.

    Returns:
        Distances with their noise levels, see `drift_noise.compare`.

    Raises:
        UserError: If a folder is unusable, of another schema than the first, or has no examples; or
            if the log has no queries of that schema.
        UsageError: If the split or the level is none, or not one of `b` and `requests` is given.
    """
    if (b is None) == (requests is None):
        raise UsageError("compare with another prepared folder, or with ", Parameter("requests"))
    if split not in (*SPLITS, "all"):
        raise UsageError(f"unknown split {split!r}: expected {', '.join(SPLITS)} or all")
    if not 0 < level < 1:
        raise UsageError(f"level must be between 0 and 1, got {level:g}")
    splits = SPLITS if split == "all" else (split,)
    config = _config_of(a)
    first = Sample(PreparedData(a, config), splits)
    _check(first)
    if requests is not None:
        return _beside_requests(first, requests, level)
    assert b is not None
    second = Sample(PreparedData(b, config), splits)
    _check(second)
    manifests = [sample.data.manifest for sample in (first, second)]
    return Drift(
        a=str(a),
        b=str(b),
        splits=splits,
        num_examples=(_num_examples(first), _num_examples(second)),
        num_queries=tuple(manifest["num_queries"] for manifest in manifests),
        corpus_size=tuple(manifest["corpus_size"] for manifest in manifests),
        churn=_churn(first, second),
        differences=_compared(measures(first, second), first, level),
        level=level,
    )


def _beside_requests(sample: Sample, requests: str | Path, level: float) -> Drift:
    data = sample.data
    queries = ServedQueries(requests, data)
    found = measures_of_queries(sample, queries)
    if not queries.num_queries:
        raise UserError(
            f"no request in {requests} has all features of {data.folder}: name the folder that the "
            "served model was trained on"
        )
    return Drift(
        a=str(data.folder),
        b=str(requests),
        splits=sample.splits,
        num_examples=(_num_examples(sample), queries.num_queries),
        num_queries=(data.manifest["num_queries"],),
        corpus_size=(data.manifest["corpus_size"],),
        churn={},
        differences=_compared(found, sample, level),
        level=level,
        skipped=dict(queries.skipped),
    )


def _compared(found: list[Measure], first: Sample, level: float) -> list[Difference]:
    seed = first.data.config.training.seed
    return sorted(compare(found, level=level, seed=seed), key=_order)


def _check(sample: Sample) -> None:
    if not _num_examples(sample):
        raise UserError(f"{sample.data.folder} has no examples of {' and '.join(sample.splits)}")


def _config_of(folder: str | Path) -> Config:
    """The config that a folder was prepared with."""
    url = url_of(folder)
    if url is None:
        manifest = read_manifest(folder, kind="prepared", made_by=MADE_BY)
    else:
        manifest = RemoteFolder(url).read_manifest(kind="prepared", made_by=MADE_BY)
    return Config.model_validate_json(json.dumps(manifest["config"]), strict=False)


def _num_examples(sample: Sample) -> int:
    counts = sample.data.manifest["counts"]["examples"]
    return sum(sum(counts[split].values()) for split in sample.splits)


def _churn(a: Sample, b: Sample) -> dict[str, Churn]:
    names = [path.stem for path in a.data.files("vocabularies")]
    found = {}
    for name in sorted(names):
        of_a, of_b = set(a.tokens(name)), set(b.tokens(name))
        found[name] = Churn(len(of_a & of_b), len(of_b - of_a), len(of_a - of_b))
    return found


def _order(difference: Difference) -> tuple[float, str, str]:
    """By how far the distance is beyond its noise; what cannot be told comes last."""
    if difference.distance is None or difference.noise is None:
        return 2.0, difference.name, difference.what
    return difference.noise - difference.distance, difference.name, difference.what
