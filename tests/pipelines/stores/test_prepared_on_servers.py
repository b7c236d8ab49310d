"""A prepared folder on a GCS and on an S3 server: the same as on the local disk, and trained on."""

import pytest

from pipelines.prepare import prepare
from tests import small_shop
from tests.pipelines.stores.published import fetch
from tfrs_twotower import api
from tfrs_twotower.schema import load_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The dataset, its config, and the folder that is prepared from it on the local disk."""
    folder = tmp_path_factory.mktemp("shop")
    dataset = small_shop.write_dataset(folder / "dataset")
    config = load_config(str(dataset / "twotower.yaml"))
    prepare(config, str(dataset), str(folder / "prepared"))
    return dataset, config, folder / "prepared"


@pytest.fixture(params=["gs", "s3"])
def server_root(request, on_server):
    """An empty folder of each server."""
    server = request.getfixturevalue({"gs": "gcs", "s3": "s3"}[request.param])
    return f"{on_server(server)}/{request.node.originalname}"


def test_the_folder_says_the_same_and_an_overwritten_one_is_trained_on(server_root, shop, tmp_path):
    dataset, config, local = shop
    expected = fetch(str(local), tmp_path / "fetched")
    prepare(config, str(dataset), server_root)
    assert fetch(server_root, tmp_path / "first") == expected

    prepare(config, str(dataset), server_root, overwrite=True)

    assert fetch(server_root, tmp_path / "second") == expected
    for name, data in {"local": local, "remote": server_root}.items():
        api.train(config, data, tmp_path / name, callbacks=[])
    one, other = (
        sorted((tmp_path / name).glob("best.weights.data*")) for name in ("local", "remote")
    )
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]
    assert one


def test_workers_in_processes_of_their_own_find_the_store(gcs, on_server, shop, tmp_path):
    dataset, config, local = shop
    root = f"{on_server(gcs)}/workers"

    prepare(
        config,
        str(dataset),
        root,
        beam_args=["--direct_num_workers=2", "--direct_running_mode=multi_processing"],
    )

    assert fetch(root, tmp_path / "a") == fetch(str(local), tmp_path / "b")
