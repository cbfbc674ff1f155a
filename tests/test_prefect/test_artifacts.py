# SPDX-License-Identifier: Apache-2.0
"""What a run shows in the user interface: documents, progress, and reviews as long as they last."""

from __future__ import annotations

import json
import logging
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from jobs import begin, finish
from leaks import find_leaks
from pdfs import make_invoice
from prefect import flow, settings, task
from test_prefect.seen import artifacts, told_in_the_end
from waits import waited

from vantage_orchestration.options import Options
from vantage_orchestration.prefect import artifacts as module
from vantage_orchestration.prefect.artifacts import (
    BatchProgress,
    DocumentsTable,
    literal,
    review_began,
    review_ended,
)
from vantage_orchestration.prefect.credentials import VantageCredentials
from vantage_orchestration.processing import TaskKey
from vantage_orchestration.processing.manifest import (
    DocumentEntry,
    Manifest,
    SourceEntry,
    TransactionManifest,
    UnfinishedEntry,
)
from vantage_orchestration.sandbox import SandboxServer
from vantage_orchestration.storage import Location


@pytest.mark.slow
def test_a_batch_with_a_review_is_shown_while_it_runs(
    prefect_server: Any, account: dict[str, Any], sandbox: SandboxServer, tmp_path: Path
) -> None:
    sandbox.control.set(
        processing_polls=0, rule_errors=[{"errorType": "Sum", "customMessage": "The sum is wrong"}]
    )
    make_invoice(tmp_path / "a.pdf", "INV-1")
    make_invoice(tmp_path / "b.pdf", "INV-2", extra_lines=["Manual review required"])
    client = VantageCredentials(**account).get_client()
    server, output = client.config.credentials.base_url, Location.of(tmp_path / "out")
    skill = sandbox.control.skill_id("Document type")
    settings = (skill, Options())
    waiting: list[str] = []
    others = len(artifacts(module.PROGRESS_KEY))  # Of tests that used this server before.

    def collect() -> Manifest:
        return finish(client, output, *settings, token="t.", in_review=waiting)

    @task
    def work() -> None:
        inputs = [Location.of(tmp_path / name) for name in ("a.pdf", "b.pdf")]
        job = begin(client, inputs, output, TaskKey("t"), *settings, token="t.")
        progress = BatchProgress(len(job.transaction_ids), clock=lambda: 0.0)
        waiting.extend(waited(client, job.transaction_ids, on_review="return").in_review)
        for _ in range(2):  # As a task that is tried again.
            review_began(waiting, server=server, skill_id=skill)
        DocumentsTable(key="Documents of ACME & Co.").finish(collect())
        progress.update(1)
        assert [each.data for each in artifacts(module.PROGRESS_KEY)[others:]] == [0.0]
        assert len(artifacts("abbyy-vantage-review-%")) == 1

        (link,) = artifacts(f"abbyy-vantage-review-{waiting[0]}")
        assert link.type == "link"
        assert link.data == f"[ABBYY Vantage]({sandbox.url})"
        assert waiting[0] in link.description
        assert link.task_run_id is not None
        assert link.flow_run_id is not None

        sandbox.control.finish_review(waiting[0])
        waited(client, waiting, timeout=30, review_timeout=30)
        for _ in range(2):
            review_ended(job.transaction_ids)
        assert artifacts("abbyy-vantage-review-%") == []
        DocumentsTable(key="Documents of ACME & Co.").finish(collect())
        progress.update(2)
        assert [each.data for each in artifacts(module.PROGRESS_KEY)[others:]] == [100.0]

    @flow
    def run() -> None:
        work()
        # Another review of the same transaction, such as that of another stage.
        review_began(waiting, server=server)

    run()
    first, second = (each for each in told_in_the_end(2, *waiting))
    assert first.id != second.id
    assert {first.event, second.event} == {"abbyy_vantage.transaction.review"}
    assert first.resource["abbyy_vantage.skill_id"] == skill

    before, after = (json.loads(each.data) for each in artifacts("documents-of-acme-co"))
    assert [(row["File"], row["Status"]) for row in before] == [
        ("`b.pdf`", "In review"),
        ("`a.pdf`", "Processed"),
    ]
    assert [(row["File"], row["Status"]) for row in after] == [
        ("`a.pdf`", "Processed"),
        ("`b.pdf`", "Processed"),
    ]
    for row in after:
        assert row["Class"] == "`Invoice`"
        assert row["Confidence"] > 50
        assert row["Broken rules"] == "`The sum is wrong`"
        assert row["Transaction"].strip("`") in {
            each["id"] for each in sandbox.control.transactions()
        }

    client.close()
    secrets = [*sandbox.control.issued_secrets(), account["password"], account["client_secret"]]
    database = prefect_server.database
    places = {path.name: path for path in database.parent.glob(f"{database.name}*")}
    assert find_leaks(secrets, places) == []
    assert find_leaks([waiting[0]], places)  # The search does find what is there.


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_a_large_table_is_cut_and_says_so() -> None:
    documents = tuple(DocumentEntry(str(n), None, (), ()) for n in range(1500))
    sources = tuple(SourceEntry(f"{n}.pdf", f"{n}.pdf") for n in range(1500))
    entry = TransactionManifest("t", "skill", "Processed", None, None, sources, documents)

    @flow
    def run() -> None:
        DocumentsTable().finish(Manifest("skill", None, (entry,)))

    run()
    (table,) = artifacts(module.DOCUMENTS_KEY)
    rows = json.loads(table.data)
    assert len(rows) == 1000
    # No row of it is longer for more files, and no column is empty.
    file = "`0.pdf` and 1499 more"
    assert rows[1] == {"File": file, "Document": 2, "Status": "Processed", "Transaction": "`t`"}
    assert table.description.endswith("The first 1000 rows; manifest.json has all 1500.")


