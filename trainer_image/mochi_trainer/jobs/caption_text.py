"""What the bytes of a caption's file say, or why they are no caption that a person wrote."""

from __future__ import annotations

import codecs
import json
import re
import unicodedata
from collections.abc import Mapping

SHOWN = 40
"""Characters of a caption that a message shows."""

_SAVE = "save it as UTF-8"
_MARKS: Mapping[bytes, str] = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""Byte order marks; the longer first, since one of them begins with a shorter."""

_DOCUMENTS: Mapping[str, str] = {
    "{\\rtf": "a document in RTF, not plain text: save it as plain text in UTF-8",
    "<!doctype": "a web page, not plain text: write the caption",
    "<html": "a web page, not plain text: write the caption",
    "<?xml": "an XML document, not plain text: write the caption",
    "<error><code>": "an XML document, not plain text: write the caption",
    "webvtt": "subtitles, not plain text: write the caption",
    "/annex/objects/": "a pointer of git-annex, not the file itself: fetch it with git annex get",
    "# xet version ": "a pointer of Xet, not the file itself: fetch it with git xet or huggingface_hub",
    "version https://git-lfs.github.com/": "a pointer of Git LFS, not the file itself: fetch it with git lfs pull",
}
"""How files begin whose text no person wrote as a caption, in small letters, and what they are."""

_JSON = "a JSON document, not plain text: write the caption"
_SUBTITLES = re.compile(r"\d+\s+\d\d:\d\d:\d\d[,.]\d{3} --> ")
"""How the first of SubRip's subtitles begins."""

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Letters, signs and marks without a picture of their own: fillers of Hangul, the empty sign of Braille, selectors of variants."""

_WHITE = frozenset("\t\n\v\f\r\x85")
_LOST = "\ufffd"
_MARK = "\ufeff"


def caption_text(data: bytes) -> str:
    """The text of a caption's file on one line, empty when it has no words.

    Raises ValueError, which says what the file is and what helps, when it is no text in UTF-8 or none of a person's.
    """
    text = _decoded(data).lstrip(_MARK)
    start = text.lstrip().lower()
    for beginning, words in _DOCUMENTS.items():
        if start.startswith(beginning):
            raise ValueError(words)
    if _SUBTITLES.match(start):
        raise ValueError(_DOCUMENTS["webvtt"])
    if _is_json(start):
        raise ValueError(_JSON)
    for place, letter in enumerate(text):
        if unicodedata.category(letter) == "Cc" and letter not in _WHITE:
            raise ValueError(
                f"not plain text (character {place} is the control character U+{ord(letter):04X}): {_SAVE}"
            )
    if _LOST in text:
        raise ValueError(
            f"damaged (character {text.index(_LOST)} is U+FFFD, which stands for one that was lost): write it anew"
        )
    return " ".join(text.split()) if any(map(_has_ink, text)) else ""


def _decoded(data: bytes) -> str:
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            raise ValueError(f"{encoding}: {_SAVE}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start}){_guess(data)}: {_SAVE}") from error
    if "\0" in text:
        raise ValueError(f"not UTF-8 text (byte {data.index(0)} is zero, as in UTF-16): {_SAVE}")
    return text


def _has_ink(letter: str) -> bool:
    """Whether a character is to be seen: no blank, no mark of the text's direction or width."""
    return unicodedata.category(letter)[0] not in "ZC" and not _INVISIBLE.match(letter)


def _is_json(text: str) -> bool:
    """Whether a text is an object or a list of JSON, which some program wrote."""
    if not text.startswith(("{", "[")):
        return False
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _guess(data: bytes) -> str:
    """What the bytes look like in the 8-bit set that most editors of the West wrote; nothing when they do not."""
    try:
        text = " ".join(data.decode("cp1252").split())
    except UnicodeDecodeError:
        return ""
    plain = sum(letter.isascii() for letter in text)
    return (
        f" but probably Latin-1, in which it reads {text[:SHOWN]!r}"
        if text.isprintable() and 10 * plain >= 7 * len(text)
        else ""
    )
