"""The two versions that are held against each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.skew.pinned import Checkout, checkout


@pytest.fixture(scope="session")
def old(project: Path) -> Checkout:
    """The pinned commit."""
    return checkout(project)


@pytest.fixture(scope="session")
def new(project: Path) -> Checkout:
    """This commit."""
    return Checkout(root=project)
