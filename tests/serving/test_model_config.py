"""models.config, as TF Serving reads it."""

from pathlib import Path

import pytest

from serving.errors import LoadError
from serving.model_config import (
    ModelConfig,
    RequestLogging,
    VersionPolicy,
    parse_models_config,
    read_models_config,
)
from tfrs_twotower.schema import UsageError, UserError

FULL = """
model_config_list {
  config {
    name: "retrieval"
    base_path: "/models/retrieval"
    model_platform: "tensorflow"
    model_version_policy { specific { versions: 3 versions: 4 } }
    version_labels { key: "stable" value: 3 }
    version_labels { key: "canary" value: 4 }
  }
  config { name: "query_tower" base_path: "/models/query_tower" model_platform: "tensorflow" }
}
"""


def one(entry):
    return f"model_config_list {{ config {{ {entry} }} }}"


def logged(collector, rate):
    entry = f"log_collector_config {{ {collector} }} sampling_config {{ sampling_rate: {rate} }}"
    return one(f'name: "m" base_path: "/m" logging_config {{ {entry} }}')


def test_what_is_kept_of_the_answers_is_read():
    text = logged('type: "tfrecord" filename_prefix: "/logs/m"', 0.25)

    (model,) = parse_models_config(text, "text")

    assert model.logging == RequestLogging(Path("/logs/m"), 0.25)


def test_models_policies_and_labels_are_read(tmp_path):
    path = tmp_path / "models.config"
    path.write_text(FULL)

    assert read_models_config(path) == [
        ModelConfig(
            "retrieval",
            Path("/models/retrieval"),
            VersionPolicy(latest=None, specific=frozenset({3, 4})),
            {"stable": 3, "canary": 4},
        ),
        ModelConfig("query_tower", Path("/models/query_tower")),
    ]


@pytest.mark.parametrize(
    ("policy", "selected"),
    [
        pytest.param("", [9], id="default is the newest"),
        pytest.param("model_version_policy { latest { num_versions: 2 } }", [7, 9], id="latest"),
        pytest.param("model_version_policy { all {} }", [2, 7, 9], id="all"),
        pytest.param(
            "model_version_policy { specific { versions: 2 versions: 8 } }", [2], id="specific"
        ),
    ],
)
def test_a_policy_selects_versions(policy, selected):
    (model,) = parse_models_config(one(f'name: "m" base_path: "/m" {policy}'), "text")

    assert model.policy.select([9, 2, 7]) == selected


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        pytest.param("models: []", UsageError, "not a TF Serving model config", id="not the proto"),
        pytest.param("", LoadError, "lists no model", id="empty"),
        pytest.param(one('name: "m" base_path: "models/m"'), LoadError, "absolute", id="relative"),
        pytest.param(one('name: "m"'), LoadError, "base_path", id="no path"),
        pytest.param(
            one('name: "m" base_path: "/m" model_platform: "caffe"'), LoadError, "caffe", id="other"
        ),
        pytest.param(
            logged('filename_prefix: "logs/m"', 1), LoadError, "absolute path", id="relative log"
        ),
        pytest.param(
            logged('filename_prefix: "/logs/m"', 0), LoadError, "share above 0", id="no sample"
        ),
        pytest.param(
            logged('type: "kafka" filename_prefix: "/m"', 1), LoadError, "kafka", id="collector"
        ),
        pytest.param(
            FULL.replace("query_tower", "retrieval"), LoadError, "retrieval twice", id="twice"
        ),
    ],
)
def test_a_wrong_config_is_refused_with_its_source(text, error, said):
    with pytest.raises(error, match=said) as caught:
        parse_models_config(text, "some.config")

    assert str(caught.value).startswith("some.config")


def test_a_missing_config_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot read the model config file"):
        read_models_config(tmp_path / "models.config")
