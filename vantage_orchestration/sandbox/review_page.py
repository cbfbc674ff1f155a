# SPDX-License-Identifier: Apache-2.0
"""The page behind a manual review link, so that a person can end a review in a browser."""

from __future__ import annotations

import html

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from .settings import OUTCOMES
from .state import SandboxState

_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<title>Manual review - sandbox</title></head><body>
<h1>Manual review</h1><p>{text}</p>{form}</body></html>"""


def review_routes(state: SandboxState) -> list[BaseRoute]:
    """Return the route of the review page."""

    async def page(request: Request) -> Response:
        item = state.transactions.by_review_token(request.query_params.get("accessToken", ""))
        if item is None:
            return HTMLResponse(_PAGE.format(text="This link is not valid.", form=""), 404)
        if request.method == "POST" and item.in_review:
            status = request.query_params.get("status", "")
            if status not in OUTCOMES:
                return HTMLResponse(_PAGE.format(text="Unknown outcome.", form=""), 400)
            state.transactions.finish_review(item.id, status)
        if not item.in_review:
            return HTMLResponse(_PAGE.format(text="The review is over.", form=""))
        buttons = "".join(
            f'<form method="post" action="?{html.escape(request.url.query)}&amp;status={name}">'
            f"<button>End as {name}</button></form>"
            for name in OUTCOMES
        )
        text = f"Transaction {item.id} of the skill {html.escape(item.skill.name)}."
        return HTMLResponse(_PAGE.format(text=text, form=buttons))

    return [Route("/manual-review", page, methods=["GET", "POST"], name="sandboxReviewPage")]
