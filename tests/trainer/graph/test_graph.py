"""Units, claims and their making: shared by many processes, made once, never read half."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import cast
from uuid import uuid4

import pytest

from mochi_trainer.graph import Claims, Made, Units, ahead, complete, making, unit_key
from mochi_trainer.graph.making import UPLOADS
from mochi_trainer.movement import Movement
from mochi_trainer.storage import (
    ObjectInfo,
    Store,
    find_manifest,
    get_entry,
    open_store,
    read_manifest,
    write_manifest,
)
from tests.trainer.conftest import BUCKET, Server
from tests.trainer.fault_proxy import Answer, always, fault_proxy

KEYS = [unit_key("test", 1, number=number) for number in range(40)]


class Clock:
    """Time that passes only when somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Work:
    """A maker that counts."""

    def __init__(self, then: Callable[[str], None] = lambda _: None) -> None:
        self.made: Counter[str] = Counter()
        self._then = then

    def __call__(self, groups: Iterable[Sequence[str]]) -> Iterator[Made]:
        for key in chain.from_iterable(groups):
            self.made[key] += 1
            self._then(key)
            yield Made(key=key, files={".bin": key.encode() * 3}, info={"length": len(key)})


def units_of(store: Store) -> Units:
    return Units(store, "test", "family")


def claims_of(store: Store, owner: str, clock: Clock | None = None, **seconds: float) -> Claims:
    return Claims(store, "test/claims/family", owner, movement=Movement(), clock=clock or Clock(), **seconds)


def test_a_second_process_makes_nothing(store: Store) -> None:
    first, second = Work(), Work()
    done = complete(units_of(store), claims_of(store, "a"), KEYS, first, at_once=8)
    again = complete(units_of(store), claims_of(store, "b"), KEYS, second, at_once=8)
    assert (done.made, again.made) == (40, 0)
    assert again.units == done.units
    assert not second.made


def test_one_more_costs_one(store: Store) -> None:
    complete(units_of(store), claims_of(store, "a"), KEYS[:39], Work(), at_once=8)
    more = Work()
    assert complete(units_of(store), claims_of(store, "a"), KEYS, more, at_once=8).made == 1
    assert more.made == Counter([KEYS[39]])


def test_a_process_that_is_killed_goes_on_where_it_was(store: Store) -> None:
    class Killed(BaseException):
        pass

    def kill(key: str) -> None:
        if len(first.made) == 20:
            raise Killed

    first, second = Work(kill), Work()
    with pytest.raises(Killed):
        complete(units_of(store), claims_of(store, "a"), KEYS, first, at_once=4)
    done = complete(units_of(store), claims_of(store, "a"), KEYS, second, at_once=4)
    assert set(done.units) == set(KEYS)
    twice = [key for key in KEYS if first.made[key] + second.made[key] > 1]
    assert len(twice) <= UPLOADS + 1, "only what was not stored yet when it was killed"
    assert len(second.made) == 20 + len(twice)


def test_the_next_are_claimed_and_made_while_the_last_are_stored(store: Store) -> None:
    """Else whatever makes them would stand still at the end of each claim, for as long as an upload takes."""
    third = threading.Event()
    late: list[str] = []

    class Slow:
        """Nothing is stored before the third has been made."""

        def __getattr__(self, name: str) -> object:
            if name.startswith(("put", "write")) and not third.wait(20):
                late.append(name)
            return getattr(store, name)

    work = Work(lambda _key: third.set() if len(work.made) == 3 else None)
    done = complete(units_of(cast(Store, Slow())), claims_of(store, "a"), KEYS[:6], work, at_once=1)
    assert (set(done.units), late) == (set(KEYS[:6]), [])
    assert [info.key for info in store.list("test/claims/")] == []


def test_processes_that_begin_together_share_the_work(store: Store) -> None:
    """Runs that start at once make each unit once."""
    works = [Work() for _ in range(12)]
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            claims = Claims(store, "test/claims/family", f"run-{number}", movement=Movement())
            done = complete(
                units_of(store), claims, KEYS, works[number], at_once=4, sleep=threading.Event().wait
            )
            assert set(done.units) == set(KEYS)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=300)
    assert not errors
    total: Counter[str] = Counter()
    for work in works:
        total += work.made
    assert set(total) == set(KEYS)
    assert sum(total.values()) == len(KEYS)
    assert [info.key for info in store.list("test/claims/")] == []