HOSTILE = [
    "![x](https://evil.example.com/pixel.png)",
    "[click](javascript:alert(1))",
    "[click](data:text/html,<script>alert(1)</script>)",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<https://evil.example.com>",
    "https://evil.example.com/x",
    "www.evil.example.com",
    "evil.com",
    "mailto:a@evil.example.com a@evil.example.com",
    "a`b](https://evil.example.com) `![x](https://evil.example.com/p.png)",
    "`",
    "```",
    "``` `` `",
    "```html\n<b>x</b>\n```",
    "x\n\n# Heading\n\n[r]: https://evil.example.com\n\n[r]",
    "a | b | [x](https://evil.example.com) |",
    "| - | - |\n| [x](https://evil.example.com) | y |",
    "\\[x](https://evil.example.com) \\`[x](https://evil.example.com)`",
    "&lt;img src=x&gt; &#96;[x](https://evil.example.com)&#96;",
    "1. x",
    "- x",
    "> x",
    "# x",
    "***",
    "~~~",
    "    x",
    "\t[x](https://evil.example.com)",
    "invoice\u202efdp.exe",
    "a\u2028[x](https://evil.example.com)",
    "a\x1b[31mred\x00\x7f",
    "[x][y]\r\r[y]: https://evil.example.com",
    "x" * 100_000,
    "`" * 5000,
]


@pytest.mark.parametrize("preset", ["commonmark", "gfm-like"])
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_nothing_from_outside_is_markdown(preset: str, text: str) -> None:
    from markdown_it import MarkdownIt

    documents = (
        DocumentEntry(
            text,
            {"id": text, "name": text, "confidence": text, "is_confident": text},
            ({"type": text, "message": text}, {"type": text, "message": None}),
            (),
        ),
    )
    done = TransactionManifest(
        text, "s", text, None, None, (SourceEntry(text, text),) * 2, documents
    )
    unfinished = UnfinishedEntry(text, text, False, text, (SourceEntry(text, text),))
    rows = module.rows_of(Manifest("s", None, (done,), (unfinished,), (unfinished,)))
    cells = [str(cell) for row in rows for cell in row.values()]
    assert len(cells) > 15
    parser = MarkdownIt(preset)
    table = "\n".join(["| a | b |", "| - | - |", *(f"| {cell} | end |" for cell in cells)])
    texts = [*cells, *(f"Before {cell} behind" for cell in cells)]
    for markdown in (*texts, table) if preset == "gfm-like" else texts:
        tokens = parser.parse(markdown)
        inside = [token for each in tokens for token in each.children or ()]
        kinds = {token.type for token in inside}
        assert kinds <= {"text", "code_inline"}, markdown[:200]
        assert {each.type.rpartition("_")[0] or each.type for each in tokens} <= {
            "paragraph",
            "inline",
            "table",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
        }, markdown[:200]
        # And all of it is code, but for words of our own.
        for token in inside:
            if token.type == "text":
                assert "evil" not in token.content
                assert "alert" not in token.content
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e\u2028]", markdown)
    assert max(map(len, cells)) < 2500


def test_a_table_keeps_its_rows_whatever_is_in_them() -> None:
    from markdown_it import MarkdownIt

    for text in HOSTILE:
        html = MarkdownIt("gfm-like").render(f"| a | b |\n| - | - |\n| {literal(text)} | end |")
        assert html.count("<td") == 2, text
        assert "<td>end</td>" in html, text


def test_what_is_shown_is_what_was_there() -> None:
    from markdown_it import MarkdownIt

    for text in ("invoice 17_final.pdf", "a`b", "`a`", "`", "``x`", "<b>", "x & y", "1. [x](y)"):
        (token,) = MarkdownIt().parseInline(literal(text))[0].children or ()
        assert (token.type, token.content) == ("code_inline", text)
    assert literal("") == literal(" \n\u202e") == ""


def test_job_goes_on_if_nothing_can_be_shown(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # Not listening: a connection is refused.
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
        with (
            settings.temporary_settings({settings.PREFECT_API_URL: url}),
            caplog.at_level(logging.WARNING, "vantage_orchestration"),
        ):
            BatchProgress(3).update(3)
            DocumentsTable().finish(Manifest(None))
            review_began(["t"], server="https://vantage-eu.abbyy.com")
            review_ended(["t"])
    assert [record.getMessage() for record in caplog.records if record.name == module.__name__] == [
        "Prefect could not show the progress (ConnectError)",
        "Prefect could not show the table of documents (ConnectError)",
        "Prefect could not show the reviews (ConnectError)",
        "Prefect could not show the reviews (ConnectError)",
    ]


def test_progress_is_sent_now_and_then_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    sent: list[tuple[Any, ...]] = []
    monkeypatch.setattr(module, "_create", lambda *call: sent.append(call) or "id")
    monkeypatch.setattr(module, "_update", lambda *call: sent.append(call))
    progress = BatchProgress(1000, clock=lambda: now[0])
    for done in range(1, 1001):
        now[0] += 1 / 128
        progress.update(done)
    progress.update(1000)
    assert [call[-2] for call in sent] == [0.0, 25.6, 51.2, 76.8, 100.0]
    assert BatchProgress(0).percent(0) == 100.0
