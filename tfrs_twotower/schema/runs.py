"""The run folder, by name: what `twotower train` writes, evaluation and export read.

config.yaml      the config as resolved
inputs.json      which data it is trained on, and from which run it began
vocabularies/    those of the data: what the rows of the weights mean
best.weights.*   weights of the best epoch
refit/           with `training.refit`: a training on train and validation, whose best.weights are
                 the weights of the run
checkpoints/     the state after the last whole epoch
metrics.json     per epoch, and the closing comparison with popularity
tensorboard/     event files, and the candidates for the embedding projector
evaluation/      written by `twotower evaluate`
manifest.json    written last
"""

CONFIG_FILE = "config.yaml"
INPUTS_FILE = "inputs.json"
METRICS_FILE = "metrics.json"
VOCABULARIES = "vocabularies"
BEST_WEIGHTS = "best.weights"
REFIT = "refit"
CHECKPOINTS, TENSORBOARD, EVALUATION = "checkpoints", "tensorboard", "evaluation"
