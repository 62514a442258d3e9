"""Captions by an endpoint, against a real server that answers well, late, too much, nonsense or not at all."""

from __future__ import annotations

import base64
import errno
import os
import socket
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from mochi_api.spec import S3Spec
from mochi_trainer.footage.captioning import (
    LONGEST,
    PROMPT,
    Captioned,
    CaptionError,
    Endpoint,
    EndpointError,
    Wanted,
    ask,
    caption_of,
    captions,
    write_caption,
)
from mochi_trainer.footage.chat import LARGEST, NoAnswerError, post
from tests.trainer.fault_proxy import fault_proxy
from tests.trainer.footage.chat_server import Reply, Scripted, completion, said, serving, status
from tests.trainer.storage.test_s3_trust import Authority

TEXT = "A red bus drives down a wet street at dusk."
GOOD = said(TEXT)
KEY = "key-of-mine"


def endpoint(script: Scripted, **more) -> Endpoint:
    return Endpoint(**{"url": script.url, "model": "eye-7b", "pause": 0.01, "seconds": 5.0, **more})


def asked(script: Scripted, **more) -> str:
    return ask([b"\xff\xd8one", b"\xff\xd8two"], endpoint(script, **more), threading.Event())


def wanted(folder: Path, *names: str) -> list[Wanted]:
    return [Wanted(name=name, path=folder / f"{name}.txt", pictures=lambda: [b"\xff\xd8"]) for name in names]


def test_the_question_is_the_prompt_and_the_pictures_in_order() -> None:
    with serving(GOOD) as script:
        assert asked(script, key="secret-1") == TEXT
    pictures = [base64.b64encode(data).decode() for data in (b"\xff\xd8one", b"\xff\xd8two")]
    assert script.requests == [
        {
            "model": "eye-7b",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": PROMPT},
                        *(
                            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}
                            for data in pictures
                        ),
                    ],
                }
            ],
        }
    ]
    assert script.paths == ["/v1/chat/completions"]
    assert script.headers[0]["Authorization"] == "Bearer secret-1"


def test_without_a_key_there_is_no_authorization() -> None:
    with serving(GOOD) as script:
        asked(script)
    assert "Authorization" not in script.headers[0]


def test_too_many_requests_wait_as_long_as_the_server_asks() -> None:
    with serving(status(429, b"slow down", Retry_After="1"), GOOD) as script:
        began = time.monotonic()
        assert asked(script) == TEXT
    assert time.monotonic() - began >= 1
    assert len(script.requests) == 2


def test_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    with serving(status(503, Retry_After=later), GOOD) as script:
        began = time.monotonic()
        assert asked(script) == TEXT
    assert time.monotonic() - began >= 0.8


def test_a_server_that_asks_for_an_hour_is_not_waited_for() -> None:
    with serving(status(429, Retry_After="3600")) as script, pytest.raises(CaptionError) as caught:
        asked(script)
    assert str(caught.value) == "the endpoint answers 429; it asks to wait 3600 s, at most 60 are waited"
    assert len(script.requests) == 1


@pytest.mark.parametrize("code", [408, 500, 502, 503, 504])
def test_a_server_in_trouble_is_asked_again(code: int) -> None:
    with serving(status(code), status(code), GOOD) as script:
        assert asked(script) == TEXT
    assert len(script.requests) == 3


def test_trouble_that_stays_ends_after_the_tries_with_its_words() -> None:
    with serving(status(500, b'{"error": "out of memory"}')) as script, pytest.raises(CaptionError) as caught:
        asked(script)
    assert str(caught.value) == 'the endpoint answers 500: {"error": "out of memory"}, 4 tries'
    assert len(script.requests) == 4


