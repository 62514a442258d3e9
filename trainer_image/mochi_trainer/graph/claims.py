"""Claims: of several processes that want the same units, one makes them and the others wait, or take over when it dies.

```
<prefix>/<bucket>/000001.json    who makes the units of this bucket; the highest number counts
<prefix>/pulse/<owner>.json      changes while its owner lives and gets on
```
A claim is written only where none is, and deleted when its bucket is done; where nothing may be deleted the next number says
that it is nobody's. One whose owner's pulse has stood still for longer than a dead one's would is
overtaken by the next number. Time is that of the one who waits: no clock of another machine is read. Claims save work, no
more: two makers of one unit harm nobody, since units are immutable.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from mochi_api import layout
from mochi_trainer.documents import json_of
from mochi_trainer.errors import MissingObjectError, TrainerError
from mochi_trainer.movement import PROCESS, Movement
from mochi_trainer.storage import Store

log = logging.getLogger(__name__)

PULSE_SECONDS = 10.0
"""Between two beats of a pulse."""
DEAD_SECONDS = 45.0
"""A pulse that has stood still for so long is that of a dead process."""
STUCK_SECONDS = 600.0
"""A process in which nothing has moved for so long has no pulse: others need not wait for it."""

_CLAIM = re.compile(r"([^/]+)/(\d{6})\.json")


class Claims:
    """Claims of one process on buckets of units below `prefix`.

    Owners for which `void` holds are known to be dead. Buckets for which `own` holds are claimed first.

    Methods raise what the store raises.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        owner: str,
        *,
        void: Callable[[str], bool] = lambda _: False,
        own: Callable[[str], bool] = lambda _: True,
        movement: Movement = PROCESS,
        clock: Callable[[], float] = time.monotonic,
        pulse_seconds: float = PULSE_SECONDS,
        dead_seconds: float = DEAD_SECONDS,
    ) -> None:
        self._store, self._prefix, self._owner = store, prefix, owner
        self._void, self.owns = void, own
        self._movement, self._clock = movement, clock
        self._every, self._dead = pulse_seconds, dead_seconds
        self._held: dict[str, int] = {}
        self._pulses: dict[str, tuple[str, float]] = {}
        """Last pulse seen of another owner, and since when it is that."""
        self._seen: dict[str, tuple[int, str]] = {}
        """The newest claim of each bucket at the last look: its number and key."""
        self._owners: dict[str, str | None] = {}
        """Whose a claim is, by its key, None for nobody's: that never changes."""
        self._keeps = False
        """Whether the store lets nothing be deleted."""
        self._asked: set[str] = set()
        """Owners whose pulse was felt since the last look."""
        self._beat = 0

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Keep the pulse going, from a thread, for the length of the block; what is held is let go at its end."""
        over = threading.Event()
        self._pulse()
        thread = threading.Thread(target=self._keep, args=(over,), name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(timeout=self._every)
            self._leave()

    def look(self) -> None:
        """See which buckets are held: `take` goes by it."""
        self._seen.clear()
        self._asked.clear()
        for info in self._store.list(f"{self._prefix}/"):
            match = _CLAIM.fullmatch(info.key.removeprefix(f"{self._prefix}/"))
            if match is not None:
                found = (int(match[2]), info.key)
                self._seen[match[1]] = max(found, self._seen.get(match[1], found))

    @property
    def beside(self) -> bool:
        """Whether others held anything at the last look."""
        return bool(self._seen)

    def take(self, bucket: str) -> bool:
        """Claim a bucket, unless a living process held it at the last look or has claimed it since."""
        if bucket in self._held:
            return True
        newest, owner = self._newest(bucket)
        if owner is not None and owner != self._owner and not self._is_dead(owner):
            return False
        number = newest + 1
        document = json.dumps({"owner": self._owner}).encode()
        if not self._store.write_if_absent(self._key(bucket, number), document):
            return False
        if owner is not None and owner != self._owner:
            log.info("%s no longer makes %s: taken over", owner, bucket)
        self._held[bucket] = number
        return True

    def order(self, buckets: Iterable[str]) -> list[str]:
        """Buckets in this process's own order, so that several begin at different ends; those of its own share first."""

        def place(bucket: str) -> tuple[bool, bytes]:
            return not self.owns(bucket), hashlib.sha256(f"{self._owner}/{bucket}".encode()).digest()

        return sorted(buckets, key=place)

    def release(self, bucket: str) -> None:
        """Let a bucket go, with the claims of the dead before."""
        number = self._held.pop(bucket)
        if not self._deleted([self._key(bucket, each) for each in range(max(1, number - 3), number + 1)]):
            self._store.write_bytes(self._key(bucket, number + 1), json.dumps({"owner": None}).encode())

    def _deleted(self, keys: Sequence[str]) -> bool:
        """Whether the store deletes: permissions to do so are not needed, and once it has refused it is not asked again."""
        if self._keeps:
            return False
        try:
            self._store.delete(keys)
        except TrainerError as error:
            log.warning("claims stay, nothing can be deleted: %s", error)
            self._keeps = True
        return not self._keeps

    def _newest(self, bucket: str) -> tuple[int, str | None]:
        """The highest number of a claim on the bucket, and whose it is, None for nobody; 0 where there is none."""
        if bucket not in self._seen:
            return 0, None
        number, key = self._seen[bucket]
        if key not in self._owners:
            try:
                owner = json_of(self._store.read_bytes(key))["owner"]
                self._owners[key] = None if owner is None else str(owner)
            except MissingObjectError:
                return 0, None
            except (ValueError, KeyError, TypeError):
                return number, ""
        return number, self._owners[key]

    def _is_dead(self, owner: str) -> bool:
        if self._void(owner):
            return True
        if owner not in self._asked:
            self._asked.add(owner)
            self._feel(owner)
        return self._clock() - self._pulses[owner][1] >= self._dead

    def _feel(self, owner: str) -> None:
        try:
            pulse = self._store.read_bytes(self._pulse_key(owner)).decode(errors="replace")
        except MissingObjectError:
            pulse = ""
        now = self._clock()
        before, since = self._pulses.get(owner, (None, now))
        if pulse != before:
            since = now
            self._movement.moved()  # who waits for somebody that gets on does not stand still
        self._pulses[owner] = (pulse, since)

    def _keep(self, over: threading.Event) -> None:
        while not over.wait(self._every):
            if self._movement.heartbeat().quiet_seconds > STUCK_SECONDS:
                continue
            try:
                self._pulse()
            except TrainerError as error:
                log.warning("others may take over what this process makes: %s", error)

    def _pulse(self) -> None:
        self._beat += 1
        self._store.write_bytes(self._pulse_key(self._owner), json.dumps({"beat": self._beat}).encode())

    def _leave(self) -> None:
        """A claim that stays is overtaken later; what ended the work is what the user is told."""
        try:
            for bucket in list(self._held):
                self.release(bucket)
            self._deleted([self._pulse_key(self._owner)])
        except TrainerError as error:
            log.warning("claims of this process stay until they are overtaken: %s", error)

    def _key(self, bucket: str, number: int) -> str:
        return layout.join(self._prefix, bucket, f"{number:06d}.json")

    def _pulse_key(self, owner: str) -> str:
        return layout.join(self._prefix, "pulse", f"{owner}.json")
