"""The pages for people: every link leads somewhere, and the README's tree is the tree."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from mochi_api import identity

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def _tracked(project: Path) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=project, capture_output=True, text=True, check=True, timeout=30
    )
    return [Path(name) for name in listed.stdout.split("\0") if name]


def test_every_relative_link_leads_to_a_file(project: Path) -> None:
    dead = []
    for page in _tracked(project):
        if page.suffix != ".md" or not (project / page).exists():
            continue
        for link in _LINK.findall((project / page).read_text()):
            if "://" not in link and not (project / page.parent / link).exists():
                dead.append(f"{page}: {link}")
    assert dead == []


def test_the_tree_in_the_readme_names_every_folder(project: Path) -> None:
    tree = (project / "README.md").read_text().split("## The tree")[1]
    folders = {path.parts[0] for path in _tracked(project) if len(path.parts) > 1}
    assert {name for name in folders if f"\n{name}/ " not in tree} == set()
    named = set(re.findall(r"^([\w.]+)/ ", tree, re.MULTILINE))
    assert {name for name in named if not (project / name).is_dir()} == set()


def test_the_page_of_the_environment_names_the_trainers_variables_and_those_that_are_refused(
    project: Path,
) -> None:
    page = (project / "docs/reference/environment.md").read_text()
    code = "".join(path.read_text() for path in (project / "trainer_image").rglob("*.py"))
    named = set(re.findall(r"\"(MOCHI_[A-Z0-9_]+)\"", code))
    named = {name for name in named if not name.startswith("MOCHI_1_")}  # the model
    assert {"MOCHI_COMPILE", "MOCHI_ATTENTION"} <= named
    assert {
        name for name in (*named, *identity.OWN_ENV, identity.OWN_ENV_PREFIX) if f"`{name}`" not in page
    } == set()
    rows = set(re.findall(r"^\| `(MOCHI_[A-Z0-9_]+)` \|", page, re.MULTILINE))
    assert rows <= named, "what is on the page and nowhere in the code"
    assert not rows & set(identity.OWN_ENV)