@pytest.mark.parametrize("reply", ["hang", "drip"])
def test_an_answer_that_does_not_end_is_left_in_time(reply: str) -> None:
    with serving(GOOD) as script:
        script.replies[:] = [getattr(script, reply)]
        began = time.monotonic()
        with pytest.raises(CaptionError, match=r"no whole answer within 0\.5 s, 2 tries"):
            asked(script, seconds=0.5, tries=2)
        assert time.monotonic() - began < 30


def test_a_huge_answer_is_not_read_to_its_end() -> None:
    with (
        serving(status(200, b" " * (3 * LARGEST))) as script,
        pytest.raises(CaptionError, match=f"the answer has more than {LARGEST} bytes, 1 tries"),
    ):
        asked(script, tries=1)


def test_a_body_that_breaks_off_is_asked_for_again() -> None:
    def cut(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "500")
        handler.end_headers()
        handler.wfile.write(b'{"choices"')
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_WR)

    with serving(cut, GOOD) as script:
        assert asked(script) == TEXT


def test_nobody_there_is_said() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(CaptionError, match=r"no answer: .*refused.*, 2 tries"):
        ask([], Endpoint(url=url, model="m", tries=2, pause=0.01), threading.Event())


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "file:///etc/passwd", "http:///v1"])
def test_only_http_is_spoken(url: str) -> None:
    with pytest.raises(ValueError, match="must begin with http:// or https://"):
        post(url, b"", {}, seconds=1)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("localhost:8000/v1", "must begin with http:// or https://"),
        ("http://me:key-first@host/v1", "has a user before the host host"),
        ("http://host:port/v1", "Port could not be cast"),
        ("http://host:99999/v1", "Port out of range"),
        ("http://ho st/v1", "has a blank"),
        ("http://host/v1\n", "has a blank"),
        ("http://[::1/v1", "Invalid IPv6 URL"),
    ],
)
def test_an_address_of_no_endpoint_is_refused_before_anything_is_asked(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Endpoint(url=url, model="m")
    assert "key-first" not in str(caught.value)


@pytest.mark.parametrize(
    ("after", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("?api-version=2", "/v1/chat/completions?api-version=2"),
        ("/chat/completions/?api-version=2#top", "/v1/chat/completions?api-version=2"),
    ],
)
def test_the_base_address_and_the_whole_one_are_taken(after: str, path: str) -> None:
    with serving(GOOD) as script:
        assert asked(script, url=script.url + after) == TEXT
        assert script.paths == [path]


@pytest.mark.parametrize(
    "key", ["key-first\nkey-second", "key-first key-second", "key-first…", "key-first\x00"]
)
def test_a_key_that_no_header_can_hold_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="at position 10 of") as caught:
        Endpoint(url="http://host/v1", model="m", key=key)
    assert "key-" not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        status(401, b"Incorrect API key provided: key-of-mine"),
        status(400, b"key-of-mine is bad"),
        status(500, b"key-of-mine is odd"),
        status(200, b"key-of-mine"),
        status(302, Location="http://elsewhere/?key-of-mine"),
        said(None, message={"refusal": "not for key-of-mine"}),
        said("I cannot help key-of-mine"),
    ],
)
def test_the_key_is_never_shown(reply: Reply) -> None:
    with serving(reply) as script, pytest.raises((CaptionError, EndpointError)) as caught:
        asked(script, key=KEY, tries=2)
    assert "(hidden)" in str(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))
    assert KEY not in repr(endpoint(script, key=KEY))


