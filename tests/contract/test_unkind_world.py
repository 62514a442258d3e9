"""The page of faults names tests that exist."""

import re
from pathlib import Path


def _named(project: Path) -> list[tuple[str, str]]:
    """File and test of every mention."""
    found, file = [], ""
    for word in re.findall(
        r"`(test_\w+(?:\.py)?)`", (project / "docs/explanation/unkind-world.md").read_text()
    ):
        if word.endswith(".py"):
            file = word
        else:
            found.append((file, word))
    return found


def test_every_test_that_the_page_names_exists(project: Path) -> None:
    sources = {path.name: path.read_text() for path in (project / "tests/operator").glob("test_*.py")}
    missing = [(file, name) for file, name in _named(project) if f"def {name}(" not in sources.get(file, "")]
    assert missing == []


def test_every_fault_has_a_test(project: Path) -> None:
    lines = (project / "docs/explanation/unkind-world.md").read_text().splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| ") and not line.startswith("| fault")]
    text = " ".join(row[1] for row in rows)
    numbers = {int(number) for number in re.findall(r"(?<![K\d])\b(\d+)\b", text)}
    reports = {int(number) for number in re.findall(r"K(\d+)", text)}
    assert (numbers, reports) == (set(range(1, 26)), {1, 2, 3, 4, 5, 7})
    assert all("`test_" in row[4] for row in rows)
