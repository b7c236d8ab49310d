"""A log replayed step by step: prepare, train, gate, promote or keep, judge on what comes next.

At each moment a folder is prepared of the log as it was then: its last step validates, what is
before trains. A model that serves from a moment on is judged on the folder of the next moment,
whose validation split is the step between them: so whatever decides at a moment, vocabularies,
counts and corpus among it, comes from a folder in which the judged step does not exist.

The model that is judged stands on other vocabularies than that folder; its weights follow their
tokens as in a warm start, and a token that it does not know is looked up as out of vocabulary.
"""

import gc
import json
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from tfrs_twotower.data.prepared import Corpus, PreparedData
from tfrs_twotower.evaluation import metrics
from tfrs_twotower.evaluation.backtest import Backtest, Served, Step
from tfrs_twotower.evaluation.protocols import EvaluationSet, load_evaluation_set
from tfrs_twotower.evaluation.ranking import Pairs, rank
from tfrs_twotower.keras import keras
from tfrs_twotower.models.embed import embed
from tfrs_twotower.models.run_folder import CONFIG_FILE, METRICS_FILE, build_model
from tfrs_twotower.publishing.release import METRIC, Limits, metric_against
from tfrs_twotower.schema import Config, UsageError, UserError, differences, load_config
from tfrs_twotower.schema.folders import write_json
from tfrs_twotower.schema.policies import Policy, Start, Steps
from tfrs_twotower.schema.split import Split
from tfrs_twotower.schema.version import __version__
from tfrs_twotower.training.train import train
from tfrs_twotower.training.warm_start import carry_over, earlier_run

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Prepare = Callable[[Config, date, Path], None]
"""A config, a moment, a folder -> the prepared folder of the log as it was at the moment."""

PREPARED, SETTINGS = "prepared", "settings.json"
JUDGED = "validation"  # The split that is the last step before a folder's moment.
NOWHERE = np.iinfo(np.int64).max  # The rank of what is not among the candidates.


class Job(NamedTuple):
    """What a backtest reads and where it writes.

    Attributes:
        config: Of the models; its split is replaced.
        steps: The moments.
        policies: That are compared.
        folder: Where everything is written; what is finished in it is not made again.
        prepare: Makes a prepared folder.
        k: The cut-off of recall@k.
        warm_epochs: Of a warm start.
        callbacks: Of Keras, for progress.
        tell: Is told what is being done, one line each.
    """

    config: Config
    steps: Steps
    policies: tuple[Policy, ...]
    folder: Path
    prepare: Prepare
    k: int
    warm_epochs: int
    callbacks: Sequence[keras.callbacks.Callback]
    tell: Callable[[str], None]

    def folder_at(self, step: int) -> Path:
        """The folder of a moment."""
        return self.folder / self.steps.moments[step].isoformat()

    def config_at(self, step: int) -> Config:
        """The config of a moment: the step before it validates."""
        moment = self.steps.moments[step]
        validation_from = date.fromordinal(moment.toordinal() - self.steps.days)
        split = Split(by="dates", validation_from=validation_from, test_from=moment)
        return self.config.model_copy(update={"split": split})


def begin(job: Job, digest: str) -> None:
    """Takes a folder for a replay, new or begun with the same settings and log.

    Args:
        job: What to do.
        digest: Of the log.

    Raises:
        UsageError: If it is of another replay, or holds files of others.
        UserError: If it cannot be written.
    """
    settings = {
        "config": job.config.model_dump(mode="json", exclude={"split"}),
        "log": digest,
        "start": job.steps.start.isoformat(),
        "step_days": job.steps.days,
        "k": job.k,
        "warm_epochs": job.warm_epochs,
        "code_version": __version__,
    }
    path = job.folder / SETTINGS
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            begun = json.loads(path.read_text(encoding="utf-8"))
        elif any(not entry.name.startswith(".") for entry in job.folder.iterdir()):
            raise UsageError(f"{job.folder} is not empty and no backtest: name another folder")
        else:
            write_json(path, settings)
            return
    except OSError as error:
        raise UserError(f"cannot write {job.folder}: {error.strerror}") from error
    if found := differences(begun, settings):
        shown = ", ".join(name for name, _, _ in found[:3])
        raise UsageError(
            f"{job.folder} holds a backtest with another {shown}: remove it, or name another folder"
        )


