"""Amazon reviews in S3-Rec's files, leave-last-out: the ordered recipe on sparse data.

The config is the one that `twotower dataset sasrec` writes, as in `ml1m_sequences.py`. The last
item of each user tests, the one before validates, chooses the epoch and is then trained on; ranked
are all items but those that the user has had.

Published, HR@10 / NDCG@10: Toys and Games SASRec+ with sampled softmax 0.0970 / 0.0580, S3-Rec
0.0700 / 0.0376; Sports and Outdoors WEARec 0.0631 / 0.0367, S3-Rec 0.0385 / 0.0204.
"""

import tempfile
from pathlib import Path

from _harness import TRAINED, Measurement, benchmark

from tfrs_twotower import api
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.schema import load_config

IN_THE_CANDIDATE_TOWER = [
    "features.candidate={item_id: {kind: id}, attributes: {kind: multi_categorical}}"
]
IN_BOTH_TOWERS = [
    *IN_THE_CANDIDATE_TOWER,
    "features.query.history.candidate_features=[attributes]",
]
READERS = {
    "ids alone": [],
    "attributes in the candidate tower": IN_THE_CANDIDATE_TOWER,
    "attributes in both towers": IN_BOTH_TOWERS,
}
Metrics = dict[str, float]
Systems = dict[str, dict[str, Metrics]]
METRICS = ("hit_rate_at_10", "ndcg_at_10")
PUBLISHED = {
    "Toys_and_Games": ("SASRec+, sampled softmax, as published", (0.0970, 0.0580)),
    "Sports_and_Outdoors": ("WEARec, as published", (0.0631, 0.0367)),
}


@benchmark(
    code=[*TRAINED, "tfrs_twotower/datasets/sasrec.yaml"],
    data="amazon",
    flags={
        "sports": "Sports and Outdoors in place of Toys and Games",
        "attributes": "the items' attributes in both towers",
        "compare": "what attributes add in each place, without a refit, on validation and test",
    },
    settings=True,
)
def main(
    quick: bool,
    data: Path,
    sports: bool,
    attributes: bool,
    compare: bool,
    settings: list[str],
) -> list[Measurement]:
    name = "Sports_and_Outdoors" if sports else "Toys_and_Games"
    own = ["training.epochs=1"] if quick else []
    source = data / f"{name}.txt.gz"
    if compare:
        compared = {
            reader: validated_and_tested(source, [*own, "training.refit=false", *more, *settings])
            for reader, more in READERS.items()
        }
        return [
            Measurement(reader, figures[split][metric], f"{metric}, {split}, {name}")
            for reader, figures in compared.items()
            for split in figures
            for metric in METRICS
        ]
    own += IN_BOTH_TOWERS if attributes else []
    with tempfile.TemporaryDirectory() as folder:
        _, systems = trained(source, [*own, *settings], Path(folder))
    versus, published = PUBLISHED[name]
    return [
        Measurement(system, figures["all"][metric], f"{metric}, {name}", versus, theirs)
        for metric, theirs in zip(METRICS, published, strict=True)
        for system, figures in systems.items()
    ]


def validated_and_tested(source: Path, settings: list[str]) -> dict[str, Metrics]:
    """The model's metrics by split."""
    with tempfile.TemporaryDirectory() as folder:
        validation, test = trained(source, settings, Path(folder))
    return {"validation": validation["model"]["all"], "test": test["model"]["all"]}


def trained(source: Path, settings: list[str], root: Path) -> tuple[Systems, Systems]:
    """What the systems reach on the validation and on the test split."""
    write_dataset("sasrec", root / "log", source)
    config = load_config(root / "log" / "twotower.yaml", settings)
    api.prepare(config, root / "log", root / "prepared", progress=False)
    result = api.train(config, root / "prepared", root / "run")
    assert result.validation is not None
    test = api.evaluate(root / "run", root / "prepared")
    return result.validation.systems, test.systems


if __name__ == "__main__":
    main()
