"""Cold start on the sample: recall@100 of films that never occurred in train.

The sample's own config beside the same model without the drop-out of ids, and beside a model that
knows ids and the history only. A twentieth of the films is new in the last weeks; the time split
puts some behind the end of train. Users without a positive in train are shown too.
"""

import tempfile
from pathlib import Path

from _harness import TRAINED, Measurement, benchmark

from tfrs_twotower import api
from tfrs_twotower.datasets import write_dataset
from tfrs_twotower.evaluation.slices import ALL, COLD, KNOWN_CANDIDATES, NEW_CANDIDATES
from tfrs_twotower.schema import load_config

METRIC = "recall_at_100"
SLICES = {
    NEW_CANDIDATES: "new films",
    KNOWN_CANDIDATES: "known films",
    COLD: "new users",
    ALL: "all",
}
WITH_DROPOUT, WITHOUT_DROPOUT, IDS = "with id drop-out", "without id drop-out", "ids and history"
SETTINGS = {
    WITH_DROPOUT: [],
    WITHOUT_DROPOUT: [
        "features.query.user_id={kind: id}",
        "features.candidate.item_id={kind: id}",
    ],
    IDS: [
        "features={query: {user_id: {kind: id}, history: {kind: history, length: 20}}, "
        "candidate: {item_id: {kind: id}}}",
    ],
}


@benchmark(code=TRAINED)
def main(quick: bool) -> list[Measurement]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_dataset("sample", root / "dataset")
        for number, (name, settings) in enumerate(SETTINGS.items()):
            epochs = ["training.epochs=2"] if quick else []
            config = load_config(root / "dataset" / "twotower.yaml", [*settings, *epochs])
            prepared, run = root / f"prepared-{number}", root / f"run-{number}"
            api.prepare(config, root / "dataset", prepared)
            api.train(config, prepared, run)
            found[name] = api.evaluate(run, prepared).systems["model"]
    return [
        Measurement(
            f"{name}, {shown}", found[name][part][METRIC], METRIC, IDS, found[IDS][part][METRIC]
        )
        for part, shown in SLICES.items()
        for name in SETTINGS
    ]


if __name__ == "__main__":
    main()
