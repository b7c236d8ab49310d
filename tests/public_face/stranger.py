"""A script of somebody who knows `import tfrs_twotower as tt`, pandas and nothing else.

python stranger.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

import tfrs_twotower as tt

CONFIG = """\
columns: {query_id: reader, candidate_id: book, timestamp: read_at, title: title}
features:
  query:
    reader: {kind: id}
    town: {kind: categorical}
  candidate:
    book: {kind: id}
    subjects: {kind: multi_categorical}
towers: {embedding_dim: 8}
training: {epochs: 2, batch_size: 128, learning_rate: 0.05}
"""
NUM_READERS, NUM_BOOKS, NUM_EVENTS = 40, 24, 600


def log() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Events, books and readers: a reader reads books of one of two subjects."""
    draw = np.random.default_rng(5)
    readers = draw.integers(0, NUM_READERS, NUM_EVENTS)
    books = 2 * draw.integers(0, NUM_BOOKS // 2, NUM_EVENTS) + readers % 2
    moments = pd.Timestamp("2024-03-01") + pd.to_timedelta(3 * np.arange(NUM_EVENTS), unit="h")
    events = pd.DataFrame({"reader": readers, "book": books, "read_at": moments})
    catalogue = pd.DataFrame(
        {
            "book": np.arange(NUM_BOOKS),
            "title": [f"Book {number}" for number in range(NUM_BOOKS)],
            "subjects": [["sea", "ships"] if n % 2 else ["stars"] for n in range(NUM_BOOKS)],
        }
    )
    towns = pd.Categorical(["Rome" if n % 3 else "Oslo" for n in range(NUM_READERS)])
    people = pd.DataFrame({"reader": np.arange(NUM_READERS), "town": towns})
    return events, catalogue, people


def every_step(folder: Path) -> tt.Recommendations:
    """From frames to recommendations."""
    config = tt.parse_config(CONFIG, "stranger")
    events, books, readers = log()
    prepared = tt.prepare(
        config,
        interactions=events,
        candidates=books,
        queries=readers,
        output=folder / "prepared",
        progress=False,
    )
    print(prepared)
    training: tt.TrainingResult = tt.train(config, prepared.folder, folder / "run", progress=False)
    evaluation: tt.Evaluation = tt.evaluate(training.folder, prepared.folder)
    recall = evaluation.systems["model"]["all"]["recall_at_10"]
    print(f"recall@10 {recall}")
    export: tt.Export = tt.export(training.folder, prepared.folder, folder / "models")
    titles = tt.titles(export.folder)
    with tt.serve(export.folder) as client:
        answers = client.recommend([{"reader": str(n), "town": "Oslo"} for n in range(2)], k=3)
    for answer in answers:
        print([titles[book] for book in answer.candidate_ids])
    return tt.recommend(export.folder, {"reader": "3"}, k=5)


def loss_by_hand() -> float:
    """The retrieval task beside towers that are nobody's: here, two matrices."""
    task = tt.RetrievalTask(temperature=0.5, mask="accidental_hits")
    queries = np.eye(4, dtype=np.float32)
    return float(task(queries, queries, candidate_ids=np.arange(4)))


def main(folder: Path) -> None:
    """Runs everything; a mistake is a line."""
    try:
        print(every_step(folder))
        every_step(folder)
    except tt.UsageError as error:
        print(f"refused: {error}")
    print(f"loss {loss_by_hand():.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
