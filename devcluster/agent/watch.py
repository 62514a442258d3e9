"""A local copy of a list of API objects, kept current by list and watch."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from devcluster.agent.api import HTTP_GONE, Api, ApiError

log = logging.getLogger(__name__)
RETRY_SECONDS = 1.0

Objects = Mapping[str, Mapping[str, Any]]
"""uid -> object."""


class Mirror:
    """Follows one list; calls `changed` with the whole copy after each change, from its own thread."""

    def __init__(
        self, api: Api, path: str, query: Mapping[str, Any], changed: Callable[[Objects], None]
    ) -> None:
        self._api = api
        self._path = path
        self._query = query
        self._changed = changed
        self._objects: dict[str, Mapping[str, Any]] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Do not call `changed` any more; the thread ends with its current wait."""
        self._stopped.set()

    def _run(self) -> None:
        version: str | None = None
        while not self._stopped.is_set():
            try:
                version = self._list() if version is None else version
                version = self._follow(version)
            except (ApiError, OSError) as error:
                version = None
                log.warning("watch of %s is interrupted, listing again: %s", self._path, error)
                self._stopped.wait(RETRY_SECONDS)
            except Exception:  # a bug; without this thread the node would be deaf
                version = None
                log.exception("watch of %s is interrupted, listing again", self._path)
                self._stopped.wait(RETRY_SECONDS)

    def _list(self) -> str:
        listing = self._api.get(self._path, self._query)
        self._objects = {item["metadata"]["uid"]: item for item in listing.get("items") or ()}
        self._tell()
        return str(listing["metadata"]["resourceVersion"])

    def _follow(self, version: str) -> str:
        """One watch; returns the version to go on from."""
        for event in self._api.watch(self._path, {**self._query, "resourceVersion": version}):
            if self._stopped.is_set():
                break
            item = event["object"]
            if event["type"] == "ERROR":
                code = int(item.get("code", HTTP_GONE))
                raise ApiError(code, str(item.get("reason", "")), str(item.get("message", "")))
            version = str(item["metadata"]["resourceVersion"])
            if event["type"] != "BOOKMARK":
                self._apply(event["type"], item)
        return version

    def _apply(self, kind: str, item: Mapping[str, Any]) -> None:
        uid = item["metadata"]["uid"]
        if kind == "DELETED":
            self._objects.pop(uid, None)
        else:
            self._objects[uid] = item
        self._tell()

    def _tell(self) -> None:
        if not self._stopped.is_set():
            self._changed(dict(self._objects))
