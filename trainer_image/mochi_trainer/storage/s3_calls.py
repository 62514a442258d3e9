"""One call to an S3 server, tried again while that may help and for a bounded time."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError

from mochi_trainer.storage.s3_connection import Connection
from mochi_trainer.storage.s3_faults import (
    FAILURES,
    RENEWABLE,
    NotS3Error,
    asked_to_wait,
    code_of,
    passing,
    wants_md5,
)
from mochi_trainer.storage.s3_reasons import Place, explained, foreign, misspoken, one_line

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_WAIT = 0.5
LONGEST_WAIT = 15.0
"""Seconds between two tries; it doubles from the first to the longest, and half of it is drawn, so that pods spread."""


@dataclass(slots=True)
class _Course:
    """How a call goes: since when, and how often it was tried again."""

    started: float
    tries: int = 0
    renewals: int = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


def called(connection: Connection, address: str, bucket: str, act: Callable[[S3Client], T]) -> T:
    """What `act` returns, which may be called several times; raises one of ours, and what is no failure of storage as it is."""
    course = _Course(time.monotonic())
    while True:
        keys = None
        try:
            client = connection.client
            keys = connection.keys()
            result = act(client)
        except FAILURES as error:
            if not _again(connection, error, address, course, keys):
                place, waited = Place(address, bucket, connection.spec, connection.answered), course.seconds
                found = misspoken(error, place) or explained(error, place, seconds=waited)
                raise type(found)(connection.without_keys(str(found)), action=found.action) from error
        else:
            connection.answered = True
            return result


def _again(
    connection: Connection, error: Exception, address: str, course: _Course, keys: ReadOnlyCredentials | None
) -> bool:
    """Whether to try again now, after the wait that belongs to it."""
    if wants_md5(error) and not connection.wants_md5:
        connection.wants_md5 = True
        return True
    if code_of(error) in RENEWABLE:
        course.renewals += 1
        return course.renewals <= 2 and connection.renewed(keys)
    instead = connection.answered and _from_another(
        error
    )  # an ingress without its backend, a portal: for now
    return (passing(error) or instead) and _waited(connection, error, address, course)


def _from_another(error: Exception) -> bool:
    """Whether it is no S3 server that has answered."""
    return isinstance(error, NotS3Error) or (isinstance(error, ClientError) and foreign(error))


def _waited(connection: Connection, error: Exception, address: str, course: _Course) -> bool:
    patience = connection.patience
    limit = patience.total_seconds if connection.answered else patience.first_seconds
    wait = max(asked_to_wait(error), _pause(course.tries))
    if course.seconds + wait > limit:
        return False
    course.tries += 1
    log.warning(
        "%s: %s; tried again in %.1f s (%.0f of %.0f s)",
        address,
        connection.without_keys(one_line(error))[:300],
        wait,
        course.seconds,
        limit,
    )
    time.sleep(wait)
    return True


def _pause(tries: int) -> float:
    longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0**tries)
    return longest / 2 + random.random() * longest / 2  # spreads load, guards nothing
