"""Dense features -> two towers -> scores: the model, and the run folder that keeps it.

* `two_tower`: `TwoTowerModel`, a `tfrs.Model`; `custom`: a model of your own in its place.
* `towers`: `QueryTower`, `CandidateTower`; `context_modes`: query towers that keep context apart.
* `scorers`: the dot product and the scoring layer.
* `embed`: embeddings of many entries by any Keras tower.
* `run_folder`: what training writes and evaluation and export read.
"""
