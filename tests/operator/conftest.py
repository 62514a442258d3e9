"""`--update-golden`, or UPDATE_GOLDEN=1, rewrites tests/operator/golden from what the builders make now."""

import os

import pytest


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden manifests")


@pytest.fixture
def update_golden(request):
    """Whether the goldens are to be rewritten."""
    asked = request.config.getoption("--update-golden", default=False)
    return bool(asked or os.environ.get("UPDATE_GOLDEN"))
