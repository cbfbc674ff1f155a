# SPDX-License-Identifier: Apache-2.0
"""HTML of the pages: small, without scripts and external resources."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from typing import Final
from urllib.parse import quote

import pendulum
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vantage_orchestration.airflow.pages.service import Overview, Row
from vantage_orchestration.status import Status

_STYLE: Final = (files(__package__) / "templates" / "style.css").read_text()
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
#: Seconds after which a browser loads a page again. It needs no script for that.
_REFRESH: Final = 20
_WAITS: Final = "Waits for a person"
_WORDS: Final[dict[str | None, str]] = {
    Status.NEW: "Not started",
    Status.GONE: "Deleted (ABBYY Vantage keeps transactions for 14 days)",
    None: "Unknown",
}


def headers(*, form_targets: tuple[str, ...] = ()) -> dict[str, str]:
    """Return the headers of every page.

    A form may redirect to ``form_targets`` besides this server: browsers apply the policy to
    redirects as well.
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
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        # Not no-referrer: a browser would then send ``Origin: null`` with the form.
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def overview(
    facts: Mapping[str, str],
    found: Overview,
    *,
    path: str,
    back: str,
    may_review: bool,
    refresh: bool = False,
) -> str:
    """Return the page about a task instance with these properties and transactions.

    ``path`` and ``back``, the paths of this page and of Airflow's own, are encoded. With
    ``refresh`` the browser loads the page again.
    """
    return _TEMPLATES.get_template("overview.html").render(
        title="ABBYY Vantage transactions",
        facts=facts,
        found=found,
        path=path,
        back=back,
        may_review=may_review,
        refresh=_REFRESH if refresh else None,
        shown=[
            name
            for name in ("classes", "pages", "folder")
            if any(getattr(row.details, name) not in ("", None) for row in found.rows)
        ],
    )


def message(title: str, text: str, *, link: tuple[str, str] | None = None) -> str:
    """Return a page with one message, and a link from its encoded path and its text."""
    return _TEMPLATES.get_template("message.html").render(title=title, text=text, link=link)


def _status(row: Row) -> str:
    return _WAITS if row.waits else _WORDS.get(row.status, row.status or "")


def _moment(seconds: float) -> str:
    return pendulum.from_timestamp(seconds, tz="UTC").format("YYYY-MM-DD HH:mm [UTC]")


_TEMPLATES: Final = Environment(
    loader=PackageLoader(__package__),
    autoescape=True,
    trim_blocks=True,
    undefined=StrictUndefined,
)
_TEMPLATES.globals["style"] = Markup(_STYLE)  # noqa: S704 - it is a file of this package
_TEMPLATES.filters.update(status=_status, encoded=partial(quote, safe=""), moment=_moment)