def backtest(job: Job, num_without_time: int) -> Backtest:
    """Replays a log.

    Args:
        job: What to do.
        num_without_time: Interactions that are left out, for the result.

    Raises:
        UserError: If a step has nothing to learn from or to judge on; see `prepare` and `train`.
    """
    seed = job.config.training.seed
    first = now = _Moment(job, 0)
    run = first.folder / "cold"
    first.training("cold", None, run)
    models = {policy.name: run for policy in job.policies}
    steps = []
    for number in range(job.steps.count):
        later = _Moment(job, number + 1)
        judged = _Judged(now, later)
        served = {}
        for policy in job.policies:
            decision = now.decided(policy, models[policy.name])
            models[policy.name] = decision.run
            known = now if policy.refreshes else first
            recalls = judged.recalls(policy, decision.run, known)
            served[policy.name] = decision.as_served(recalls)
            job.tell(
                f"{job.steps.moments[number]} {policy.name}: {decision.action}, recall@{job.k} "
                f"{recalls.mean():.4f}" + (f" ({decision.reason})" if decision.reason else "")
            )
        steps.append(judged.as_step(served))
        now = later
    return Backtest(job.k, job.steps.days, steps, num_without_time, seed)


class _Decision(NamedTuple):
    """What a policy did at a moment, and the run that serves from then on."""

    run: Path
    action: str
    reason: str = ""
    num_trained: int = 0
    processor_s: float = 0.0

    def as_served(self, recalls: Floats) -> Served:
        return Served(self.action, self.reason, self.num_trained, self.processor_s, recalls)


