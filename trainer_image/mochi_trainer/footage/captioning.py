"""Captions by a model that looks at a few pictures of a clip: any endpoint with OpenAI's chat interface, none by default.

A caption is written beside its clip where there is no file yet; what a person wrote is never touched. So a run that was
stopped goes on where it was.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mochi_trainer.documents import json_of
from mochi_trainer.footage.chat import Answer, NoAnswerError, UntrustedError, post, require_address

PROMPT = (
    "These are frames of one video clip in order. Describe the clip in one to three plain sentences: subject, action, "
    "setting, light, and how the camera moves. Answer with the description alone."
)
LONGEST = 1500
"""Characters of a caption: the text encoder reads 256 tokens, about 1,000 characters."""

AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same question may be answered."""

FOR_ALL = frozenset({301, 302, 303, 307, 308, 401, 402, 403, 404, 405, 407})
"""Statuses that will be the same for every clip."""

_REFUSAL = re.compile(
    r"(i['’]?m|i am) (sorry|unable|not able)|(i )?apologi|(my apologies|sorry)[,.]|sorry,? (but )?i |as an ai\b|"
    r"i (can['’]?t|cannot|can not|won['’]?t|will not|do not|don['’]?t) |unfortunately,? (i |no |there )|"
    r"no (image|picture|frame|video)s? (was|were|is|are|has|have) ",
    re.IGNORECASE,
)
_THOUGHT = re.compile(r"^.*</think>", re.DOTALL)
"""Up to its end: some servers leave out where it begins."""
_THINKING = "<think>"
PATH = "/chat/completions"
SILENT = 8
"""Clips without an answer after which nobody is thought to be there, if nobody ever was."""
SECRET = 8
"""Characters from which on a key may be one; servers on a workstation take `none` and the like."""


class CaptionError(Exception):
    """One clip got no caption."""


class SilenceError(CaptionError):
    """Nothing came of any try."""


class EndpointError(Exception):
    """The endpoint will answer for no clip: address, key or model is wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Who is asked, and how."""

    url: str
    """Base address, such as http://127.0.0.1:8000/v1, or that of `/chat/completions` itself; a query stays behind it."""

    model: str
    prompt: str = PROMPT
    key: str = field(default="", repr=False)
    seconds: float = 120.0
    """For one answer."""

    tries: int = 4
    pause: float = 1.0
    """Seconds before the second try; twice as long before each further one, unless the server says how long."""

    longest_pause: float = 60.0
    """A server that asks for more is not waited for."""

    def __post_init__(self) -> None:
        """Raises ValueError for an address or a key that no request can be sent with; what the key is is not told."""
        require_address(self.url)
        odd = [place for place, character in enumerate(self.key, 1) if not "!" <= character <= "~"]
        if odd:
            raise ValueError(
                f"the key has a line break, a blank or another character that is no key's at position {odd[0]} of "
                f"{len(self.key)}"
            )

    @property
    def address(self) -> str:
        """Where questions go."""
        parts = urlsplit(self.url)
        path = parts.path.rstrip("/")
        return parts._replace(path=path if path.endswith(PATH) else path + PATH, fragment="").geturl()

    def hidden(self, text: str) -> str:
        """`text` without the key, which servers repeat when it is wrong."""
        return text.replace(self.key, "(hidden)") if len(self.key) >= SECRET else text


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A clip that has no caption."""

    name: str
    path: Path
    """Where the caption goes."""

    pictures: Callable[[], Sequence[bytes]]
    """Makes its JPEG files when it is its turn; raises ClipError or any other Exception of its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Captioned:
    """What came of one clip: the caption, or why there is none."""

    name: str
    caption: str = ""
    error: str = ""
    silent: bool = False
    """Whether the endpoint has not answered at all."""