def test_the_work_of_a_dead_process_is_taken_over_and_that_of_a_living_one_is_waited_for(
    store: Store,
) -> None:
    clock = Clock()
    dead = claims_of(store, "dead")
    store.write_bytes("test/claims/family/pulse/dead.json", b'{"beat": 7}')
    assert dead.take(KEYS[0][:2])
    living = claims_of(store, "living", clock, dead_seconds=45)
    assert not taken(living, KEYS[0])
    clock.sleep(44)
    assert not taken(living, KEYS[0])
    store.write_bytes("test/claims/family/pulse/dead.json", b'{"beat": 8}')
    clock.sleep(44)
    assert not taken(living, KEYS[0]), "it has moved since"
    clock.sleep(46)
    assert taken(living, KEYS[0])
    assert not taken(claims_of(store, "third"), KEYS[0])


def test_its_own_share_comes_first(store: Store) -> None:
    def mine(bucket: str) -> bool:
        return int(bucket, 16) % 3 == 1

    claims = Claims(store, "test/claims/family", "a", movement=Movement(), clock=Clock(), own=mine)
    buckets = claims.order({key[:2] for key in KEYS})
    assert [mine(bucket) for bucket in buckets] == sorted(map(mine, buckets), reverse=True)
    assert 0 < sum(map(mine, buckets)) < len(buckets)


def test_what_is_claimed_at_once_is_not_of_two_shares(store: Store) -> None:
    """Small stages would else be made by whoever comes first: a claim may be larger than all of them."""
    rounds: list[set[int]] = []

    def make(groups: Iterable[Sequence[str]]) -> Iterator[Made]:
        for keys in groups:
            rounds.append({int(key[:2], 16) % 3 for key in keys})
            yield from Work()([keys])

    claims = Claims(
        store,
        "test/claims/family",
        "a",
        movement=Movement(),
        clock=Clock(),
        own=lambda bucket: int(bucket, 16) % 3 == 1,
    )
    assert complete(units_of(store), claims, KEYS, make, at_once=1000).made == len(KEYS)
    assert rounds == [{1}, {0, 2}]


def test_progress_counts_what_others_make_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A status that tells of one process tells of all."""
    monkeypatch.setattr(making, "LOOK_SECONDS", 0.0)
    other, seen = claims_of(store, "other"), []

    def beside(_key: str) -> None:
        if len(work.made) == 1:
            other.take("zz")
            for each in KEYS[20:]:
                units_of(store).put(each, {}, {})

    work = Work(beside)
    done = complete(
        units_of(store),
        claims_of(store, "a"),
        KEYS,
        work,
        at_once=1,
        progress=lambda done, _total: seen.append((done, len(work.made))),
    )
    assert set(done.units) == set(KEYS)
    assert any(done > 15 and made < 5 for done, made in seen), seen


def test_of_two_that_look_at_once_one_gets_it(store: Store) -> None:
    first, second = claims_of(store, "a"), claims_of(store, "b")
    first.look()
    second.look()
    assert [first.take("ab"), second.take("ab")] == [True, False]
    first.release("ab")
    assert taken(second, "ab")


def taken(claims: Claims, key: str) -> bool:
    claims.look()
    return claims.take(key[:2])


def test_a_whole_run_takes_over_from_a_dead_one(store: Store) -> None:
    clock = Clock()
    dead = claims_of(store, "dead")
    for key in KEYS:
        dead.take(key[:2])
    work = Work()
    done = complete(units_of(store), claims_of(store, "b", clock), KEYS, work, at_once=8, sleep=clock.sleep)
    assert (done.made, set(done.units)) == (40, set(KEYS))
    assert 45 <= clock.now <= 120


def test_a_damaged_claim_is_overtaken(store: Store) -> None:
    clock = Clock()
    store.write_bytes("test/claims/family/ab/000004.json", b"garbage")
    mine = claims_of(store, "me", clock)
    assert not taken(mine, "ab")
    clock.sleep(60)
    assert taken(mine, "ab")


def test_keys_that_may_delete_nothing_are_enough(s3_server: Server) -> None:
    """The claims stay, and say that they are nobody's: whoever comes next waits for nobody."""
    refusal = Answer(status=403, code="AccessDenied")
    with fault_proxy(s3_server.spec, always(lambda r: r.method == "DELETE", refusal)) as proxy:
        store = open_store(f"s3://{BUCKET}/{uuid4().hex}/", proxy.spec)
        for number, first in enumerate((0, 20)):
            clock, work = Clock(), Work()
            claims = claims_of(store, f"run-{number}", clock)
            done = complete(units_of(store), claims, KEYS[: first + 20], work, at_once=8, sleep=clock.sleep)
            assert (set(done.units), done.made, clock.now) == (set(KEYS[: first + 20]), 20, 0)
        again = claims_of(store, "run-2")
        assert taken(again, KEYS[0])
        assert not taken(claims_of(store, "run-3"), KEYS[0])
        again.release(KEYS[0][:2])
        assert taken(claims_of(store, "run-3"), KEYS[0])
        assert proxy.methods().count("DELETE") < 10, "who was refused does not ask again"


