"""The table of clips in a browser: sorted, filtered and paged by `tables.js`, under the page's own policy.

Skipped where there is no Chromium; `MOCHI_CHROMIUM` names one that is not on the path.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mochi_trainer.report.clips import ClipRow
from mochi_trainer.report.contents import Contents
from mochi_trainer.report.page import page
from tests.trainer.preprocessing_runs import run_file

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("MOCHI_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; MOCHI_CHROMIUM names one")

DRIVER = """
const table = document.getElementById("clip-table");
const form = document.querySelector("form.filter");
const heads = [...table.tHead.rows[0].cells];
const names = () => [...table.tBodies[0].rows].map((row) => row.querySelector("code").textContent);
const state = (what) => ({
  what, names: names(), said: form.querySelector("output").textContent, hidden: form.hidden,
  sorted: heads.map((head) => head.getAttribute("aria-sort")),
  more: document.querySelector("button.more").hidden ? "" : document.querySelector("button.more").textContent,
});
const click = (column) => heads[column].querySelector("button").click();
const type = (text) => { const search = form.querySelector("input"); search.value = text; search.dispatchEvent(new Event("input", { bubbles: true })); };
const pick = (tag) => { const select = form.querySelector("select"); select.value = tag; select.dispatchEvent(new Event("input", { bubbles: true })); };
const told = [state("first")];
for (const [what, act] of STEPS) { act(); told.push(state(what)); }
const place = document.createElement("pre");
place.id = "told";
place.textContent = JSON.stringify(told);
document.body.append(place);
"""


def rows(count: int) -> list[ClipRow]:
    """Clips with frames, enlargement and tokens in different orders; every tenth is not used, and one value is missing."""
    return [
        ClipRow(
            source=f"clip{number}.mp4",
            caption=f"a {'red' if number % 2 else 'blue'} ball number {number}",
            frames=None if number == 3 else 7 + number * 37 % 101,
            enlargement=0.5 + number * 13 % 29 / 10,
            tokens=number * 7 % 31,
            used=number % 10 != 0,
            reason="Corrupt" if number % 10 == 0 else "",
            message="damaged" if number % 10 == 0 else "",
            warnings={"Dark": "nearly black"} if number % 7 == 1 else {},
            size="64 × 48",
        )
        for number in range(1, count + 1)
    ]


def seen(clips: list[ClipRow], steps: dict[str, str], tmp_path: Path, **spec: Any) -> list[dict[str, Any]]:
    """What the table shows at first and after each step (JavaScript)."""
    contents = Contents(run=run_file(tmp_path, **spec), address="a", cache="b", records=(), clips=clips)
    driver = DRIVER.replace(
        "STEPS",
        "[" + ",".join(f"[{json.dumps(name)}, () => {{ {act} }}]" for name, act in steps.items()) + "]",
    )
    digest = base64.b64encode(hashlib.sha256(driver.encode()).digest()).decode()
    text = page(contents, now=datetime(2026, 1, 1, tzinfo=UTC))
    allowed = re.sub(r"script-src ", f"script-src 'sha256-{digest}' ", html.unescape(text), count=1)
    policy = re.search(r'(<meta http-equiv="Content-Security-Policy" content=")[^"]*', text)
    assert policy is not None
    told = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)', allowed)
    assert told is not None
    text = text.replace(policy[0], policy[1] + told[1])
    file = tmp_path / "report.html"
    file.write_text(text.replace("</body>", f"<script>{driver}</script></body>"), encoding="utf-8")
    with tempfile.TemporaryDirectory() as profile:
        dom = subprocess.run(
            [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
             "--virtual-time-budget=5000", "--dump-dom", file.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        ).stdout  # fmt: skip
    found = re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL)
    assert found is not None, dom[-2000:]
    states: list[dict[str, Any]] = json.loads(html.unescape(found[1]))
    return states


def ordered(clips: list[ClipRow], value: str, *, falling: bool) -> list[str]:
    there = [clip for clip in clips if getattr(clip, value) is not None]
    there.sort(key=lambda clip: getattr(clip, value), reverse=falling)
    return [clip.source for clip in [*there, *(clip for clip in clips if getattr(clip, value) is None)]]


@pytest.mark.parametrize("buckets", [False, True], ids=["one size", "several sizes"])
def test_each_column_sorts_both_ways_with_missing_values_last(tmp_path: Path, buckets: bool) -> None:
    clips = rows(30)
    columns = {2: "frames", 3: "enlargement", 4: "tokens"}
    steps = {
        f"{name} {way}": f"click({column});" for column, name in columns.items() for way in ("up", "down")
    }
    sizes = {"buckets": [{"frames": 13, "width": 64, "height": 48}]} if buckets else {}
    _, *states = seen(clips, steps, tmp_path, **sizes)
    for state in states:
        name, way = state["what"].split()
        values = {clip.source: getattr(clip, name) for clip in clips}
        shown = [values[clip] for clip in state["names"]]
        assert shown == [values[clip] for clip in ordered(clips, name, falling=way == "down")], state["what"]
        column = next(number for number, other in columns.items() if other == name)
        assert state["sorted"][column] == ("ascending" if way == "up" else "descending")
        assert sum(other is not None for other in state["sorted"]) == 1


def test_names_sort_as_people_count(tmp_path: Path) -> None:
    _, state = seen(rows(12), {"name": "click(0);"}, tmp_path)
    assert state["names"] == [f"clip{number}.mp4" for number in range(1, 13)]


def test_words_and_tags_filter_and_are_counted(tmp_path: Path) -> None:
    clips = rows(30)
    first, words, tag, both, link, empty = seen(
        clips,
        {
            "words": 'type("  RED   ball ");',
            "tag": 'type(""); pick("unused");',
            "both": 'type("clip2"); pick("Dark");',
            "link": "document.querySelector('a[data-tag=\"Corrupt\"]').click();",
            "empty": 'pick(""); type("nowhere");',
        },
        tmp_path,
    )
    assert (first["hidden"], first["said"], len(first["names"])) == (False, "30 clips", 30)
    assert sorted(words["names"]) == sorted(clip.source for clip in clips if "red" in clip.caption)
    assert words["said"] == f"{len(words['names'])} of 30 clips"
    assert tag["names"] == ["clip10.mp4", "clip20.mp4", "clip30.mp4"]
    assert sorted(both["names"]) == ["clip22.mp4", "clip29.mp4"]
    assert link["names"] == tag["names"]
    assert (empty["names"], empty["said"]) == ([], "0 of 30 clips")


def test_long_tables_come_in_pages_and_a_filter_looks_at_all_of_it(tmp_path: Path) -> None:
    first, more, found = seen(
        rows(730),
        {"more": 'document.querySelector("button.more").click();', "found": 'type("clip729.mp4");'},
        tmp_path,
    )
    assert (len(first["names"]), first["more"]) == (100, "Show more (100 of 730 shown)")
    assert (len(more["names"]), more["more"]) == (600, "Show more (600 of 730 shown)")
    assert (found["names"], found["more"]) == (["clip729.mp4"], "")