class _Moment:
    """What is done at a moment, and read of its prepared folder; each once."""

    def __init__(self, job: Job, number: int) -> None:
        self.job, self.number = job, number
        self.folder = job.folder_at(number)
        self.config = job.config_at(number)

    def once(self, name: str, what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What a piece of work came to, and the processor time it took; from its file if done."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.job.tell(f"{self.folder.name} {what}")
            began_s = time.process_time()
            found = make()
            write_json(path, {**found, "processor_s": time.process_time() - began_s})
        return dict(json.loads(path.read_text(encoding="utf-8")))

    @cached_property
    def preparing(self) -> dict[str, Any]:
        def make() -> dict[str, Any]:
            moment = self.job.steps.moments[self.number]
            self.job.prepare(self.config, moment, self.folder / PREPARED)
            return {}

        return self.once(PREPARED, "prepare", make)

    @cached_property
    def data(self) -> PreparedData:
        assert self.preparing
        return PreparedData(self.folder / PREPARED, self.config)

    @cached_property
    def corpus(self) -> Corpus:
        return self.data.corpus()

    @cached_property
    def last_step(self) -> EvaluationSet:
        """The queries of the step before the moment."""
        return load_evaluation_set(self.data, JUDGED)

    def training(self, start: Start, served: Path | None, run: Path) -> dict[str, Any]:
        """Trains into a run folder, from the served run if it is to start warm; what it took."""
        config, data = self.config, self.data
        if start == "warm":
            epochs = {"epochs": self.job.warm_epochs}
            training = config.training.model_copy(update=epochs)
            config = config.model_copy(update={"training": training})

        def make() -> dict[str, Any]:
            result = train(
                config,
                data.folder,
                run,
                overwrite=True,
                warm_start=served if start == "warm" else None,
                callbacks=self.job.callbacks,
            )
            _forget()
            num_epochs = len(result.epochs) + len(result.refit_epochs)
            examples = data.manifest["counts"]["examples"]["train"]
            return {"num_trained": num_epochs * sum(examples.values())}

        return self.once(f"{run.name}-run", f"train {run.name}", make)

    def decided(self, policy: Policy, served: Path) -> _Decision:
        """What a policy does at this moment, when a run is served."""
        if self.number == 0:
            return _Decision(served, "start")
        if not policy.trains_at(self.number) or policy.start is None:
            return _Decision(served, "refresh" if policy.refreshes else "keep")
        # A cold run is that of every policy; a warm one depends on what was served.
        run = self.folder / (policy.start if policy.start == "cold" else policy.name)
        training = self.training(policy.start, served, run)

        def make() -> dict[str, Any]:
            return {"reason": self._against(run, served)}

        gate = self.once(f"{policy.name}-gate", f"gate of {policy.name}", make)
        took = (self.preparing, training, gate)
        return _Decision(
            run=served if gate["reason"] else run,
            action="reject" if gate["reason"] else "promote",
            reason=gate["reason"],
            num_trained=training["num_trained"],
            processor_s=sum(one["processor_s"] for one in took),
        )

    def _against(self, run: Path, served: Path) -> str:
        """What the release gate has against a run, beside the served one on the same queries."""
        found = json.loads((run / METRICS_FILE).read_text(encoding="utf-8"))["validation"]
        ranks = rank_earlier(served, self, self.last_step, np.arange(len(self.corpus)))
        queries = self.last_step.positives.queries
        return metric_against(
            "all",
            found["metrics"]["model"]["all"][METRIC],
            float(metrics.by_name(METRIC, queries, ranks).mean()),
            found["metrics"]["popularity"]["all"][METRIC],
            Limits(),
        )


class _Judged:
    """A step between two moments: its queries, and how well runs rank what is to be found."""

    def __init__(self, now: _Moment, later: _Moment) -> None:
        self._now, self._later = now, later

    @cached_property
    def queries(self) -> EvaluationSet:
        """Those with something to find among the candidates of the moment."""
        all_queries = self._later.last_step
        rows = self._rows_of(self._now)
        is_known = np.isin(all_queries.positives.candidate_rows, rows)
        positives = Pairs(*(values[is_known] for values in all_queries.positives))
        within = all_queries._replace(positives=positives)
        return within.take(np.unique(positives.queries))

    def recalls(self, policy: Policy, run: Path, known: _Moment) -> Floats:
        """`[num_queries]` of a run whose candidates are those of a moment."""
        path = self._now.folder / f"{policy.name}.parquet"
        if not path.exists():
            ranks = rank_earlier(run, self._later, self.queries, self._rows_of(known))
            name = f"recall_at_{self._now.job.k}"
            values = metrics.by_name(name, self.queries.positives.queries, ranks)
            beside = path.with_suffix(".tmp")
            pd.DataFrame({"query_id": self.query_ids, "recall": values}).to_parquet(beside)
            beside.replace(path)
        return pd.read_parquet(path)["recall"].to_numpy(np.float64)

    @cached_property
    def query_ids(self) -> npt.NDArray[np.str_]:
        return np.asarray(self._later.data.query_ids()[self.queries.query_rows], np.str_)

    def as_step(self, served: dict[str, Served]) -> Step:
        num_positives = len(self.queries.positives.queries)
        return Step(
            first_day=self._now.job.steps.moments[self._now.number],
            query_ids=self.query_ids,
            num_positives=num_positives,
            num_new=len(self._later.last_step.positives.queries) - num_positives,
            served=served,
        )

    def _rows_of(self, known: _Moment) -> Ints:
        """The candidates of an earlier moment, by their rows in the later folder."""
        ids = known.corpus.candidate_ids
        return np.flatnonzero(np.isin(self._later.corpus.candidate_ids, ids))


def rank_earlier(run: Path, moment: _Moment, queries: EvaluationSet, rows: Ints) -> Ints:
    """Where an earlier run ranks what is to be found among some candidates of a later folder.

    Args:
        run: The run folder, beside the prepared folder that it is of.
        moment: Of the later folder.
        queries: Of that folder.
        rows: Candidates that the run may recommend, ascending.

    Returns:
        `[num_positives]` ranks, `NOWHERE` where it is none of the candidates.
    """
    data, corpus = moment.data, moment.corpus
    config = load_config(run / CONFIG_FILE)
    data = data.with_numbers_of(PreparedData(run.parent / PREPARED, config))
    model = build_model(data)
    carry_over(earlier_run(run, data.config), model, data)
    positives, can_be_found = among(queries.positives, rows)
    excluded, _ = among(queries.excluded, rows)
    found = rank(
        embed(model.query_tower, queries.features),
        embed(model.candidate_tower, {name: of[rows] for name, of in corpus.features.items()}),
        positives,
        excluded,
        k=0,
        score=model.scorer.matrix,
    )
    ranks = np.full(len(can_be_found), NOWHERE)
    ranks[can_be_found] = found.ranks
    _forget()
    return ranks


def among(pairs: Pairs, rows: Ints) -> tuple[Pairs, npt.NDArray[np.bool_]]:
    """The pairs whose candidate is one of some, counted by its place among them.

    Args:
        pairs: Of queries and candidates.
        rows: The candidates, ascending.

    Returns:
        The pairs that are left, and `[num_pairs]` which those are.
    """
    is_kept = np.isin(pairs.candidate_rows, rows)
    places = np.searchsorted(rows, pairs.candidate_rows[is_kept])
    return Pairs(pairs.queries[is_kept], places), is_kept


def _forget() -> None:
    """Frees the graphs of models that are done with: a replay makes many."""
    keras.backend.clear_session()
    gc.collect()