def test_a_certificate_that_is_not_trusted_is_the_same_for_all_clips(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    with (
        fault_proxy(
            S3Spec(endpoint="http://127.0.0.1:1"), lambda _: None, tls=authority.server("IP:127.0.0.1")
        ) as proxy,
        pytest.raises(
            EndpointError, match=r"the certificate of 127\.0\.0\.1 is not trusted: .*SSL_CERT_FILE"
        ),
    ):
        ask([], Endpoint(url=f"{proxy.spec.endpoint}/v1", model="m"), threading.Event())


@pytest.mark.parametrize("code", [401, 402, 403, 404, 407])
def test_what_is_wrong_for_all_clips_ends_at_once(code: int) -> None:
    with (
        serving(status(code, b"no such model")) as script,
        pytest.raises(EndpointError, match=f"the endpoint answers {code}: no such model"),
    ):
        asked(script)
    assert len(script.requests) == 1


def test_the_key_does_not_follow_a_redirect() -> None:
    with (
        serving(GOOD) as elsewhere,
        serving(status(307, Location=elsewhere.url)) as script,
        pytest.raises(EndpointError, match=f"it has moved to {elsewhere.url}"),
    ):
        asked(script, key="secret-1")
    assert elsewhere.requests == []


def test_a_request_that_is_wrong_is_one_clips_failure() -> None:
    with (
        serving(status(400, b"too many images")) as script,
        pytest.raises(CaptionError, match="the endpoint answers 400: too many images"),
    ):
        asked(script)
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>busy</html>", "no chat completion: '<html>busy</html>'"),
        (b"", "no chat completion"),
        (b"[]", "no chat completion"),
        (b'{"choices": []}', "no chat completion"),
        (b'{"choices": [null]}', "no chat completion"),
        (b"\xff\xfe\x00", "no chat completion"),
        (completion(None), "no text but NoneType"),
        (completion(["a"]), "no text but list"),
        (completion(""), "the answer is empty"),
        (completion(" \n\t"), "the answer is empty"),
        (completion("<think>hm</think>\n"), "the answer is empty"),
        (completion("x" * (LONGEST + 1)), f"has {LONGEST + 1} characters, at most {LONGEST}"),
        (completion("a\x00b"), "characters in it that are no text"),
        (completion("a \ud83d b"), "characters in it that are no text"),
        (completion("A bus on", finish_reason="length"), "cut off at the model's limit"),
        (completion(None, message={"refusal": "not this"}), "the model refuses: not this"),
        (completion("I'm sorry, but I can't help with that."), "the model refuses: I'm sorry"),
        (completion("I cannot describe this image."), "the model refuses"),
        (completion("As an AI, I have no eyes."), "the model refuses"),
        (completion("I apologize, but I can't see it."), "the model refuses"),
        (completion("Sorry, I can't help."), "the model refuses"),
        (completion("I won’t describe people."), "the model refuses"),
        (completion("I don't see any image."), "the model refuses"),
        (completion("No images were provided."), "the model refuses"),
        (completion("<think>A man who"), "before the model has thought to the end"),
        (completion("A man.</think> <think>or"), "before the model has thought to the end"),
    ],
)
def test_what_is_no_caption_is_none(body: bytes, words: str) -> None:
    with pytest.raises(CaptionError) as caught:
        caption_of(body)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "caption"),
    [
        ("  A man\n\nsits.  ", "A man sits."),
        ("<think>I see a man.</think>\n\nA man sits.", "A man sits."),
        ("I see a man.\n</think>\n\nA man sits.", "A man sits."),
        ("No people are to be seen: a street at night.", "No people are to be seen: a street at night."),
        ("I can see a man. Sorry is written on his hat.", "I can see a man. Sorry is written on his hat."),
        ("Ein Mann sitzt; 男人坐着 👩‍🚀", "Ein Mann sitzt; 男人坐着 👩‍🚀"),
    ],
)
def test_a_caption_is_one_line(text: str, caption: str) -> None:
    assert caption_of(completion(text)) == caption


def test_captions_lie_beside_their_clips(tmp_path: Path) -> None:
    with serving(GOOD) as script:
        found = list(captions(wanted(tmp_path, "a", "b"), endpoint(script), at_once=2))
    assert sorted(found, key=lambda each: each.name) == [
        Captioned(name="a", caption=TEXT),
        Captioned(name="b", caption=TEXT),
    ]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.txt": f"{TEXT}\n",
        "b.txt": f"{TEXT}\n",
    }


