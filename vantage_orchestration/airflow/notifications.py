# SPDX-License-Identifier: Apache-2.0
"""Notifies people of waiting ABBYY Vantage reviews.

Operators accept ``review_notifiers``: functions that are called with the context, or notifiers of
any provider (mail, Slack and so on), like Airflow's own ``on_failure_callback``. The context has
one additional member, so templates of notifiers can use::

    {{ abbyy_vantage_review.page }}             page with a button for each review
    {{ abbyy_vantage_review.transaction_ids }}  ids of the transactions that wait
    {{ abbyy_vantage_review.deadline }}         when the task stops waiting (UTC), or None

The page requires a login to Airflow. The review link of ABBYY Vantage itself holds a token and is
never sent: its holder can open the review, and mails and channels are stored for long.

Templates do not escape values in HTML, Markdown or mail headers. So the ids, which come from the
service, are limited here to letters, digits and a few other characters.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import pendulum

from vantage_orchestration.airflow.links import page_url

if TYPE_CHECKING:
    from airflow.sdk import BaseNotifier, Context

#: Name of the additional member of the context.
CONTEXT_KEY: Final = "abbyy_vantage_review"

if TYPE_CHECKING:
    ReviewNotifier = Callable[[Context], Any] | BaseNotifier

log = logging.getLogger(__name__)

_MARKUP: Final = re.compile(r"[^\w.: -]", re.ASCII)
_LONGEST_ID: Final = 100


def notify_review(
    context: Context,
    notifiers: Sequence[ReviewNotifier] | ReviewNotifier | None,
    transaction_ids: Iterable[str],
    deadline: float | None = None,
) -> None:
    """Call one notifier, or several in order. An error of a notifier is only logged.

    Call :func:`vantage_orchestration.airflow.links.record_transactions` first: the page shows the
    recorded transactions. ``deadline`` is when the task stops waiting, in seconds since 1970 UTC.
    """
    if not notifiers:
        return

    review = {
        "transaction_ids": [_MARKUP.sub("_", each)[:_LONGEST_ID] for each in transaction_ids],
        "page": page_url(context["ti"]),
        "deadline": None if deadline is None else pendulum.from_timestamp(deadline, tz="UTC"),
    }
    for index, notifier in enumerate([notifiers] if callable(notifiers) else notifiers):
        # A notifier puts its fields into the context and renders its own templates permanently.
        # Each call gets copies, so that a second one reports the second review.
        theirs = cast("Context", {**context, CONTEXT_KEY: dict(review)})
        try:
            copy.copy(notifier)(theirs)
        except Exception:
            log.exception("Review notifier %d failed; the task continues", index)
