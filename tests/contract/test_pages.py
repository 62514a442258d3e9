"""The pages for people: every link leads somewhere, and the README's tree is the tree."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mochi_api import identity
from mochi_api.runfile import parse

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
_ANCHOR = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")
_QUOTED = re.compile(r"`([^`\n]+)`")
_FIELD = re.compile(r"(?:\w+(?:\[[^\]]*\])?\.)+\w+")
_JSONPATH = re.compile(r"jsonpath='\{(?:range )?\.((?:spec|status)[\w.\[\]*]*)")
_SOURCE = re.compile(r"(?:[\w.-]+/)*[\w-]+\.(?:py|sh|toml)\b(?![.\w])")
DECISIONS = Path("docs/adr")
"""They also name what was decided against."""


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


def _pages(project: Path) -> Iterator[tuple[Path, str]]:
    for page in _tracked(project):
        if page.suffix == ".md" and DECISIONS not in page.parents:
            yield page, (project / page).read_text()


def _slug(heading: str) -> str:
    """The anchor that a heading gets."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def _anchors(text: str) -> set[str]:
    bare = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return {_slug(heading) for heading in re.findall(r"^#+ (.*)$", bare, re.MULTILINE)}


def test_every_anchor_is_a_heading(project: Path) -> None:
    dead = []
    for page, text in _pages(project):
        for link, anchor in _ANCHOR.findall(text):
            target = (project / page).parent / link if link else project / page
            if "://" not in link and target.suffix == ".md" and anchor not in _anchors(target.read_text()):
                dead.append(f"{page}: {link}#{anchor}")
    assert dead == []


def _known(schema: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether an object of `schema` may have the field at `path`."""
    for name in path:
        while schema.get("type") == "array":
            schema = schema["items"]
        fields = schema.get("properties", {})
        if name not in fields:
            return "additionalProperties" in schema
        schema = fields[name]
    return True


def _named_fields(text: str, sections: set[str]) -> Iterator[list[str]]:
    """The fields of a MochiFineTune that a page names in backticks or in a JSONPath."""
    for quoted in _QUOTED.findall(text):
        found = _FIELD.match(quoted)
        path = re.sub(r"\[[^\]]*\]", "", found[0]).split(".") if found else [""]
        if path[0] in {"spec", "status"}:
            yield path
        elif path[0] in sections:
            yield ["spec", *path]
    for found in _JSONPATH.findall(text):
        yield re.sub(r"\[[^\]]*\]", "", found).strip(".").split(".")


def test_every_field_that_a_page_names_is_one(project: Path) -> None:
    crd = yaml.safe_load((project / "crds/mochifinetunes.yaml").read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    sections = set(schema["properties"]["spec"]["properties"])
    wrong, named = [], 0
    for page, text in _pages(project):
        for path in _named_fields(text, sections):
            named += 1
            if not _known(schema, path):
                wrong.append(f"{page}: {'.'.join(path)}")
    assert named > 300
    assert wrong == []


def test_every_source_file_that_a_page_names_is_there(project: Path) -> None:
    files = {str(path) for path in _tracked(project)}
    ends = {
        "/".join(Path(name).parts[-count:]) for name in files for count in range(1, len(Path(name).parts))
    }
    lost = [
        f"{page}: {name}"
        for page, text in _pages(project)
        for quoted in _QUOTED.findall(text)
        for name in _SOURCE.findall(quoted)
        if name not in files | ends
    ]
    assert lost == []


def test_the_run_file_by_hand_is_one(project: Path) -> None:
    page = (project / "docs/how-to/change-the-training.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert parse(text, strict=True).stage == "train"


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