def test_the_newest_claim_counts_in_whichever_order_a_store_lists(store: Store) -> None:
    """Directory buckets list in no order at all."""

    class Backwards:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
            yield from reversed(list(store.list(prefix)))

    for number in range(3):
        claims = Claims(
            cast(Store, Backwards()),
            "test/claims/family",
            f"run-{number}",
            movement=Movement(),
            void=lambda _: True,
        )
        assert taken(claims, "ab"), "else what two dead ones have claimed is nobody's for ever"


def test_a_process_in_which_nothing_moves_has_no_pulse(store: Store) -> None:
    clock = Clock()
    stuck = Claims(store, "test/claims/family", "stuck", movement=Movement(clock=clock), pulse_seconds=0.02)
    key = "test/claims/family/pulse/stuck.json"
    with stuck.alive():
        wait_until(lambda: json.loads(store.read_bytes(key))["beat"] > 2)
        clock.sleep(601)
        threading.Event().wait(0.3)
        stood = json.loads(store.read_bytes(key))["beat"]
        threading.Event().wait(0.3)
        assert json.loads(store.read_bytes(key))["beat"] == stood
    assert store.head(key) is None


def test_an_altered_object_is_noticed_and_made_again(store: Store) -> None:
    done = complete(units_of(store), claims_of(store, "a"), KEYS, Work(), at_once=8)
    at = done.units[KEYS[3]].files[".bin"].at
    good = store.read_bytes(at)
    store.write_bytes(at, bytes(len(good)))
    store.delete([done.units[KEYS[4]].files[".bin"].at])
    store.write_bytes(f"{units_of(store).prefix}/{KEYS[5]}.json", b'{"version": 1, "files": {".b')
    assert set(units_of(store).known(KEYS)) == set(KEYS) - {KEYS[3], KEYS[4], KEYS[5]}
    again = Work()
    complete(units_of(store), claims_of(store, "b"), KEYS, again, at_once=8)
    assert again.made == Counter([KEYS[3], KEYS[4], KEYS[5]])
    assert store.read_bytes(at) == good


def test_a_unit_that_is_made_again_with_other_bytes_harms_no_reader(store: Store, tmp_path: Path) -> None:
    """As with Refresh on another GPU: who has read the old list still finds the old objects."""
    units = units_of(store)
    old = units.put(KEYS[0], {".bin": b"as it was"}, {})
    write_manifest(store, "test/stage", [old.files[".bin"]])
    units.put(KEYS[0], {".bin": b"otherwise"}, {})
    manifest = read_manifest(store, "test/stage", unaltered=True)
    get_entry(store, manifest, f"{KEYS[0]}.bin", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"as it was"


def test_a_list_whose_shared_object_was_altered_is_no_hit_but_still_readable_by_its_checksum(
    store: Store,
) -> None:
    unit = units_of(store).put(KEYS[0], {".bin": b"as it was"}, {})
    write_manifest(store, "test/stage", [unit.files[".bin"]])
    assert find_manifest(store, "test/stage", unaltered=True) is not None
    store.write_bytes(unit.files[".bin"].at, b"changed !")
    assert find_manifest(store, "test/stage", unaltered=True) is None
    assert find_manifest(store, "test/stage") is not None


def test_what_another_maker_may_not_use_is_not_stored(store: Store) -> None:
    def make(groups: Iterable[Sequence[str]]) -> Iterator[Made]:
        for key in chain.from_iterable(groups):
            yield Made(key=key, files={}, info={"failure": "Timeout"}, keep=False)

    done = complete(units_of(store), claims_of(store, "a"), KEYS[:2], make, at_once=8)
    assert done.units[KEYS[0]].info == {"failure": "Timeout"}
    assert units_of(store).known(KEYS) == {}


def test_files_that_are_stored_are_deleted(store: Store, tmp_path: Path) -> None:
    def make(groups: Iterable[Sequence[str]]) -> Iterator[Made]:
        for key in chain.from_iterable(groups):
            (tmp_path / key).write_bytes(b"x" * 10)
            yield Made(key=key, files={".bin": tmp_path / key}, info={})

    folder_before = set(tmp_path.iterdir())
    complete(units_of(store), claims_of(store, "a"), KEYS[:3], make, at_once=8)
    assert {path.name for path in set(tmp_path.iterdir()) - folder_before} <= {"root"}


def test_ahead_keeps_the_order_and_the_bound() -> None:
    begun: list[int] = []
    results = ahead(lambda n: begun.append(n) or n * n, iter(range(100)), at_once=3, waiting=2)
    assert next(results) == 0
    threading.Event().wait(0.2)
    assert len(begun) <= 6
    assert list(results) == [n * n for n in range(1, 100)]


def test_ahead_ends_with_the_first_error() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    with pytest.raises(ValueError, match="three"):
        list(ahead(work, range(1000), at_once=2))
    assert len(begun) < 20


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not come to that within 40 s")
