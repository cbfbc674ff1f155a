# SPDX-License-Identifier: Apache-2.0
"""Every call of the client against the sandbox, both held against the OpenAPI description; then
what is repeated, what is not, and what an error says."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import pickle
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pendulum
import pytest
import requests
from core.conftest import ONCE, QUICK
from leaks import find_leaks
from openapi import ContractError, check_request
from pdfs import make_invoice

from vantage_orchestration import errors
from vantage_orchestration.client import VantageClient
from vantage_orchestration.errors import ConfigurationError, FileChanged, FileNotReady
from vantage_orchestration.retrying import RetryPolicy
from vantage_orchestration.secret import Secret
from vantage_orchestration.token import source
from vantage_orchestration.token.request import Grant
from vantage_orchestration.upload import MOST_FILES, SourceFile, stored_name

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def invoice(tmp_path):
    return make_invoice(tmp_path / "invoice 17.pdf", "INV-17")


@pytest.fixture
def skill(sandbox) -> str:
    return sandbox.control.skill_id("Invoice")


def started(client, skill, file) -> str:
    transaction = client.create_transaction(skill)
    client.add_files(transaction.id, [file])
    client.start_transaction(transaction.id)
    return transaction.id


def processed(client, sandbox, skill, file):
    sandbox.control.set(processing_polls=0)
    return client.get_transaction(started(client, skill, file))


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ------------------------------------------------------------------ calls


def test_skills(client, sandbox, skill, sent):
    skills = {found.name: found for found in client.list_skills()}
    assert skills["Invoice"].id == skill
    assert {found.type for found in skills.values()} == {
        "Document",
        "Process",
        "Classification",
        "Ocr",
    }
    invoice = client.get_skill(skill)
    assert "Invoice Number" in [field.name for field in invoice.fields]
    assert any(field.children for field in invoice.fields)
    classes = client.get_skill(skills["Document type"].id).classes
    assert classes
    assert all(name for _, name in classes)
    assert client.get_skill("workspace.default.processing").skills
    assert len(sent) == 5  # One login and four calls.


def test_a_document_from_creation_to_download(client, sandbox, skill, invoice, tmp_path, sent):
    sandbox.control.set(processing_polls=1)
    transaction = client.create_transaction(
        skill,
        registration_parameters={"OrderReference": "A-1001"},
        skill_parameters={"Supplier catalog": "Suppliers 2026"},
    )
    assert transaction.mobile_input_link is None
    source = SourceFile.of(
        invoice, registration_parameters={"Box": "7"}, auto_crop="No", auto_orientation="Yes"
    )
    client.add_files(transaction.id, [source])
    assert client.get_transaction(transaction.id).status == "New"
    document = client.list_documents(transaction.id)[0]
    assert client.get_document(transaction.id, document.id) == document
    copy = tmp_path / "copy.pdf"
    client.download_source_file(transaction.id, document.id, document.source_files[0].id, copy)
    assert digest(copy) == digest(invoice)
    client.start_transaction(transaction.id)
    assert client.get_transaction(transaction.id).status == "Processing"
    done = client.get_transaction(transaction.id)
    assert (done.status, done.ended) == ("Processed", True)
    assert [file.name for file in done.source_files] == ["invoice 17.pdf"]
    files = {file.type: file for file in done.documents[0].result_files}
    assert set(files) == {"FieldsJson", "Json"}
    target = tmp_path / "fields.json"
    size = client.download_result(transaction.id, files["FieldsJson"].id, target)
    assert size == target.stat().st_size
    assert target.read_bytes() == client.read_result(transaction.id, files["FieldsJson"].id)
    assert digest(invoice).encode() in target.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []
    assert client.get_registration_parameters(transaction.id)["OrderReference"] == "A-1001"
    assert client.get_skill_parameters(transaction.id)[0].value == "Suppliers 2026"
    client.delete_transaction(transaction.id)
    client.delete_transaction(transaction.id)
    assert len([call for call in sent if call.endswith("/start")]) == 1


def test_launch(client, sandbox, skill, invoice, sent):
    found = client.launch_transaction(
        skill, [invoice], registration_parameters={"k": "v"}, skill_parameters={"s": "t"}
    )
    seen = sandbox.control.transaction(found)
    assert (seen["started"], seen["files"][0]["sha256"]) == (1, digest(invoice))
    assert seen["registration_parameters"]["k"] == "v"


def test_documents_group_files(client, sandbox, invoice, tmp_path, sent):
    transaction = client.create_transaction("workspace.default.processing").id
    first = client.create_document(transaction, index=0)
    second = client.create_document(transaction)
    pages = [make_invoice(tmp_path / f"page-{n}.pdf", f"INV-{n}") for n in (1, 2)]
    client.add_document_files(transaction, first, pages)
    client.add_document_files(
        transaction, second, [SourceFile.of(invoice, registration_parameters={"a": "b"})]
    )
    client.delete_document(transaction, second)
    client.delete_document(transaction, second)
    documents = client.list_documents(transaction)
    assert [[f.name for f in d.source_files] for d in documents] == [["page-1.pdf", "page-2.pdf"]]


def test_mobile_input_link(client, skill, sent):
    made = client.create_transaction(skill, mobile_input_link=True)
    assert made.mobile_input_link.reveal().startswith("http")
    link = client.create_mobile_input_link(made.id)
    assert link.reveal().startswith("http")
    leaks = find_leaks(
        [link.reveal(), made.mobile_input_link.reveal()], {"repr": repr([made, link])}
    )
    assert leaks == []


def test_lists_and_their_filters(client, sandbox, skill, invoice, sent):
    before = pendulum.now("UTC").subtract(minutes=5)
    sandbox.control.set(processing_polls=50)
    running = [started(client, skill, invoice) for _ in range(3)]
    done = client.launch_transaction("Receipt", [invoice], registration_parameters={"Ref": "x 1"})
    sandbox.control.set(processing_polls=0)
    failed = client.launch_transaction(skill, [SourceFile.of(b"no pdf", name="x.pdf")])
    assert client.get_transaction(done).status == "Processed"
    assert client.get_transaction(failed).status == "Failed"
    sandbox.control.set(processing_polls=50)
    assert {item.id for item in client.iter_active_transactions(skill_id=skill)} == set(running)
    page = client.list_active_transactions(limit=1, offset=1, start_date=before)
    assert (len(page.items), page.total) == (1, 3)
    assert page.items[0].stage == "Automatic"
    assert page.items[0].created_at >= before
    ended = {item.id: item for item in client.iter_completed_transactions()}
    assert set(ended) == {done, failed}
    assert ended[done].page_count == 1
    only = client.list_completed_transactions(
        status="Processed", parameters={"Ref": "x 1"}, end_date=pendulum.now("UTC").add(days=1)
    )
    assert [item.id for item in only.items] == [done]
    assert client.list_completed_transactions(status="Canceled").total == 0


def test_paging_reads_all_pages(client, sandbox, skill, invoice, monkeypatch):
    sandbox.control.set(processing_polls=10**6)
    made = {client.launch_transaction(skill, [invoice]) for _ in range(7)}
    monkeypatch.setattr("vantage_orchestration.client.LONGEST_PAGE", 2)
    assert {item.id for item in client.iter_active_transactions()} == made


@pytest.mark.parametrize("where", ["open", "read"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), TimeoutError("of a store")])
def test_a_file_that_can_not_be_read_is_named_and_read_again(client, sandbox, where, error):
    tries: list[int] = []

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if len(tries) < failures:
                raise error
            return super().read(size)

    def opened() -> io.BytesIO:
        tries.append(1)
        if where == "open" and len(tries) < failures:
            raise error
        return Failing(b"%PDF-1.7")

    transaction = client.create_transaction(sandbox.control.skill_id("Invoice"))
    failures = 100
    with pytest.raises(
        FileNotReady, match=r"'a\.pdf' can't be read: (Input/output e|TimeoutE)rror"
    ):
        client.add_files(transaction.id, [SourceFile("a.pdf", 8, opened)])
    assert len(tries) == QUICK.attempts
    failures = len(tries) + 2
    assert client.add_files(transaction.id, [SourceFile("a.pdf", 8, opened)])
    (file,) = client.get_transaction(transaction.id).source_files
    assert file.name == "a.pdf"


@pytest.mark.parametrize("size", [7, 9, None])
def test_a_file_that_has_changed_is_left_to_the_next_try_at_once(client, sandbox, size):
    tries = []

    def opened() -> io.BytesIO:
        tries.append(1)
        if size is None:
            raise FileNotFoundError
        return io.BytesIO(b"%PDF-1.7")

    transaction = client.create_transaction(sandbox.control.skill_id("Invoice"))
    with pytest.raises(FileChanged, match="he next try") as caught:
        client.add_files(transaction.id, [SourceFile("a.pdf", size or 8, opened)])
    assert caught.value.retryable
    assert len(tries) == 1


def test_a_list_that_becomes_shorter_while_it_is_read_loses_nothing(client, monkeypatch):
    from vantage_orchestration.models import ListedTransaction, Page

    monkeypatch.setattr("vantage_orchestration.client.LONGEST_PAGE", 2)
    ids = [f"t{n}" for n in range(6)]

    def list_page(*, limit, offset):
        items = tuple(
            ListedTransaction.read({"transactionId": x}) for x in ids[offset : offset + limit]
        )
        page = Page(items, len(ids))
        if offset == 0 and len(ids) == 6:
            del ids[0:2]  # Two end between the pages, and the rest moves up.
        return page

    monkeypatch.setattr(client, "list_active_transactions", list_page)
    assert {item.id for item in client.iter_active_transactions()} >= {"t2", "t3", "t4", "t5"}


def test_the_checker_of_requests_rejects_a_wrong_one(sandbox):
    # The positive control of every test that uses `sent`.
    with pytest.raises(ContractError):
        check_request(
            "POST",
            f"{sandbox.url}/api/publicapi/v1/transactions",
            {"Content-Type": "application/json", "Authorization": "Bearer abc"},
            b'{"skill": "x"}',
        )


# ------------------------------------------------------ refused before sending


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: c.create_transaction(""), "skill_id is empty"),
        (lambda c: c.get_transaction(" "), "transaction_id is empty"),
        (lambda c: c.get_transaction(".."), "not a valid transaction_id"),
        (lambda c: c.create_transaction("s", registration_parameters={"k": ""}), "empty"),
        (lambda c: c.create_transaction("s", registration_parameters={"k": 7}), "not a string"),
        (lambda c: c.create_transaction("s", registration_parameters={"k" * 129: "v"}), "129"),
        (lambda c: c.create_transaction("s", registration_parameters={"k": "v" * 257}), "257"),
        (
            lambda c: c.create_transaction(
                "s", registration_parameters={str(n): "v" for n in range(11)}
            ),
            "11 parameters",
        ),
        (
            lambda c: c.create_transaction("s", skill_parameters={str(n): "v" for n in range(11)}),
            "11 parameters",
        ),
        (lambda c: c.add_files("t", []), "0 files"),
        (lambda c: c.add_files("t", ["/nowhere/x.pdf"]), "no file"),
        (lambda c: c.add_files("t", [SourceFile.of(b"", name="x.pdf")]), "empty"),
        (lambda c: c.add_files("t", [b"bytes without a name"]), "no valid name"),
        (lambda c: c.add_files("t", [SourceFile.of(b"x", name='a".pdf')]), "no valid name"),
        (lambda c: c.add_files("t", [SourceFile.of(b"x", name="a\udcff.pdf")]), "no valid name"),
        (lambda c: c.create_transaction("s", skill_parameters={"k": "\udcff"}), "not Unicode"),
        (
            lambda c: c.launch_transaction(
                "s", [SourceFile.of(b"x", name=n) for n in ("a+b.pdf", "a,b.pdf")]
            ),
            "same name",
        ),
        (
            lambda c: c.launch_transaction(
                "s", [SourceFile.of(b"x", name=f"{n}.pdf") for n in range(MOST_FILES + 1)]
            ),
            "1001",
        ),
        (
            lambda c: c.launch_transaction("s", [SourceFile("big.pdf", 2 * 1024**3 + 1, open)]),
            "2147483649",
        ),
        (lambda c: c.list_active_transactions(limit=0), "1 to 1000"),
        (lambda c: c.list_completed_transactions(limit=1001), "1 to 1000"),
        (lambda c: c.list_active_transactions(colour="red"), "not a filter"),
        (lambda c: c.list_active_transactions(start_date=pendulum.naive(2026, 1, 1)), "time zone"),
        (
            lambda c: c.add_document_files(
                "t", "d", [SourceFile.of(b"x", name="a.pdf", auto_crop="Yes")]
            ),
            "Image processing",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(client, sandbox, call, says):
    with pytest.raises(ConfigurationError, match=says):
        call(client)
    assert sandbox.control.journal() == []


def test_names_are_replaced_as_the_service_does(client, sandbox, skill):
    name = "a:b/c?d#e[f]g@h!i$j&k'l(m)n*o+p,q;r=s\\t ü.pdf"
    transaction = client.create_transaction(skill).id
    client.add_files(transaction, [SourceFile.of(b"x", name=name)])
    assert sandbox.control.transaction(transaction)["files"][0]["name"] == stored_name(name)


# ------------------------------------------------------------- tokens and 401


def logins(sandbox) -> int:
    return sandbox.control.count(path_regex="connect/token")


def test_a_rejected_token_is_renewed_once_also_in_the_middle_of_an_upload(
    client, sandbox, skill, invoice
):
    transaction = client.create_transaction(skill).id
    sandbox.control.revoke_tokens()
    client.add_files(transaction, [invoice])
    assert sandbox.control.transaction(transaction)["files"][0]["sha256"] == digest(invoice)
    sandbox.control.revoke_tokens()
    client.start_transaction(transaction)
    assert sandbox.control.transaction(transaction)["started"] == 1
    assert logins(sandbox) == 3


def test_a_server_that_rejects_every_token_is_asked_twice(sandbox, configure):
    with VantageClient(configure(), retries=ONCE) as client:
        sandbox.control.add_fault(operation="listSkills", status=401, times=0)
        with pytest.raises(errors.Unauthorized, match="just issued"):
            client.list_skills()
    assert sandbox.control.count(path_regex="/skills") == 2
    assert logins(sandbox) == 2


def test_a_login_that_failed_is_not_tried_again_by_each_request(sandbox, configure):
    policy = RetryPolicy(attempts=4, first_wait=1, max_wait=1, budget=3600, sleep=lambda _: None)
    # That is longer than a login waits for its next try, but not longer than a request does.
    sandbox.control.add_fault(operation="requestToken", status=503, retry_after=100, times=0)
    client = VantageClient(configure(), retries=policy)
    with client, pytest.raises(errors.AuthUnavailable):
        client.list_skills()
    assert logins(sandbox) == 1


def test_a_403_renews_nothing(client, sandbox):
    sandbox.control.add_fault(operation="listSkills", status=403)
    with pytest.raises(errors.Forbidden, match="roles"):
        client.list_skills()
    assert (sandbox.control.count(path_regex="/skills"), logins(sandbox)) == (1, 1)


def test_a_revocation_among_64_threads_makes_one_login(client, sandbox):
    client.list_skills()
    sandbox.control.revoke_tokens()
    barrier = threading.Barrier(64)

    def ask(_):
        barrier.wait(30)
        return len(client.list_skills())

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(ask, range(64))) == {5}
    assert logins(sandbox) == 2


def test_after_a_401_the_credential_is_read_again(sandbox, configure):
    stored = [configure()]
    reads = []

    def load():
        reads.append(1)
        return stored[0]

    with VantageClient(load, retries=QUICK) as client:
        client.list_skills()
        client.list_skills()
        assert len(reads) == 1
        stored[0] = configure(grant_type="client_credentials", client_id="service-client")
        sandbox.control.revoke_tokens()
        client.list_skills()
        assert len(reads) == 2
        assert client.config.credentials.client_id == "service-client"
    grants = [entry["grant"] for entry in sandbox.control.journal(path_regex="connect/token")]
    assert grants == ["password", "client_credentials"]


def test_after_a_refused_login_the_credential_is_read_again(sandbox, configure):
    # A token ends in the middle of a long task, whose password was changed and stored meanwhile.
    right = configure()
    stored = [configure(password="an old password")]
    with VantageClient(lambda: stored[0], retries=QUICK) as client:
        with pytest.raises(errors.CredentialsRejected):
            client.list_skills()
        with pytest.raises(errors.CredentialsRejected):
            client.list_skills()
        assert logins(sandbox) == 1
        stored[0] = right
        assert client.list_skills()
        assert logins(sandbox) == 2
    stored[0] = configure(password="an old password")
    with VantageClient(lambda: stored[0], retries=QUICK) as client:
        stored[0] = right
        assert asyncio.run(client.aget_token()).is_same(client.get_token())
    assert logins(sandbox) == 2


@pytest.mark.parametrize(
    ("change", "named"),
    [({"base_url": "https://vantage.example.com"}, "server"), ({"tenant_id": UNKNOWN}, "tenant")],
)
def test_a_client_does_not_follow_its_credential_to_another_place(
    sandbox, configure, change, named
):
    stored = [configure(tenant_id=sandbox.credentials["tenant_id"])]
    with VantageClient(lambda: stored[0], retries=QUICK) as client:
        client.list_skills()
        right, stored[0] = stored[0], configure(**change)
        sandbox.control.revoke_tokens()
        with pytest.raises(ConfigurationError, match=f"changed to another {named}"):
            client.list_skills()
        stored[0] = right
        assert client.list_skills()
    assert logins(sandbox) == 2


def test_a_client_follows_a_tenant_id_that_was_added(sandbox, configure):
    stored = [configure()]
    with VantageClient(lambda: stored[0], retries=QUICK) as client:
        client.list_skills()
        stored[0] = configure(tenant_id=sandbox.credentials["tenant_id"])
        sandbox.control.revoke_tokens()
        assert client.list_skills()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_uses_connections_of_its_own(client, sandbox):
    # On a connection of its parent it could get the reply to another child's request.
    def ask() -> int:
        response = client.session.get("/skills", stream=True)
        port = response.raw.connection.sock.getsockname()[1]
        assert response.json()  # Reading it all keeps the connection open.
        return port

    first = ask()
    assert ask() == first
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(60)
            os.write(writing, str(ask()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as stream:
        other = stream.read()
    os.waitpid(child, 0)
    assert other
    assert int(other) != first
    assert ask() == first


def test_the_session_is_authorised_for_its_server_only(client, sandbox):
    assert client.session.get("/skills").status_code == 200
    assert client.session.get(f"{client.config.credentials.api_url}/skills").status_code == 200
    for address in ("http://127.0.0.1:9/skills", "https://vantage.example.com/x"):
        with pytest.raises(ConfigurationError, match="goes to another server"):
            client.session.get(address)


@pytest.mark.parametrize(
    "base_url",
    [
        "https://bücher.example",
        "https://xn--bcher-kva.example/prefix",
        "https://STRASSE.example.:8443",
        "https://vantage%2eexample.com",
        "https://vantage.example.com:0",
        "https://[::1]:8443",
    ],
)
def test_the_session_is_authorised_for_its_server_however_it_is_written(
    configure, monkeypatch, base_url
):
    grant = Grant(Secret("made-up-token-" + "x" * 20), 3600.0)
    monkeypatch.setattr(source, "network_log_in", lambda config: grant)
    with VantageClient(configure(base_url=base_url)) as client:
        request = requests.Request("GET", f"{client.config.credentials.api_url}/skills").prepare()
        assert client.session.auth(request).headers["Authorization"].startswith("Bearer made-up")
        for other in ("https://vantage.example.org/x", "http://bücher.example/x"):
            request = requests.Request("GET", other).prepare()
            with pytest.raises(ConfigurationError, match="goes to another server"):
                client.session.auth(request)


def test_the_session_follows_no_redirect_and_keeps_no_cookie(client, sandbox):
    sandbox.control.add_fault(
        operation="listSkills",
        status=302,
        headers={"Location": "http://127.0.0.1:9/", "Set-Cookie": "a=b"},
    )
    assert client.session.get("/skills").status_code == 302
    assert list(client.session.cookies) == []


def test_new_tokens_are_told_before_their_first_use(sandbox, configure):
    told = []
    with VantageClient(configure(), on_token=told.append, retries=QUICK) as client:
        client.list_skills()
        client.list_skills()
        sandbox.control.revoke_tokens()
        client.list_skills()
    assert told == sandbox.control.issued_secrets()
    assert len(told) == 2


def test_the_token_before_the_present_one_is_still_masked(client, sandbox):
    for _ in range(3):
        client.list_skills()
        sandbox.control.revoke_tokens()
    client.list_skills()
    # The reply to an earlier request may come after the renewal. Written like this, a token is no
    # longer known by its form.
    *_, before, _ = [each.replace(".", "%2E") for each in sandbox.control.issued_secrets()]
    detail = {"detail": f"No {before} here"}
    sandbox.control.add_fault(operation="listSkills", status=400, json=detail)
    with pytest.raises(errors.BadRequest, match=r"No \*+ here"):
        client.list_skills()


# ----------------------------------------------------------- what is repeated


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503},
        {"status": 404},  # This list always exists.
        {"status": 429, "retry_after": 0},
        {"drop": True},
        {"drop": True, "when": "after"},
    ],
)
def test_reading_is_repeated(client, sandbox, fault):
    sandbox.control.add_fault(operation="listSkills", times=3, **fault)
    assert client.list_skills()
    assert sandbox.control.count(path_regex="/skills") == 4


@pytest.mark.parametrize("status", [400, 403, 409])
def test_what_can_not_help_is_not_repeated(client, sandbox, status):
    sandbox.control.add_fault(operation="listSkills", times=0, status=status)
    with pytest.raises(errors.ApiError) as caught:
        client.list_skills()
    assert not caught.value.retryable
    assert sandbox.control.count(path_regex="/skills") == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fault", [{"drop": True}, {"status": 503}])
def test_a_doubtful_upload_arrives_once(client, sandbox, skill, invoice, when, fault):
    transaction = client.create_transaction(skill).id
    sandbox.control.add_fault(operation="addFiles", when=when, **fault)
    client.add_files(transaction, [invoice])
    files = sandbox.control.transaction(transaction)["files"]
    assert [file["sha256"] for file in files] == [digest(invoice)]


def test_a_name_that_is_taken_is_a_conflict_and_not_taken_for_success(
    client, sandbox, skill, invoice
):
    transaction = client.create_transaction(skill).id
    client.add_files(transaction, [invoice])
    with pytest.raises(errors.Conflict):
        client.add_files(transaction, [SourceFile.of(b"other", name=invoice.name)])


@pytest.mark.parametrize(
    "read", ["list_skills", "list_active_transactions", "list_completed_transactions"]
)
def test_a_404_to_what_always_exists_is_no_answer_of_the_service(client, sandbox, read):
    sandbox.control.add_fault(
        path_regex="/(skills|active|completed)$", status=404, json={"message": "no route"}, times=2
    )
    getattr(client, read)()
    sandbox.control.add_fault(path_regex="/(skills|active|completed)$", status=404, times=0)
    with pytest.raises(errors.ServiceUnavailable, match="always exists"):
        getattr(client, read)()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fault", [{"drop": True}, {"status": 503}, {"status": 500}])
def test_a_doubtful_start_starts_once(client, sandbox, skill, invoice, when, fault):
    transaction = client.create_transaction(skill).id
    client.add_files(transaction, [invoice])
    sandbox.control.add_fault(operation="startTransaction", when=when, **fault)
    client.start_transaction(transaction)
    assert sandbox.control.transaction(transaction)["started"] == 1
    posts = sandbox.control.count(method="POST", path_regex="/start$")
    assert posts == (2 if when == "before" else 1)


def test_a_doubtful_start_is_looked_at_even_if_looking_fails_at_first(
    client, sandbox, skill, invoice
):
    transaction = client.create_transaction(skill).id
    client.add_files(transaction, [invoice])
    sandbox.control.add_fault(operation="startTransaction", when="after", drop=True)
    sandbox.control.add_fault(operation="getTransaction", times=7, drop=True)
    client.start_transaction(transaction)
    assert sandbox.control.count(method="POST", path_regex="/start$") == 1


@pytest.mark.parametrize(
    ("fault", "launches"),
    [
        ({"status": 429, "retry_after": 0}, 2),
        ({"status": 401}, 2),
        ({"status": 503}, 1),
        ({"drop": True}, 1),
        ({"drop": True, "when": "after"}, 1),
        ({"status": 500, "when": "after"}, 1),
        ({"status": 206, "when": "after", "body": "{}"}, 1),
        ({"status": 408, "when": "after"}, 1),
    ],
)
def test_a_launch_is_repeated_only_where_it_can_not_have_arrived(
    client, sandbox, skill, invoice, fault, launches
):
    sandbox.control.add_fault(operation="launchTransaction", **fault)
    if launches == 2:
        client.launch_transaction(skill, [invoice])
        assert len(sandbox.control.transactions()) == 1
    else:
        with pytest.raises(errors.ApiError) as caught:
            client.launch_transaction(skill, [invoice])
        assert caught.value.doubtful
        assert len(sandbox.control.transactions()) == (1 if fault.get("when") == "after" else 0)
    assert sandbox.control.count(path_regex="/launch") == launches


def test_a_launch_that_found_nobody_is_not_doubtful(client, sandbox, skill, invoice):
    client.get_token()
    sandbox.stop()
    with pytest.raises(errors.ConnectionFailed) as caught:
        client.launch_transaction(skill, [invoice])
    assert not caught.value.doubtful


def test_a_create_that_is_repeated_leaves_an_unstarted_transaction_at_worst(client, sandbox, skill):
    sandbox.control.add_fault(operation="createTransaction", when="after", drop=True)
    kept = client.create_transaction(skill).id
    made = sandbox.control.transactions()
    assert kept in [item["id"] for item in made]
    assert {item["status"] for item in made} == {"New"}


@pytest.mark.parametrize("fault", [{"truncate": 50}, {"drop": True, "when": "after"}])
def test_a_download_that_breaks_off_is_repeated(client, sandbox, skill, invoice, tmp_path, fault):
    done = processed(client, sandbox, skill, invoice)
    file = done.documents[0].result_files[0]
    whole = client.read_result(done.id, file.id)
    sandbox.control.add_fault(operation="downloadResultFile", times=2, **fault)
    assert client.read_result(done.id, file.id) == whole
    sandbox.control.add_fault(operation="downloadResultFile", times=2, **fault)
    target = tmp_path / "result.json"
    assert client.download_result(done.id, file.id, target) == len(whole)
    assert target.read_bytes() == whole


def test_a_download_that_never_completes_leaves_the_old_file(
    client, sandbox, skill, invoice, tmp_path
):
    done = processed(client, sandbox, skill, invoice)
    target = tmp_path / "result.json"
    target.write_text("old")
    sandbox.control.add_fault(operation="downloadResultFile", times=0, truncate=50)
    with pytest.raises(errors.ConnectionFailed, match="broke off"):
        client.download_result(done.id, done.documents[0].result_files[0].id, target)
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["invoice 17.pdf", "result.json"]


def test_a_slow_download_is_read_to_its_end(client, sandbox, skill, invoice):
    done = processed(client, sandbox, skill, invoice)
    file = done.documents[0].result_files[0]
    whole = client.read_result(done.id, file.id)
    sandbox.control.add_fault(operation="downloadResultFile", chunk_size=100, chunk_delay=0.005)
    assert client.read_result(done.id, file.id) == whole


def test_retry_after_is_kept_in_both_forms(sandbox, configure):
    slept: list[float] = []
    policy = RetryPolicy(attempts=4, first_wait=1, max_wait=1, budget=3600, sleep=slept.append)
    sandbox.control.add_fault(operation="listSkills", status=429, retry_after=17)
    sandbox.control.add_fault(operation="listSkills", status=503, retry_after_date=600)
    sandbox.control.add_fault(operation="listSkills", status=429, headers={"Retry-After": "soon"})
    with VantageClient(configure(), retries=policy) as client:
        assert client.list_skills()
    assert slept[0] == 17
    assert 590 <= slept[1] <= 600
    assert 0 <= slept[2] <= 1


@pytest.mark.parametrize("fault", [{"retry_after": 0}, {"retry_after_date": -120}])
def test_a_retry_after_of_nothing_does_not_use_up_all_tries_at_once(sandbox, configure, fault):
    """Some servers always ask for 0 seconds, or their clock is behind ours."""
    slept: list[float] = []
    policy = RetryPolicy(attempts=4, first_wait=5, max_wait=60, budget=3600, sleep=slept.append)
    sandbox.control.add_fault(operation="listSkills", times=3, status=503, **fault)
    with VantageClient(configure(), retries=policy) as client:
        assert client.list_skills()
    assert len(slept) == 3
    assert all(slept)


def test_a_retry_after_beyond_the_budget_is_an_error_at_once(sandbox, configure):
    slept: list[float] = []
    policy = RetryPolicy(attempts=4, first_wait=1, max_wait=1, budget=60, sleep=slept.append)
    sandbox.control.add_fault(operation="listSkills", status=429, retry_after=3600)
    with (
        VantageClient(configure(), retries=policy) as client,
        pytest.raises(errors.RateLimited) as caught,
    ):
        client.list_skills()
    assert (caught.value.retry_after, slept) == (3600, [])


# -------------------------------------------------------------- what errors say


def test_an_error_says_what_where_and_what_to_do(client, sandbox):
    with pytest.raises(errors.NotFound) as caught:
        client.get_transaction(UNKNOWN)
    text = str(caught.value)
    assert f"GET /api/publicapi/v1/transactions/{UNKNOWN}" in text
    assert "status 404" in text
    assert f"transaction {UNKNOWN}" in text
    assert "14 days" in text
    assert (caught.value.method, caught.value.status) == ("GET", 404)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (errors.NotFound, text)


def test_another_tenants_transaction_is_forbidden(client, sandbox, configure, skill):
    seeded = sandbox.control.credentials()
    password = sandbox.credentials["password"]
    assert seeded["users"][1]["username"] == "second@example.com"
    other = configure(username="second@example.com", password=password, client_id="second-client")
    transaction = client.create_transaction(skill).id
    with VantageClient(other, retries=QUICK) as stranger, pytest.raises(errors.Forbidden):
        stranger.get_transaction(transaction)


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ({"status": 413}, errors.PayloadTooLarge, "larger"),
        ({"status": 418}, errors.BadRequest, "418"),
        (
            {"status": 302, "headers": {"Location": "https://x.example/?token=abcdefgh"}},
            errors.ProtocolError,
            "Redirects",
        ),
        ({"garbage": True}, errors.ProtocolError, "fit the contract"),
        ({"status": 200, "body": "<html>Sign in here</html>"}, errors.ProtocolError, "proxy"),
        ({"status": 200, "json": {"not": "a list"}}, errors.ProtocolError, "array"),
        ({"status": 200, "json": [{"name": "no id"}]}, errors.ProtocolError, "id is missing"),
        (
            {
                "status": 400,
                "json": {
                    "title": "Bad",
                    "detail": "see Bearer abcdefgh12345678",
                    "errors": {"SkillId": ["is required"]},
                },
            },
            errors.BadRequest,
            "SkillId: is required",
        ),
    ],
)
def test_odd_replies_become_errors_that_quote_nothing_secret(client, sandbox, fault, kind, says):
    sandbox.control.add_fault(operation="listSkills", times=0, **fault)
    with pytest.raises(kind, match=says) as caught:
        client.list_skills()
    for secret in ("abcdefgh", "Sign in here"):
        assert secret not in str(caught.value)


def test_html_of_a_maintenance_page_is_not_shown(client, sandbox):
    sandbox.control.add_fault(operation="listSkills", times=0, status=503)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        client.list_skills()
    assert "<" not in str(caught.value)


def test_unknown_members_words_and_odd_spellings_are_tolerated(client, sandbox, skill, invoice):
    done = processed(client, sandbox, skill, invoice)
    odd = {"status": "Cancelled", "novelty": 1, "documents": None, "sourceFiles": None}
    sandbox.control.add_fault(operation="getTransaction", merge_json=odd)
    assert client.get_transaction(done.id).status == "Canceled"
    sandbox.control.add_fault(operation="getTransaction", merge_json={"status": "Pondering"})
    assert not client.get_transaction(done.id).ended
    text_class = {
        "classification": {"resultClass": "Invoice"},
        "id": "d",
        "businessRulesErrors": [{"errorType": "CustomScript"}],
        "resultFiles": None,
    }
    sandbox.control.add_fault(operation="getTransaction", merge_json={"documents": [text_class]})
    document = client.get_transaction(done.id).documents[0]
    assert document.classification.class_name == "Invoice"
    assert document.business_rule_errors[0].error_type == "CustomScript"
    sandbox.control.add_fault(
        operation="createTransaction", merge_json={"id": "other"}, remove_json=["transactionId"]
    )
    assert client.create_transaction(skill).id == "other"


def test_failures_leak_nothing_not_even_with_local_variables(client, sandbox, configure):
    config = configure()
    client.list_skills()

    def provoke(**fault):
        sandbox.control.add_fault(operation="listSkills", times=5, **fault)
        try:
            client.list_skills()
        except errors.VantageError as error:
            return error
        raise AssertionError

    caught = [provoke(status=400), provoke(drop=True), provoke(garbage=True), provoke(status=302)]
    secrets = [
        config.credentials.password.reveal(),
        config.credentials.client_secret.reveal(),
        *sandbox.control.issued_secrets(),
    ]
    assert len(secrets) == 3
    places = {f"error {number}": error for number, error in enumerate(caught)}
    places["client"] = client
    leaks = find_leaks(secrets, places)
    assert leaks == []
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(client.session)


def test_requests_own_errors_do_not_hang_on_ours(client, sandbox):
    sandbox.control.add_fault(operation="listSkills", times=0, drop=True)
    with pytest.raises(errors.ConnectionFailed) as caught:
        client.list_skills()
    seen, todo = [], [caught.value]
    while todo:
        error = todo.pop()
        seen.append(error)
        todo += [inner for inner in (error.__cause__, error.__context__) if inner is not None]
    assert not [error for error in seen if isinstance(error, requests.RequestException)]
