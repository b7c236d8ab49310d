"""Drift: what two prepared folders differ in beyond chance.

Both are read by the config of the first. Features are compared as the towers see them: those of the
query and the context by event, those of the candidate by positive event.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tfrs_twotower.data.prepared import MADE_BY, PreparedData
from tfrs_twotower.data.remote import RemoteFolder, url_of
from tfrs_twotower.evaluation.drift_counts import Sample, measures
from tfrs_twotower.evaluation.drift_noise import Difference, compare
from tfrs_twotower.schema import SPLITS, Config, UsageError, UserError
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
    """The result of a comparison of two prepared folders.

    Attributes:
        a: The first folder.
        b: The second.
        splits: Which splits of both are compared.
        num_examples: Of each.
        num_queries: Of each.
        corpus_size: Of each.
        churn: By vocabulary; that of the candidates' ids is the churn of the catalogue.
        differences: What was compared, the largest distance beyond its noise first.
        level: Probability that two samples of one population differ in any difference.
    """

    a: str
    b: str
    splits: tuple[str, ...]
    num_examples: tuple[int, int]
    num_queries: tuple[int, int]
    corpus_size: tuple[int, int]
    churn: dict[str, Churn]
    differences: list[Difference]
    level: float = LEVEL

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
            "a": self.a,
            "b": self.b,
            "splits": list(self.splits),
            "num_examples": list(self.num_examples),
            "num_queries": list(self.num_queries),
            "corpus_size": list(self.corpus_size),
            "level": self.level,
            "churn": {name: churn._asdict() for name, churn in self.churn.items()},
            "differences": [
                {**one._asdict(), "is_drift": one.is_drift} for one in self.differences
            ],
        }


def drift(a: str | Path, b: str | Path, *, split: str = "train", level: float = LEVEL) -> Drift:
    """Compares two prepared folders of one config.

    Args:
        a: The earlier prepared folder, such as the one that the served model was trained on.
        b: The later one.
        split: Which examples are compared: "train", "validation", "test", or "all".
        level: Probability that two samples of one population are told to differ in anything.

    Returns:
        Distances with their noise levels, see `drift_noise.compare`.

    Raises:
        UserError: If a folder is unusable, of another schema than the first, or has no examples.
        UsageError: If the split or the level is none.
    """
    if split not in (*SPLITS, "all"):
        raise UsageError(f"unknown split {split!r}: expected {', '.join(SPLITS)} or all")
    if not 0 < level < 1:
        raise UsageError(f"level must be between 0 and 1, got {level:g}")
    splits = SPLITS if split == "all" else (split,)
    config = _config_of(a)
    samples = [Sample(PreparedData(folder, config), splits) for folder in (a, b)]
    num_examples = [_num_examples(sample) for sample in samples]
    for sample, number in zip(samples, num_examples, strict=True):
        if not number:
            raise UserError(f"{sample.data.folder} has no examples of {' and '.join(splits)}")
    differences = compare(measures(*samples), level=level, seed=config.training.seed)
    manifests = [sample.data.manifest for sample in samples]
    return Drift(
        a=str(a),
        b=str(b),
        splits=splits,
        num_examples=(num_examples[0], num_examples[1]),
        num_queries=(manifests[0]["num_queries"], manifests[1]["num_queries"]),
        corpus_size=(manifests[0]["corpus_size"], manifests[1]["corpus_size"]),
        churn=_churn(*samples),
        differences=sorted(differences, key=_order),
        level=level,
    )


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