@pytest.mark.parametrize("written", ["by hand", ""])
def test_what_a_person_wrote_stays(tmp_path: Path, written: str) -> None:
    (tmp_path / "a.txt").write_text(written)
    with serving(GOOD) as script:
        (found,) = captions(wanted(tmp_path, "a"), endpoint(script), at_once=1)
    assert "left as it is" in found.error
    assert script.requests == []
    assert (tmp_path / "a.txt").read_text() == written


def test_what_a_person_writes_meanwhile_stays(tmp_path: Path) -> None:
    def slow(handler) -> None:
        (tmp_path / "a.txt").write_text("by hand")
        GOOD(handler)

    with serving(slow) as script:
        (found,) = captions(wanted(tmp_path, "a"), endpoint(script), at_once=1)
    assert "left as it is" in found.error
    assert [path.read_text() for path in tmp_path.iterdir()] == ["by hand"]


def test_so_many_are_asked_at_once_and_no_more(tmp_path: Path) -> None:
    def slow(handler) -> None:
        time.sleep(0.2)
        GOOD(handler)

    with serving(slow) as script:
        found = list(captions(wanted(tmp_path, *"abcdefghi"), endpoint(script), at_once=3))
    assert len(found) == 9
    assert script.busiest == 3


def test_one_clips_failure_is_not_the_others(tmp_path: Path) -> None:
    def broken() -> list[bytes]:
        raise RuntimeError("no pictures in it")

    several = [*wanted(tmp_path, "a"), Wanted(name="b", path=tmp_path / "b.txt", pictures=broken)]
    with serving(GOOD) as script:
        found = {each.name: each for each in captions(several, endpoint(script), at_once=1)}
    assert found["a"].caption == TEXT
    assert found["b"] == Captioned(name="b", error="no pictures in it")


def test_a_wrong_key_is_asked_with_once_or_so_and_nothing_is_written(tmp_path: Path) -> None:
    with serving(status(401)) as script, pytest.raises(EndpointError):
        list(captions(wanted(tmp_path, *map(str, range(200))), endpoint(script), at_once=2))
    assert len(script.requests) < 50
    assert list(tmp_path.iterdir()) == []


def test_where_nobody_has_ever_answered_few_clips_are_asked_for(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    nobody = Endpoint(url=url, model="m", tries=2, pause=0.01)
    told: list[Captioned] = []
    with pytest.raises(
        EndpointError, match=r"8 clips in a row, from the first on, without an answer: .*refused"
    ):
        told.extend(captions(wanted(tmp_path, *map(str, range(50))), nobody, at_once=1))
    assert len(told) == 7


def test_an_endpoint_that_has_answered_may_be_silent_for_a_while(tmp_path: Path) -> None:
    def gone(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.connection.close()

    names = [str(number) for number in range(12)]
    with serving(GOOD, *[gone] * 10, GOOD) as script:
        found = list(captions(wanted(tmp_path, *names), endpoint(script, tries=1), at_once=1))
    assert [bool(each.caption) for each in found] == [True, *[False] * 10, True]


def test_leaving_early_ends_the_waiting(tmp_path: Path) -> None:
    with serving(GOOD, status(429, Retry_After="30")) as script:
        began = time.monotonic()
        made = captions(wanted(tmp_path, "a", "b"), endpoint(script), at_once=1)
        next(made)
        made.close()
        assert time.monotonic() - began < 30


def test_a_caption_is_written_where_the_file_system_has_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def linkless(*_) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", linkless)
    assert write_caption(tmp_path / "a.txt", TEXT)
    assert not write_caption(tmp_path / "a.txt", "another")
    assert (tmp_path / "a.txt").read_text() == f"{TEXT}\n"


def test_a_name_that_cannot_be_resolved_is_no_answer() -> None:
    with pytest.raises(NoAnswerError, match="no answer"):
        post("http://no-such-host.invalid/v1", b"", {}, seconds=5)