def captions(wanted: Sequence[Wanted], endpoint: Endpoint, *, at_once: int) -> Iterator[Captioned]:
    """Ask for `at_once` clips at a time and write what comes, in the order in which it comes.

    Raises EndpointError as soon as it is clear that no clip will get an answer; nothing is asked after that. An endpoint that
    has answered before may be silent for a while.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="caption")
    silent = 0
    try:
        for number, done in enumerate(
            as_completed([pool.submit(_captioned, each, endpoint, stop) for each in wanted]), 1
        ):
            result = done.result()
            silent += result.silent
            if silent == number == SILENT:
                raise EndpointError(
                    f"{silent} clips in a row, from the first on, without an answer: {result.error}"
                )
            yield result
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _captioned(wanted: Wanted, endpoint: Endpoint, stop: threading.Event) -> Captioned:
    if wanted.path.exists():
        return Captioned(name=wanted.name, error="a caption has been written meanwhile, it is left as it is")
    try:
        text = ask(wanted.pictures(), endpoint, stop)
    except EndpointError:
        raise
    except Exception as error:  # one clip's failure, whatever it is
        silent = isinstance(error, SilenceError)
        return Captioned(name=wanted.name, error=str(error) or type(error).__name__, silent=silent)
    if not write_caption(wanted.path, text):
        return Captioned(name=wanted.name, error="a caption has been written meanwhile, it is left as it is")
    return Captioned(name=wanted.name, caption=text)


def ask(pictures: Sequence[bytes], endpoint: Endpoint, stop: threading.Event) -> str:
    """The caption for JPEG files; raise CaptionError when there is none after all tries, EndpointError for good."""
    try:
        return _answered(pictures, endpoint, stop)
    except UntrustedError as error:
        raise EndpointError(str(error)) from error
    except (CaptionError, EndpointError) as error:
        raise type(error)(endpoint.hidden(str(error))) from None


def _answered(pictures: Sequence[bytes], endpoint: Endpoint, stop: threading.Event) -> str:
    body = json.dumps(question(pictures, endpoint)).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    problem, pause, silent = "", endpoint.pause, False
    for number in range(endpoint.tries):
        if number and stop.wait(pause):
            break
        try:
            answer = post(endpoint.address, body, headers, seconds=endpoint.seconds)
        except NoAnswerError as error:
            problem, pause, silent = str(error), endpoint.pause * 2**number, True
            continue
        if answer.status == 200:
            return caption_of(answer.body)
        problem, silent = _refused(answer), False
        if answer.status not in AGAIN:
            raise CaptionError(problem)
        pause = endpoint.pause * 2**number if answer.retry_after is None else answer.retry_after
        if pause > endpoint.longest_pause:
            raise CaptionError(
                f"{problem}; it asks to wait {pause:.0f} s, at most {endpoint.longest_pause:.0f} are waited"
            )
    kind = SilenceError if silent else CaptionError
    raise kind(f"{problem or 'stopped'}, {endpoint.tries} tries")


def question(pictures: Sequence[bytes], endpoint: Endpoint) -> dict[str, Any]:
    """The body of a request: the prompt, then the JPEG files as data URLs."""
    addresses = [f"data:image/jpeg;base64,{base64.b64encode(data).decode()}" for data in pictures]
    shown = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    content = [{"type": "text", "text": endpoint.prompt}, *shown]
    return {"model": endpoint.model, "messages": [{"role": "user", "content": content}]}


def _refused(answer: Answer) -> str:
    """What the server says of a status that is none of success; raises EndpointError when it holds for all clips."""
    said = " ".join(answer.body[:300].decode(errors="replace").split())
    text = f"the endpoint answers {answer.status}" + (f": {said}" if said else "")
    if answer.status in FOR_ALL:
        raise EndpointError(text + (f"; it has moved to {answer.location}" if answer.location else ""))
    return text


def caption_of(body: bytes) -> str:
    """The caption in an answer, on one line; raise CaptionError for what is none."""
    try:
        choice = json_of(body)["choices"][0]
        message = choice["message"]
        text = message["content"]
    except (ValueError, LookupError, TypeError) as error:
        shown = body[:80].decode(errors="replace")
        raise CaptionError(f"the answer is no chat completion: {shown!r}") from error
    if isinstance(message, dict) and message.get("refusal"):
        raise CaptionError(f"the model refuses: {str(message['refusal'])[:200]}")
    if not isinstance(text, str):
        raise CaptionError(f"the answer has no text but {type(text).__name__}")
    if choice.get("finish_reason") == "length":
        raise CaptionError("the answer was cut off at the model's limit of tokens")
    text = _THOUGHT.sub("", text)
    if _THINKING in text:
        raise CaptionError("the answer ends before the model has thought to the end")
    return _checked(" ".join(text.split()))


def _checked(text: str) -> str:
    if not text:
        raise CaptionError("the answer is empty")
    if len(text) > LONGEST:
        raise CaptionError(f"the caption has {len(text)} characters, at most {LONGEST} are taken")
    if any(character < " " or "\ud800" <= character <= "\udfff" for character in text):
        raise CaptionError("the caption has characters in it that are no text")
    if _REFUSAL.match(text):
        raise CaptionError(f"the model refuses: {text[:200]}")
    return text


def write_caption(path: Path, text: str) -> bool:
    """Write a caption as a whole, or not at all where a file is by now; say which. Raises OSError for a full disk."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".caption-", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
        Path(file.name).chmod(0o644)
        return _linked(Path(file.name), path) or _copied(text, path)


def _linked(written: Path, path: Path) -> bool:
    """Whether `path` is `written` now; False too where the file system has no links."""
    try:
        os.link(written, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}:
            raise
        return False
    return True


def _copied(text: str, path: Path) -> bool:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text + "\n")
    except FileExistsError:
        return False
    return True
