"""Records that are read together say what the records say, or nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.errors import AccessDeniedError
from mochi_trainer.graph import Claims, Unit, Units, complete, unit_key
from mochi_trainer.graph.bundles import WORTH
from mochi_trainer.movement import Movement
from mochi_trainer.storage import Store, open_store
from tests.trainer.graph.test_graph import Work

KEYS = [unit_key("bundles", 1, number=number) for number in range(WORTH + 8)]
BUCKETS = {key[:2] for key in KEYS}


class Counted:
    """A store that counts the calls of each method, and may refuse to write bundles."""

    def __init__(self, store: Store, *, refuses: bool = False) -> None:
        self._store, self._refuses = store, refuses
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def called(*arguments: Any) -> Any:
            self.calls[name] += 1
            if self._refuses and name == "write_bytes" and "/records/" in arguments[0]:
                raise AccessDeniedError("not you")
            return method(*arguments)

        return called


def units_of(store: Any) -> Units:
    return Units(store, "test", "family")


def made(store: Any, keys: Sequence[str] = KEYS) -> dict[str, Unit]:
    claims = Claims(store, "test/claims/family", "a", movement=Movement())
    return dict(complete(units_of(store), claims, keys, Work(), at_once=len(keys)).units)


def bundles(store: Store) -> list[str]:
    return [info.key for info in store.list("test/records/")]


def test_what_is_made_is_read_in_as_many_requests_as_there_are_bundles(store: Store) -> None:
    there = made(store)
    counted = Counted(store)
    assert units_of(counted).known(KEYS) == there
    assert counted.calls == Counter(list=1, read_bytes=len(BUCKETS))


def test_what_lies_there_from_before_is_kept_together_by_its_first_reader(store: Store) -> None:
    there = made(store)
    store.delete(bundles(store))
    first, second = Counted(store), Counted(store)
    assert units_of(first).known(KEYS) == units_of(second).known(KEYS) == there
    assert first.calls["read_bytes"] > len(KEYS)
    assert second.calls["read_bytes"] == len(BUCKETS)


@pytest.fixture
def local(tmp_path: Path) -> Store:
    """A store in a folder: what kind of store it is makes no difference below."""
    return open_store(f"file://{tmp_path}/root", S3Spec())


def test_few_are_read_one_by_one_and_leave_no_bundle(local: Store) -> None:
    few = KEYS[: WORTH - 1]
    assert units_of(local).known(few) == {}
    there = made(local, few)
    assert units_of(local).known(few) == there
    assert bundles(local) == []


def _twice(store: Store, at: str) -> None:
    content = json.loads(store.read_bytes(at))
    for entry in content["records"].values():
        entry["document"]["info"] = {"length": -1}
        entry["etag"] = "another"
    store.write_bytes(at, json.dumps(content).encode())


def _changed(**fields: Any) -> Callable[[Store, str], None]:
    def change(store: Store, at: str) -> None:
        content = json.loads(store.read_bytes(at))
        for entry in content["records"].values():
            entry.update(fields)
        store.write_bytes(at, json.dumps(content).encode())

    return change


DAMAGES: dict[str, Callable[[Store, str], None]] = {
    "lost": lambda store, at: store.delete([at]),
    "empty": lambda store, at: store.write_bytes(at, b""),
    "cut": lambda store, at: store.write_bytes(at, store.read_bytes(at)[:-9]),
    "not UTF-8": lambda store, at: store.write_bytes(at, b"\xff\xfe"),
    "a list": lambda store, at: store.write_bytes(at, b"[1]"),
    "of another version": lambda store, at: store.write_bytes(at, b'{"version": 2, "records": []}'),
    "other records": _twice,
    "another size": _changed(size=1),
    "no document": _changed(document=None),
    "no ETag": _changed(etag=None),
    "no entries": lambda store, at: store.write_bytes(at, b'{"version": 1, "records": {"x": 3}}'),
    "records that are a list": lambda store, at: store.write_bytes(at, b'{"version": 1, "records": [1]}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_bundle_costs_time_and_nothing_else(local: Store, damage: str) -> None:
    there = made(local)
    for at in bundles(local):
        DAMAGES[damage](local, at)
    assert units_of(local).known(KEYS) == there


def test_a_unit_without_its_record_is_not_there(local: Store) -> None:
    there = made(local)
    units_of(local).forget(KEYS[:5])
    assert units_of(local).known(KEYS) == {key: unit for key, unit in there.items() if key not in KEYS[:5]}


def test_a_record_that_was_written_anew_counts(local: Store) -> None:
    made(local)
    new = units_of(local).put(KEYS[0], {".bin": b"other"}, {"length": 5})
    assert units_of(local).known(KEYS)[KEYS[0]] == new


def test_a_unit_whose_file_is_gone_is_not_there(local: Store) -> None:
    there = made(local)
    local.delete([there[KEYS[0]].files[".bin"].at])
    assert KEYS[0] not in units_of(local).known(KEYS)


def test_two_datasets_of_one_family_keep_each_others_records(local: Store) -> None:
    other = [unit_key("bundles", 1, number=number) for number in range(1000, 1000 + WORTH)]
    made(local)
    made(local, other)
    counted = Counted(local)
    units_of(counted).known([*KEYS, *other])
    assert counted.calls["read_bytes"] == len({key[:2] for key in [*KEYS, *other]})


def test_a_store_that_refuses_bundles_refuses_nothing_else(local: Store) -> None:
    refusing = Counted(local, refuses=True)
    there = made(refusing)
    assert set(there) == set(KEYS)
    assert units_of(refusing).known(KEYS) == there
    assert bundles(local) == []
