"""HTML that is safe by construction: text is escaped unless it is `Html` already."""

from __future__ import annotations

import base64
from html import escape


class Html(str):
    """Text that is markup."""

    __slots__ = ()


VOID = frozenset({"img", "br", "meta"})


def element(tag: str, *children: str, **attributes: str | bool) -> Html:
    """`<tag ...>children</tag>`; text children and attribute values are escaped, `class_` stands for `class`.

    An attribute that is True has no value, one that is False is left out.
    """
    written = "".join(
        f" {name.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for name, value in attributes.items()
        if value is not False
    )
    if tag in VOID:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{joined(*children)}</{tag}>")


def joined(*children: str) -> Html:
    """Children after one another, texts escaped."""
    return Html(
        "".join(child if isinstance(child, Html) else escape(child, quote=False) for child in children)
    )


def table(header: list[str], rows: list[list[str]], *, class_: str = "") -> Html:
    """A table with a header row, which scrolls by itself when it is too wide."""
    head = element("tr", *(element("th", cell, scope="col") for cell in header))
    body = (element("tr", *(element("td", cell) for cell in row)) for row in rows)
    whole = element("table", element("thead", head), element("tbody", *body), class_=class_ or False)
    return element("div", whole, class_="scroll")


def definitions(pairs: list[tuple[str, str]]) -> Html:
    """Names and values; pairs with an empty value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    return element(
        "dl", *(element(tag, text) for name, value in shown for tag, text in (("dt", name), ("dd", value)))
    )


def data_uri(data: bytes, kind: str) -> str:
    """Bytes as an address, so that the page needs no other file."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
