# SPDX-License-Identifier: Apache-2.0
"""Small Dags with an operator that does what those of the package do about links and events."""

from __future__ import annotations

import logging
import os
import signal
from datetime import timedelta
from typing import Any

import pendulum
from airflow.sdk import Asset, AssetAlias, BaseNotifier, BaseOperator, Context, Param, dag

from vantage_orchestration.airflow.assets import datasets, emit
from vantage_orchestration.airflow.links import VantageTransactionLink, record_transactions
from vantage_orchestration.airflow.notifications import notify_review

OPTIONS = {
    "schedule": None,
    "start_date": pendulum.datetime(2026, 1, 1, tz="UTC"),
    "catchup": False,
    "params": {
        "conn_id": Param("abbyy_vantage_default", type="string"),
        "transaction_ids": Param([], type="array"),
        "defer": Param(False, type="boolean"),
        "crash": Param(False, type="boolean"),
        "output": Param("/out", type="string"),
    },
}
log = logging.getLogger(__name__)


class Told(BaseNotifier):
    """Writes what its template says into the log."""

    template_fields = ("text",)

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def notify(self, context: Context) -> None:
        log.info("told [%s]", self.text)


def broken(context: Context) -> None:
    raise RuntimeError("a broken notifier")


def plain(context: Context) -> None:
    review = context["abbyy_vantage_review"]
    log.info("plain [%s %s]", review["deadline"], context["ti"].task_id)


class Watch(BaseOperator):
    """Notes transactions, may defer, then reports reviews and sends asset events."""

    operator_extra_links = (VantageTransactionLink(),)
    template_fields = ("abbyy_vantage_conn_id",)

    def __init__(
        self,
        *,
        part: int | None = None,
        review_notifiers: Any = (),
        abbyy_vantage_conn_id: str = "{{ params.conn_id }}",
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.abbyy_vantage_conn_id = abbyy_vantage_conn_id
        self.part = part
        self.review_notifiers = review_notifiers

    def execute(self, context: Context) -> str:
        params = context["params"]
        ids = params["transaction_ids"]
        if self.part is not None:
            ids = ids[self.part : self.part + 1]
        if ids:
            record_transactions(context, ids)
        if params["crash"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if params["defer"]:
            from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

            self.defer(trigger=TimeDeltaTrigger(timedelta(days=1)), method_name="execute_complete")
        return self.execute_complete(context)

    def execute_complete(self, context: Context, event: Any = None) -> str:
        params = context["params"]
        notify_review(context, self.review_notifiers, params["transaction_ids"], 1772323200.0)
        assert "abbyy_vantage_review" not in context
        assert "text" not in context
        notify_review(context, self.review_notifiers, ["a second time"])
        emit(context, params["output"], {"files": 3, "in_review": len(params["transaction_ids"])})
        return "done"


NOTIFIERS = [
    broken,
    Told("{{ abbyy_vantage_review.page }} {{ abbyy_vantage_review.transaction_ids | join('+') }}"),
    plain,
]


@dag("links", **OPTIONS)
def links():
    Watch(
        task_id="watch",
        review_notifiers=NOTIFIERS,
        outlets=[Asset("x-results://folder"), AssetAlias("results-of-the-day")],
    )


@dag("static_links", **OPTIONS)
def static_links():
    """An operator whose connection is not a template."""
    Watch(task_id="watch", abbyy_vantage_conn_id="vantage_static")
    Watch.partial(task_id="mapped", abbyy_vantage_conn_id="vantage_static").expand(part=[0])


@dag("mapped_links", **OPTIONS)
def mapped_links():
    Watch.partial(task_id="watch", review_notifiers=NOTIFIERS).expand(part=[0, 1])


class Copy(BaseOperator):
    """Has read files and written a folder; no more than lineage has to know."""

    template_fields = ("inputs", "folder")

    def __init__(self, *, inputs: list[str], folder: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.inputs, self.folder = inputs, folder

    def execute(self, context: Context) -> None:
        pass

    def get_openlineage_facets_on_start(self) -> Any:
        return datasets(self.inputs, None)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        return datasets(self.inputs, self.folder)


@dag("lineage", **OPTIONS)
def lineage():
    Copy(
        task_id="copy",
        inputs=["s3://conn@bucket/in/a.pdf", "/in/b.pdf", "s3a://bucket/in/a.pdf"],
        folder="{{ params.output }}",
    )


@dag("mails", **OPTIONS)
def mails():
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    def first_only(context: Context) -> None:
        if context["abbyy_vantage_review"]["deadline"] is not None:
            mail(context)

    mail = SmtpNotifier(
        smtp_conn_id="mails",
        to="review@example.com",
        subject="{{ abbyy_vantage_review.transaction_ids | length }} documents wait until"
        " {{ abbyy_vantage_review.deadline.strftime('%Y-%m-%d %H:%M UTC') }}",
        html_content='<a href="{{ abbyy_vantage_review.page }}">Open</a>',
    )
    Watch(task_id="watch", review_notifiers=first_only)


links()
static_links()
mapped_links()
mails()
lineage()
