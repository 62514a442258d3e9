"""Whether results can be stored: a small object is written, read back and deleted in each place that the run writes to."""

from __future__ import annotations

import secrets

from mochi_trainer.errors import AccessDeniedError, StorageError, TrainerError
from mochi_trainer.jobs.checks.findings import Findings
from mochi_trainer.jobs.checks.places import Places
from mochi_trainer.storage import Store

PROBE = "check-"
"""Names of the small objects start with it."""
CONTENT = b"written by mochi_trainer check; it can be deleted\n"


def check_results(places: Places, findings: Findings) -> None:
    """Look at the run's folder and at the cache."""
    locations = places.run.locations
    for what, address in {"results": locations.run, "cache": locations.cache}.items():
        if not places.reachable(address):
            continue
        with places.asking(address, findings):
            _write_and_read(places.store(address), findings)
            findings.checked.append(f"{what} can be written and read at {address}")


def _write_and_read(store: Store, findings: Findings) -> None:
    key = f"{PROBE}{secrets.token_hex(8)}"
    try:
        store.write_bytes(key, CONTENT)
    except AccessDeniedError as error:
        raise _not_allowed("written to", "write", store, error) from error
    try:
        read = store.read_bytes(key)
    except AccessDeniedError as error:
        raise _not_allowed("read from", "read", store, error) from error
    if read != CONTENT:
        raise StorageError(f"{store.address(key)} came back with other bytes than were written")
    try:
        store.delete([key])
    except TrainerError as error:
        findings.warnings.append(f"old checkpoints will stay, nothing can be deleted: {error}")


def _not_allowed(done: str, verb: str, store: Store, error: AccessDeniedError) -> AccessDeniedError:
    place = store.address()
    return AccessDeniedError(
        f"{place} cannot be {done}: {error}",
        action=f"let the credentials {verb} below {place}, or correct storage.outputURI or storage.cacheURI",
    )
