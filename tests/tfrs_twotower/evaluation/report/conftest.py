"""A small shop and its report, made once."""

import pytest

from tests import small_shop
from tfrs_twotower.evaluation.evaluate import evaluate
from tfrs_twotower.evaluation.report import write_report


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A run that is evaluated and exported."""
    shop = small_shop.make(tmp_path_factory.mktemp("report"))
    evaluate(shop.run, shop.prepared, protocol="sampled:3")
    evaluate(shop.run, shop.prepared, models=shop.models)
    return shop


@pytest.fixture(scope="session")
def page(shop):
    return write_report(shop.run, shop.run.parent / "out" / "report.html", models=shop.models)
