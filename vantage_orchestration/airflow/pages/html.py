# SPDX-License-Identifier: Apache-2.0
"""How the pages look: small, without scripts and without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from html import escape
from typing import Final
from urllib.parse import quote

from vantage_orchestration.airflow.pages.service import Overview, Row

__all__ = ["headers", "message", "overview"]

_STYLE: Final = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem }
dl { display: grid; grid-template-columns: max-content auto; gap: .2rem 1rem }
dt { opacity: .7 }
dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid #8886 }
td:first-child { font-family: ui-monospace, monospace; font-size: .9rem; overflow-wrap: anywhere }
form { margin: 0 }
button { font: inherit; padding: .2rem .8rem; cursor: pointer }
[role=alert] { border-left: 4px solid #c60; padding: .4rem .8rem }
"""
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_WAITS: Final = "Waits for a person"
_WORDS: Final = {
    "New": "Not started",
    "Gone": "Deleted (ABBYY Vantage keeps transactions for 14 days)",
    None: "Unknown",
}


def headers(*, form_targets: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the headers of every page.

    Args:
        form_targets: Where a form may lead to, by way of redirects, besides this server. Browsers
            apply it to redirects as well.
    """
    policy = {
        "default-src": "'none'",
        "style-src": f"'sha256-{_STYLE_HASH}'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
        "form-action": " ".join(["'self'", *form_targets]),
    }
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        # Not no-referrer: with it a browser would send ``Origin: null`` along with the form.
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }


def overview(
    facts: Mapping[str, str], found: Overview, *, path: str, back: str, may_review: bool
) -> str:
    """Return the page about a task instance.

    Args:
        facts: What the page is about, name to value.
        found: The transactions.
        path: Path of this page, encoded.
        back: Path of Airflow's own page, encoded.
        may_review: Whether the reader may open a review.
    """
    listed = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()
    )
    rows = "".join(_row(row, path, may_review) for row in found.rows)
    parts = [f"<dl>{listed}</dl>"]
    if found.trouble:
        parts.append(f"<p role=alert>ABBYY Vantage could not be asked: {escape(found.trouble)}</p>")
    parts.append(
        "<table><thead><tr><th>Transaction<th>Status<th>Review</tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    if any(row.waits for row in found.rows) and not may_review:
        parts.append(
            "<p>To open a review you need the right to answer required actions of this Dag.</p>"
        )
    if found.pages > 1:
        parts.append(_pager(found, path))
    parts.append(f'<p><a href="{escape(back)}">Back to the task instance</a></p>')
    return _document("ABBYY Vantage transactions", "".join(parts))


def message(title: str, text: str, *, link: tuple[str, str] | None = None) -> str:
    """Return a page that says one thing.

    Args:
        title: Heading.
        text: What is to be said.
        link: Path (encoded) and text of a link.
    """
    body = f"<p>{escape(text)}</p>"
    if link is not None:
        body += f'<p><a href="{escape(link[0])}">{escape(link[1])}</a></p>'
    return _document(title, body)


def _row(row: Row, path: str, may_review: bool) -> str:
    status = _WAITS if row.waits else _WORDS.get(row.status, row.status or "")
    review = ""
    if row.waits and may_review:
        # Its own window, which gets no hold of this one.
        review = (
            f'<form method="post" action="{escape(_review_path(path, row.transaction_id))}"'
            ' target="_blank" rel="noopener"><button>Open the review</button></form>'
        )
    return f"<tr><td>{escape(row.transaction_id)}<td>{escape(status)}<td>{review}</tr>"


def _review_path(path: str, transaction_id: str) -> str:
    return f"{path}/transactions/{quote(transaction_id, safe='')}/review"


def _pager(found: Overview, path: str) -> str:
    parts = [f"Page {found.page} of {found.pages}"]
    for number, text in ((found.page - 1, "Previous"), (found.page + 1, "Next")):
        if 1 <= number <= found.pages:
            parts.append(f'<a href="{escape(path)}?page={number}">{text}</a>')
    return f"<p>{' · '.join(parts)}</p>"


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )
