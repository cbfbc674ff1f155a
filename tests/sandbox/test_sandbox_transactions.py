# SPDX-License-Identifier: Apache-2.0
"""Skills, transactions, documents: states, limits, tenants, tolerance."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import pytest
from openapi import check_value

NOWHERE = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
PROCESS = "Default process"


def detail(reply: Any) -> str:
    """The texts of a refusal."""
    body = reply.json()
    assert body["status"] == reply.status_code
    return json.dumps([body.get("detail"), body.get("errors")])


# ---- skills ----


def test_skill_list(api: Any) -> None:
    skills = {s["name"]: s for s in api.get("/skills", strict=True).json()}
    assert {s["type"] for s in skills.values()} == {"Document", "Process", "Classification", "Ocr"}
    assert skills["Receipt"]["id"] == "Receipt"
    assert skills["Default process"]["id"] == "workspace.default.processing"
    assert uuid.UUID(skills["Invoice"]["id"])
    assert "Draft invoice" not in skills
    assert "Payroll" not in skills


def test_every_listed_skill_can_be_read(api: Any) -> None:
    for skill in api.get("/skills").json():
        found = api.get(f"/skills/{skill['id']}", strict=True).json()
        assert found["id"] == skill["id"]
        member = {"Document": "fields", "Classification": "classes", "Process": "skills"}
        if skill["type"] in member:
            assert found[member[skill["type"]]]


@pytest.mark.parametrize(("name", "code"), [("Draft", 404), ("nothing", 404), ("Payroll", 403)])
def test_skills_that_can_not_be_used(api: Any, name: str, code: int, invoice: bytes) -> None:
    assert api.get(f"/skills/{name}").status_code == code
    assert api.post("/transactions", json={"skillId": name}).status_code == code
    reply = api.upload("/transactions/launch", [("a.pdf", invoice)], params={"skillId": name})
    assert reply.status_code == code
    assert api.control.transactions() == []


# ---- life of a transaction ----


def test_create_upload_start_read(api: Any, invoice: bytes) -> None:
    key = api.create(registrationParameters=[{"key": "Order", "value": "A-1"}])
    assert api.read(key)["status"] == "New"
    reply = api.upload(f"/transactions/{key}/files", [("a.pdf", invoice)], {}, strict=True)
    assert (reply.status_code, reply.content) == (200, b"")
    found = api.read(key)
    assert [file["name"] for file in found["sourceFiles"]] == ["a.pdf"]
    assert found["sourceFiles"][0]["id"].startswith(".blob.")
    reply = api.post(f"/transactions/{key}/start", strict=True)
    assert (reply.status_code, reply.content) == (200, b"")
    states = [api.read(key)["status"] for _ in range(4)]
    assert states == ["Processing", "Processing", "Processed", "Processed"]
    document = api.read(key)["documents"][0]
    assert {file["type"] for file in document["resultFiles"]} == {"Json", "FieldsJson"}
    assert api.control.transaction(key)["started"] == 1


def test_launch_starts_at_once(api: Any, invoice: bytes) -> None:
    key = api.launch([("a.pdf", invoice)], model={}, strict=True)
    found = api.read(key)
    assert found["status"] == "Processing"
    assert found["documents"] == []


@pytest.mark.parametrize("polls", [0, 1, 5])
def test_number_of_polls(make_api: Any, polls: int, invoice: bytes) -> None:
    api = make_api(processing_polls=polls)
    key = api.launch([("a.pdf", invoice)])
    states = [api.read(key)["status"] for _ in range(polls + 1)]
    assert states == ["Processing"] * polls + ["Processed"]


def test_processing_time(make_api: Any, invoice: bytes) -> None:
    api = make_api(processing_polls=0, processing_seconds=100)
    key = api.launch([("a.pdf", invoice)])
    assert [api.read(key)["status"] for _ in range(5)] == ["Processing"] * 5
    api.control.advance(101)
    assert api.read(key)["status"] == "Processed"


@pytest.mark.parametrize(("outcome", "listed"), [("Failed", "Failed"), ("Canceled", "Cancelled")])
def test_other_outcomes(api: Any, outcome: str, listed: str, invoice: bytes) -> None:
    api.control.set(outcome=outcome, outcome_error="No more paper.")
    key = api.launch([("a.pdf", invoice)])
    found = api.finish(key)
    assert found["status"] == outcome
    assert found["error"] == ("No more paper." if outcome == "Failed" else None)
    assert not found["documents"]
    items = api.get("/transactions/completed?Limit=10").json()["items"]
    assert [item["status"] for item in items] == [listed]
    assert items[0]["pageCount"] == 1, "pages are charged even if it fails"


def test_outcome_by_registration_parameter(api: Any, invoice: bytes) -> None:
    steer = [{"key": "SandboxOutcome", "value": "Failed"}]
    failed = api.launch([("a.pdf", invoice)], model={"registrationParameters": steer})
    good = api.launch([("a.pdf", invoice)])
    assert api.finish(failed)["status"] == "Failed"
    assert api.finish(good)["status"] == "Processed"


def test_start_only_once_and_only_with_files(api: Any, invoice: bytes) -> None:
    key = api.create()
    assert "no files" in detail(api.post(f"/transactions/{key}/start"))
    api.upload(f"/transactions/{key}/files", [("a.pdf", invoice)])
    assert api.post(f"/transactions/{key}/start").status_code == 200
    reply = api.post(f"/transactions/{key}/start")
    assert reply.status_code == 400
    assert "started already" in detail(reply)
    assert api.control.transaction(key)["started"] == 3, "all attempts count"


def test_no_files_after_the_start(api: Any, invoice: bytes) -> None:
    key = api.launch([("a.pdf", invoice)], PROCESS)
    document = api.get(f"/transactions/{key}/documents").json()[0]["documentId"]
    for path in (
        f"/transactions/{key}/files",
        f"/transactions/{key}/documents/{document}/sourceFiles",
    ):
        reply = api.upload(path, [("b.pdf", invoice)])
        assert reply.status_code == 400
        assert "started already" in detail(reply)
    assert api.post(f"/transactions/{key}/documents").status_code == 400
    assert api.delete(f"/transactions/{key}/documents/{document}").status_code == 400
    assert api.post(f"/transactions/{key}/mobileInputLink").status_code == 400


def test_start_with_json_label_and_no_body(api: Any, invoice: bytes) -> None:
    key = api.create()
    api.upload(f"/transactions/{key}/files", [("a.pdf", invoice)])
    reply = api.post(f"/transactions/{key}/start", headers={"Content-Type": "application/json"})
    assert reply.status_code == 200


# ---- deleting ----


def test_delete_is_carried_out_later(make_api: Any, invoice: bytes) -> None:
    api = make_api(delete_polls=2)
    key = api.launch([("a.pdf", invoice)])
    reply = api.delete(f"/transactions/{key}", strict=True)
    assert (reply.status_code, reply.content) == (200, b"")
    assert [api.get(f"/transactions/{key}").status_code for _ in range(3)] == [200, 200, 404]
    assert api.delete(f"/transactions/{key}").status_code == 404
    assert api.control.transactions() == []


def test_delete_by_time(make_api: Any, invoice: bytes) -> None:
    api = make_api(delete_polls=0, delete_seconds=30)
    key = api.create()
    api.delete(f"/transactions/{key}")
    assert api.get(f"/transactions/{key}").status_code == 200
    assert api.upload(f"/transactions/{key}/files", [("a.pdf", invoice)]).status_code == 404
    assert api.delete(f"/transactions/{key}").status_code == 200
    api.control.advance(31)
    assert api.get(f"/transactions/{key}").status_code == 404


def test_everything_is_deleted_after_fourteen_days(api: Any) -> None:
    key = api.create()
    api.control.advance(13.9 * 86400)
    assert api.sign_in().get(f"/transactions/{key}").status_code == 200
    api.control.advance(0.2 * 86400)
    assert api.sign_in().get(f"/transactions/{key}").status_code == 404


def test_files_are_removed_from_disk(make_api: Any, invoice: bytes) -> None:
    api = make_api(delete_polls=0)
    folder = api.server.state.folder
    key = api.launch([("a.pdf", invoice), ("b.pdf", invoice)], PROCESS)
    api.finish(key)
    assert len(list(folder.iterdir())) == 2 + 4
    api.delete(f"/transactions/{key}")
    assert list(folder.iterdir()) == []
    api.server.stop()
    assert not folder.exists()


# ---- tenants ----


def test_other_tenant_is_403(api: Any, other_api: Any, invoice: bytes) -> None:
    key = api.launch([("a.pdf", invoice)])
    document = api.finish(key)["documents"][0]
    file, source = document["resultFiles"][0]["fileId"], api.read(key)["sourceFiles"][0]["id"]
    own = f"/transactions/{key}"
    stranger = other_api(api.server, username="second@example.com", client_id="second-client")
    stranger.sign_in()
    for method, path in (
        ("GET", own),
        ("DELETE", own),
        ("POST", f"{own}/files"),
        ("POST", f"{own}/start"),
        ("POST", f"{own}/mobileInputLink"),
        ("GET", f"{own}/files/{file}/download"),
        ("GET", f"{own}/registrationParameters"),
        ("GET", f"{own}/skillParameters"),
        ("POST", f"{own}/documents"),
        ("GET", f"{own}/documents"),
        ("GET", f"{own}/documents/{document['id']}"),
        ("DELETE", f"{own}/documents/{document['id']}"),
        ("POST", f"{own}/documents/{document['id']}/sourceFiles"),
        ("GET", f"{own}/documents/{document['id']}/sourceFiles/{source}/download"),
    ):
        reply = stranger.call(method, path)
        assert reply.status_code == 403, (method, path)
        assert "another tenant" in detail(reply)
    for name in ("active", "completed"):
        assert stranger.get(f"/transactions/{name}?Limit=10").json()["totalItemCount"] == 0
    assert api.read(key)["status"] == "Processed"


def test_unknown_things_are_404(api: Any, invoice: bytes) -> None:
    key = api.launch([("a.pdf", invoice)])
    document = api.finish(key)["documents"][0]["id"]
    for method, path in (
        ("GET", f"/transactions/{NOWHERE}"),
        ("GET", "/transactions/no-uuid"),
        ("DELETE", f"/transactions/{NOWHERE}"),
        ("POST", f"/transactions/{NOWHERE}/files"),
        ("POST", f"/transactions/{NOWHERE}/start"),
        ("GET", f"/transactions/{key}/files/.blob.{NOWHERE}/download"),
        ("GET", f"/transactions/{key}/documents/{NOWHERE}"),
        ("GET", f"/transactions/{key}/documents/{document}/sourceFiles/nothing/download"),
    ):
        assert api.call(method, path).status_code == 404, (method, path)


def test_ids_in_upper_case(api: Any) -> None:
    key = api.create()
    assert api.get(f"/transactions/{key.upper()}").json()["id"] == key


# ---- files ----


def test_names_are_changed_and_must_be_unique(api: Any, invoice: bytes) -> None:
    key = api.create(PROCESS)
    path = f"/transactions/{key}/files"
    assert (
        api.upload(path, [("a:b?c#d[e]f@g!h$i&j'k(l)m*n+o,p;q=r.pdf", invoice)]).status_code == 200
    )
    names = [file["name"] for file in api.read(key)["sourceFiles"]]
    assert names == ["a_b_c_d_e_f_g_h_i_j_k_l_m_n_o_p_q_r.pdf"]
    assert api.upload(path, [("x+y.pdf", invoice)]).status_code == 200
    reply = api.upload(path, [("z.pdf", invoice), ("x=y.pdf", invoice)])
    assert reply.status_code == 409
    assert "x_y.pdf" in detail(reply)
    assert len(api.read(key)["sourceFiles"]) == 2, "all or nothing"


def test_slash_and_backslash_in_names(api: Any, invoice: bytes) -> None:
    key = api.create(PROCESS)
    mark = "xyz"
    for name in ("a/b.pdf", "c\\\\d.pdf", "C:\\\\e.pdf"):
        head = f'Content-Disposition: form-data; name="Files"; filename="{name}"'
        body = f"--{mark}\r\n{head}\r\n\r\n".encode() + invoice + f"\r\n--{mark}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
        assert api.post(f"/transactions/{key}/files", data=body, headers=headers).status_code == 200
    names = [file["name"] for file in api.read(key)["sourceFiles"]]
    assert names == ["a_b.pdf", "c_d.pdf", "C__e.pdf"]


def test_names_in_other_scripts(api: Any, invoice: bytes) -> None:
    names = ["Rechnung äöü.pdf", "発票.pdf", "a b.pdf"]
    key = api.launch([(name, invoice) for name in names], PROCESS)
    assert [file["name"] for file in api.read(key)["sourceFiles"]] == names


def test_two_equal_names_in_one_request(api: Any, invoice: bytes) -> None:
    key = api.create(PROCESS)
    files = [("a.pdf", invoice), ("a.pdf", invoice)]
    assert api.upload(f"/transactions/{key}/files", files).status_code == 409
    params = {"skillId": api.skill(PROCESS)}
    assert api.upload("/transactions/launch", files, params=params).status_code == 400


def test_one_document_only_unless_process(api: Any, invoice: bytes) -> None:
    two = [("a.pdf", invoice), ("b.pdf", invoice)]
    for skill in ("Invoice", "Receipt", "Document type", "Text recognition"):
        params = {"skillId": api.skill(skill)}
        assert api.upload("/transactions/launch", two, params=params).status_code == 400
        key = api.create(skill)
        assert api.upload(f"/transactions/{key}/files", two).status_code == 409
        assert api.upload(f"/transactions/{key}/files", two[:1]).status_code == 200
        assert api.upload(f"/transactions/{key}/files", two[1:]).status_code == 409
        assert api.post(f"/transactions/{key}/documents").status_code == 400
        assert len(api.read(key)["sourceFiles"]) == 1
    assert [t["status"] for t in api.control.transactions()] == ["New"] * 4


def test_file_count_limit(make_api: Any, invoice: bytes) -> None:
    api = make_api(max_files=3)
    key = api.create(PROCESS)
    files = [(f"{n}.pdf", b"x") for n in range(4)]
    assert api.upload(f"/transactions/{key}/files", files).status_code == 409
    assert api.upload(f"/transactions/{key}/files", files[:3]).status_code == 200
    assert api.upload(f"/transactions/{key}/files", files[3:]).status_code == 409
    document = api.get(f"/transactions/{key}/documents").json()[0]["documentId"]
    path = f"/transactions/{key}/documents/{document}/sourceFiles"
    assert api.upload(path, files[3:]).status_code == 409
    params = {"skillId": api.skill(PROCESS)}
    assert api.upload("/transactions/launch", files, params=params).status_code == 400


def test_a_thousand_files(api: Any) -> None:
    key = api.create(PROCESS)
    files = [(f"{n:04}.png", b"\x89PNG\r\n\x1a\n%d" % n) for n in range(1000)]
    assert api.upload(f"/transactions/{key}/files", files, strict=True).status_code == 200
    assert api.upload(f"/transactions/{key}/files", [("x.png", b"x")]).status_code == 409
    seen = api.control.transaction(key)["files"]
    assert [f["sha256"] for f in seen] == [hashlib.sha256(d).hexdigest() for _, d in files]
    assert api.post(f"/transactions/{key}/start").status_code == 200
    assert len(api.finish(key)["documents"]) == 1000


def test_size_limit(make_api: Any) -> None:
    api = make_api(max_upload_bytes=100_000)
    key = api.create(PROCESS)
    path = f"/transactions/{key}/files"
    assert api.upload(path, [("a.pdf", b"x" * 60_000)]).status_code == 200
    reply = api.upload(path, [("b.pdf", b"x" * 60_000)])
    assert reply.status_code == 400
    assert "100000 bytes" in detail(reply)
    assert api.upload(path, [("c.pdf", b"x" * 200_000)]).status_code == 400
    assert api.upload(path, [("d.pdf", b"x" * 40_000)]).status_code == 200
    params = {"skillId": api.skill(PROCESS)}
    files = [("e.pdf", b"x" * 60_000), ("f.pdf", b"x" * 60_000)]
    assert api.upload("/transactions/launch", files, params=params).status_code == 400
    folder = api.server.state.folder
    assert sorted(f.stat().st_size for f in folder.iterdir()) == [40_000, 60_000]


@pytest.mark.parametrize("part", ["Files", "files", "file", "anything"])
def test_any_part_name(api: Any, part: str, invoice: bytes) -> None:
    key = api.create()
    reply = api.post(f"/transactions/{key}/files", files=[(part, ("a.pdf", invoice))])
    assert reply.status_code == 200
    assert api.control.transaction(key)["files"][0]["size"] == len(invoice)


def test_model_as_plain_field_and_in_any_case(api: Any, invoice: bytes) -> None:
    model = {"FILES": [{"Index": 0, "RegistrationParameters": [{"KEY": "a", "Value": "b"}]}]}
    key = api.create()
    reply = api.post(
        f"/transactions/{key}/files",
        data={"model": json.dumps(model)},
        files=[("Files", ("a.pdf", invoice))],
    )
    assert reply.status_code == 200
    file = api.control.transaction(key)["documents"][0]["files"][0]
    assert file["parameters"] == {"a": "b"}


def test_member_names_in_any_case(api: Any) -> None:
    body = {"SkillId": "Receipt", "REGISTRATIONPARAMETERS": [{"Key": "a", "vAlue": "b"}]}
    reply = api.post("/transactions", json=body)
    assert reply.status_code == 201
    seen = api.control.transaction(reply.json()["transactionId"])
    assert seen["registration_parameters"] == {"a": "b"}


@pytest.mark.parametrize(
    "label", ["text/json", "application/x+json", "application/json-patch+json"]
)
def test_json_labels(api: Any, label: str) -> None:
    data = json.dumps({"skillId": "Receipt"})
    headers = {"Content-Type": label}
    assert api.post("/transactions", data=data, headers=headers).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"skillId": ""},
        {"skillId": 7},
        {"skillId": None},
        {"skillId": "Receipt", "priority": 1},
        {"skillId": "Receipt", "generateMobileInputLink": "yes"},
        {"skillId": "Receipt", "registrationParameters": {"a": "b"}},
        {"skillId": "Receipt", "registrationParameters": [{"key": "a"}]},
        {"skillId": "Receipt", "registrationParameters": [{"key": "", "value": "b"}]},
        {"skillId": "Receipt", "registrationParameters": [{"key": "a", "value": ""}]},
        {"skillId": "Receipt", "registrationParameters": [{"key": "a", "value": 1}]},
        {"skillId": "Receipt", "registrationParameters": [{"key": "a", "value": "b", "c": "d"}]},
        {"skillId": "Receipt", "registrationParameters": [{"key": "k" * 129, "value": "b"}]},
        {"skillId": "Receipt", "registrationParameters": [{"key": "k", "value": "v" * 257}]},
        {"skillId": "Receipt", "registrationParameters": [{"key": "k", "value": "v"}] * 11},
        {"skillId": "Receipt", "skillParameters": [{"key": "k", "value": "v"}] * 11},
        {"skillId": "Receipt", "skillParameters": [{"key": "k", "value": ""}]},
        [],
        "text",
    ],
)
def test_create_refuses(api: Any, body: Any) -> None:
    reply = api.post("/transactions", json=body)
    assert reply.status_code == 400
    assert reply.json()["errors"]
    assert api.control.transactions() == []


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000])
def test_create_refuses_what_is_no_json(api: Any, data: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert api.post("/transactions", data=data, headers=headers).status_code == 400


def test_create_refuses_other_content_types(api: Any) -> None:
    data = json.dumps({"skillId": "Receipt"})
    for label in ("text/plain", "application/x-www-form-urlencoded", "application/xml"):
        reply = api.post("/transactions", data=data, headers={"Content-Type": label})
        assert reply.status_code == 400


def test_largest_parameters_are_taken(api: Any) -> None:
    pairs = [{"key": f"{n}".ljust(128, "k"), "value": "v" * 256} for n in range(10)]
    key = api.create(registrationParameters=pairs)
    found = api.get(f"/transactions/{key}/registrationParameters", strict=True).json()
    assert found == [{"key": "App", "value": "PublicAPI"}, *pairs]


@pytest.mark.parametrize(
    "model",
    [
        {"files": [{}, {}]},
        {"files": {}},
        {"files": [{"index": "0"}]},
        {"files": [{"index": True}]},
        {"files": [{"index": 2**31}]},
        {"files": [{"name": "a"}]},
        {"files": [{"imageProcessingOptions": None}]},
        {"files": [{"imageProcessingOptions": {"autoCrop": "yes"}}]},
        {"files": [{"imageProcessingOptions": {"autoRotate": "Yes"}}]},
        {"files": [{"registrationParameters": [{"key": "k", "value": "v"}] * 11}]},
        {"skillId": "Receipt"},
        [],
    ],
)
def test_model_refuses(api: Any, model: Any, invoice: bytes) -> None:
    key = api.create()
    reply = api.upload(f"/transactions/{key}/files", [("a.pdf", invoice)], model)
    assert reply.status_code == 400
    params = {"skillId": api.skill("Invoice")}
    reply = api.upload("/transactions/launch", [("a.pdf", invoice)], model, params=params)
    assert reply.status_code == 400
    assert [t["files"] for t in api.control.transactions()] == [[]]
    assert list(api.server.state.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("headers", "data"),
    [
        ({"Content-Type": "application/json"}, b"{}"),
        ({"Content-Type": "multipart/form-data"}, b"--x--\r\n"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"nonsense"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x\r\nContent-Disp"),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="Files"; filename=""\r\n\r\n\r\n'
            b"--x--\r\n",
        ),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="Note"\r\n\r\nhello\r\n--x--\r\n',
        ),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="Model"\r\n\r\n{\r\n--x--\r\n',
        ),
        (
            {"Content-Type": "multipart/form-data; boundary=x"},
            b'--x\r\nContent-Disposition: form-data; name="Model"\r\n\r\n{}\r\n--x--\r\n',
        ),
        ({}, b""),
    ],
)
def test_broken_uploads(api: Any, headers: dict[str, str], data: bytes) -> None:
    key = api.create()
    assert api.post(f"/transactions/{key}/files", data=data, headers=headers).status_code == 400
    assert list(api.server.state.folder.iterdir()) == []


def test_upload_cut_in_the_middle_leaves_nothing(api: Any) -> None:
    key = api.create()
    data = (
        b'--x\r\nContent-Disposition: form-data; name="Files"; filename="a.pdf"\r\n\r\n'
        + b"x" * 100_000
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert api.post(f"/transactions/{key}/files", data=data, headers=headers).status_code == 400
    assert list(api.server.state.folder.iterdir()) == []


def test_launch_needs_a_skill(api: Any, invoice: bytes) -> None:
    reply = api.upload("/transactions/launch", [("a.pdf", invoice)])
    assert reply.status_code == 400
    assert "skillId is not specified" in detail(reply)
    reply = api.upload("/transactions/launch", [("a.pdf", invoice)], params={"SKILLID": "Receipt"})
    assert reply.status_code == 201


def test_order_follows_the_index(api: Any, pdf: Any) -> None:
    files = [(f"{n}.pdf", pdf(number=f"INV-{n}")) for n in range(3)]
    model = {"files": [{"index": 2}, {"index": 0}, {"index": 1}]}
    key = api.launch(files, PROCESS, model)
    assert [f["name"] for f in api.read(key)["sourceFiles"]] == ["1.pdf", "2.pdf", "0.pdf"]
    assert [f["Invoice Number"] for f in api.fields(key)] == ["INV-1", "INV-2", "INV-0"]


def test_skill_parameters(api: Any) -> None:
    key = api.create(skillParameters=[{"key": "Strict check", "value": "Yes"}])
    found = {
        item["key"]: (item["value"], item["type"])
        for item in api.get(f"/transactions/{key}/skillParameters", strict=True).json()
    }
    assert found["Strict check"] == ("Yes", "Bool")
    assert found["Supplier catalog"] == ("Suppliers", "Catalog")


def test_mobile_links(api: Any) -> None:
    reply = api.post(
        "/transactions", json={"skillId": "Receipt", "generateMobileInputLink": True}, strict=True
    ).json()
    key, first = reply["transactionId"], reply["mobileInputLink"]
    second = api.post(f"/transactions/{key}/mobileInputLink", strict=True).json()
    assert second["transactionId"] == key
    assert second["mobileInputLink"].startswith(api.server.url)
    assert first != second["mobileInputLink"]
    secrets = api.control.issued_secrets()
    assert all(any(s in link for s in secrets) for link in (first, second["mobileInputLink"]))


def test_trailing_slashes(api: Any, invoice: bytes) -> None:
    assert api.get("/skills/").status_code == 200
    key = api.create()
    assert api.upload(f"/transactions/{key}/files/", [("a.pdf", invoice)]).status_code == 200
    assert api.post(f"/transactions/{key}/start/").status_code == 200


def test_accept_text_plain_changes_the_label_only(api: Any) -> None:
    for accept, label in (
        ("text/plain", "text/plain"),
        ("text/json", "text/json"),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "application/json"),
    ):
        reply = api.get("/skills", headers={"Accept": accept})
        assert reply.headers["Content-Type"] == f"{label}; charset=utf-8"
        assert reply.json()
    reply = api.get(f"/transactions/{NOWHERE}", headers={"Accept": "text/plain"})
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert reply.json()["status"] == 404


def test_nulls_can_be_left_out(make_api: Any, invoice: bytes) -> None:
    api = make_api(omit_nulls=True)
    found = api.finish(api.launch([("a.pdf", invoice)]))
    assert "manualReviewLink" not in found
    assert "error" not in found
    assert "classification" not in found["documents"][0]


# ---- documents ----


def test_documents_of_several_files(api: Any, pdf: Any) -> None:
    key = api.create(PROCESS)
    first = api.post(f"/transactions/{key}/documents", json={"index": 1}, strict=True).json()
    second = api.post(f"/transactions/{key}/documents", strict=True).json()
    pages = {n: pdf(number=f"INV-{n}") for n in "abc"}
    path = f"/transactions/{key}/documents/{first['documentId']}/sourceFiles"
    model = {"files": [{"index": 1}, {"index": 0}]}
    files = [("b.pdf", pages["b"]), ("a.pdf", pages["a"])]
    assert api.upload(path, files, model, strict=True).content == b""
    assert api.post(f"/transactions/{key}/start").status_code == 400, "a document is empty"
    path = f"/transactions/{key}/documents/{second['documentId']}/sourceFiles"
    assert api.upload(path, [("a.pdf", pages["c"])]).status_code == 409
    assert api.upload(path, [("c.pdf", pages["c"])]).status_code == 200
    listed = api.get(f"/transactions/{key}/documents", strict=True).json()
    assert [[f["name"] for f in d["sourceFiles"]] for d in listed] == [
        ["a.pdf", "b.pdf"],
        ["c.pdf"],
    ]
    one = api.get(f"/transactions/{key}/documents/{first['documentId']}", strict=True).json()
    assert one == listed[0]
    for document in listed:
        for file in document["sourceFiles"]:
            path = f"/transactions/{key}/documents/{document['documentId']}/sourceFiles"
            reply = api.get(f"{path}/{file['id']}/download", strict=True)
            assert reply.content == pages[file["name"][0]]
    api.post(f"/transactions/{key}/start")
    fields = api.fields(key)
    assert [f["Invoice Number"] for f in fields] == ["INV-a", "INV-c"]
    assert fields[0]["Source File Name"] == ["a.pdf", "b.pdf"]
    assert fields[0]["Page Count"] == "2"


def test_delete_document(api: Any, invoice: bytes) -> None:
    key = api.create(PROCESS)
    api.upload(f"/transactions/{key}/files", [("a.pdf", invoice), ("b.pdf", invoice)])
    first, second = api.get(f"/transactions/{key}/documents").json()
    reply = api.delete(f"/transactions/{key}/documents/{first['documentId']}", strict=True)
    assert (reply.status_code, reply.content) == (200, b"")
    assert api.get(f"/transactions/{key}/documents").json() == [second]
    assert api.upload(f"/transactions/{key}/files", [("a.pdf", invoice)]).status_code == 200


def test_one_document_of_several_files_with_a_document_skill(api: Any, pdf: Any) -> None:
    key = api.create("Invoice")
    document = api.post(f"/transactions/{key}/documents").json()["documentId"]
    path = f"/transactions/{key}/documents/{document}/sourceFiles"
    files = [("1.pdf", pdf(number="INV-1")), ("2.pdf", pdf(number="INV-2", pages=4))]
    assert api.upload(path, files).status_code == 200
    api.post(f"/transactions/{key}/start")
    (fields,) = api.fields(key)
    assert fields["Page Count"] == "5"
    assert fields["Source SHA-256"] == [hashlib.sha256(data).hexdigest() for _, data in files]


# ---- review ----


@pytest.mark.parametrize("how", ["setting", "skill", "text", "parameter"])
def test_manual_review(api: Any, how: str, pdf: Any) -> None:
    data, model = pdf(), {}
    if how == "setting":
        api.control.set(review=True)
    elif how == "skill":
        api.control.set(review_skills=[api.skill("Invoice")])
    elif how == "text":
        data = pdf(extra_lines=["Please note: manual review REQUIRED here"])
    else:
        model = {"registrationParameters": [{"key": "SandboxReview", "value": "yes"}]}
    key = api.launch([("a.pdf", data)], model=model)
    seen = [api.read(key) for _ in range(5)]
    assert {item["status"] for item in seen} == {"Processing"}
    links = [item["manualReviewLink"] for item in seen]
    assert links[:2] == [None, None]
    assert all(links[2:])
    assert len(set(links[2:])) == 3, "each read gives a new one"
    assert f"transactionId={key}" in links[2]
    assert all(any(s in link for s in api.control.issued_secrets()) for link in links[2:])
    api.control.finish_review(key)
    found = api.read(key)
    assert (found["status"], found["manualReviewLink"]) == ("Processed", None)
    assert found["documents"][0]["resultFiles"]


@pytest.mark.parametrize("status", ["Failed", "Canceled"])
def test_review_can_end_badly(make_api: Any, status: str, invoice: bytes) -> None:
    api = make_api(review=True, processing_polls=0)
    key = api.launch([("a.pdf", invoice)])
    api.read(key)
    api.control.finish_review(key, status)
    found = api.read(key)
    assert found["status"] == status
    assert bool(found["error"]) == (status == "Failed")


def test_review_only_when_demanded(api: Any, invoice: bytes) -> None:
    from vantage_orchestration.sandbox.control_client import SandboxControlError

    key = api.launch([("a.pdf", invoice)])
    assert api.finish(key)["manualReviewLink"] is None
    with pytest.raises(SandboxControlError, match="no such transaction waits"):
        api.control.finish_review(key)


def test_review_page(make_api: Any, invoice: bytes) -> None:
    import re

    import requests

    api = make_api(review=True, processing_polls=0)
    key = api.launch([("a.pdf", invoice)])
    link = api.read(key)["manualReviewLink"]
    page = requests.get(link, timeout=30)
    assert page.status_code == 200
    assert key in page.text
    action = re.search(r'action="(\?[^"]*status=Processed)"', page.text)
    assert action is not None
    target = f"{api.server.url}/manual-review{action[1].replace('&amp;', '&')}"
    assert "is over" in requests.post(target, timeout=30).text
    assert api.read(key)["status"] == "Processed"
    api.control.advance(168 * 3600 + 1)
    assert requests.get(link, timeout=30).status_code == 404, "links are good for 168 hours"
    wrong = requests.get(api.server.url + "/manual-review?accessToken=x", timeout=30)
    assert wrong.status_code == 404


# ---- lists ----


def ids(reply: Any) -> list[str]:
    assert reply.status_code == 200, reply.text
    body = reply.json()
    return [item["transactionId"] for item in body["items"]]


def test_lists_and_states(api: Any, invoice: bytes) -> None:
    api.control.set(processing_polls=1)
    new = api.create()
    running = api.launch([("a.pdf", invoice)])
    assert ids(api.get("/transactions/active?Limit=1000", strict=True)) == [running]
    done = api.get("/transactions/completed?Limit=1000", strict=True).json()
    assert done["totalItemCount"] == 1, "a list counts as a look, so processing goes on"
    item = done["items"][0]
    assert (item["transactionId"], item["status"]) == (running, "Processed")
    assert (item["pageCount"], item["documentCount"], item["skillVersion"]) == (1, 1, 3)
    assert ids(api.get("/transactions/active?Limit=1000")) == []
    assert api.read(new)["status"] == "New"


def test_page_count(api: Any, pdf: Any) -> None:
    files = [("a.pdf", pdf(pages=3)), ("b.pdf", pdf(pages=4))]
    key = api.launch(files, PROCESS)
    api.finish(key)
    assert api.get("/transactions/completed?Limit=1").json()["items"][0]["pageCount"] == 7
    assert api.control.transaction(key)["pages"] == 7


@pytest.mark.parametrize("name", ["active", "completed"])
@pytest.mark.parametrize(
    "query",
    [
        "",
        "Limit=",
        "Limit=0",
        "Limit=1001",
        "Limit=-1",
        "Limit=ten",
        "Limit=1&Limit=2",
        "Limit=1&Offset=-1",
        "Limit=1&SkillVersion=x",
        "Limit=1&StartDate=yesterday",
        "Limit=1&StartDate=2026-01-02T00:00:00Z&EndDate=2026-01-01T00:00:00Z",
        "Limit=1&StartDate=2026-01-02T00:00:00Z&EndDate=2026-01-02T00:00:00Z",
        "Limit=1&StartDate=2999-01-02T00:00:00Z",
        "Limit=1&TransactionParameters=x",
        "Limit=1&TransactionParameters=[]",
        'Limit=1&DocumentParameters={"name":"x"}',
        'Limit=1&DocumentParameters={"key":1}',
    ],
)
def test_list_refuses(api: Any, name: str, query: str) -> None:
    reply = api.get(f"/transactions/{name}?{query}")
    assert reply.status_code == 400
    assert reply.json()["errors"]


def test_list_refuses_wrong_choices(api: Any) -> None:
    assert api.get("/transactions/active?Limit=1&StageType=ManuaReview").status_code == 400
    assert api.get("/transactions/completed?Limit=1&TransactionStatus=Canceled").status_code == 400
    assert api.get("/transactions/completed?Limit=1&TransactionStatus=Cancelled").status_code == 200


def test_paging(make_api: Any, invoice: bytes) -> None:
    api = make_api(processing_polls=0)
    keys = [api.launch([("a.pdf", invoice)]) for _ in range(5)]
    assert ids(api.get("/transactions/completed?Limit=1000")) == keys
    seen: list[str] = []
    for offset in range(0, 6, 2):
        reply = api.get(f"/transactions/completed?Limit=2&Offset={offset}", strict=True)
        assert reply.json()["totalItemCount"] == 5
        seen += ids(reply)
    assert seen == keys
    assert ids(api.get("/transactions/completed?limit=1&OFFSET=4")) == keys[4:]


def test_filters(make_api: Any, invoice: bytes) -> None:
    api = make_api(processing_polls=0, token_lifetime=86400)
    order = [{"key": "Order", "value": "A 1"}, {"key": "Kind", "value": "x"}]
    first = api.launch([("a.pdf", invoice)], model={"registrationParameters": order})
    api.control.advance(3600)
    file = {"files": [{"registrationParameters": [{"key": "Batch", "value": "b"}]}]}
    second = api.launch([("b.pdf", invoice)], "Receipt", model=file)
    assert {api.finish(key)["status"] for key in (first, second)} == {"Processed"}
    api.control.set(outcome="Canceled")
    third = api.launch([("c.pdf", invoice)], PROCESS)
    base = "/transactions/completed?Limit=10"
    assert ids(api.get(base)) == [first, second, third]
    assert ids(api.get(f"{base}&SkillId=Receipt", strict=True)) == [second]
    assert ids(api.get(f"{base}&SkillVersion=3")) == [first]
    assert ids(api.get(f"{base}&TransactionStatus=Cancelled")) == [third]
    assert ids(api.get(f"{base}&TransactionStatus=Processed")) == [first, second]

    def by(name: str, *pairs: dict[str, str]) -> list[str]:
        values = [json.dumps(pair) for pair in pairs]
        reply = api.get("/transactions/completed", params={"Limit": 10, name: values}, strict=True)
        indexed: dict[str, Any] = {"Limit": 10}
        for place, pair in enumerate(pairs):
            for member, value in pair.items():
                indexed[f"{name}[{place}].{member}"] = value
        assert ids(api.get("/transactions/completed", params=indexed)) == ids(reply)
        return ids(reply)

    assert by("TransactionParameters", order[0]) == [first]
    assert by("TransactionParameters", *order) == [first]
    assert by("TransactionParameters", order[0], {"key": "Kind", "value": "y"}) == []
    assert by("TransactionParameters", {"key": "App", "value": "PublicAPI"}) == [
        first,
        second,
        third,
    ]
    assert by("DocumentParameters", {"key": "Batch", "value": "b"}) == [second]
    assert by("DocumentParameters", {"key": "SourceFileName", "value": "c.pdf"}) == [third]

    created = api.get(base).json()["items"][1]["createTimeUtc"]
    assert ids(api.get(f"{base}&StartDate={created}")) == [second, third]
    assert ids(api.get(f"{base}&EndDate={created}")) == [first, second]
    assert ids(api.get(f"{base}&StartDate=2001-01-01T00:00:00")) == [first, second, third]


def test_list_entries(make_api: Any, invoice: bytes) -> None:
    api = make_api(review=True, processing_polls=0)
    key = api.launch(
        [("a.pdf", invoice)], model={"registrationParameters": [{"key": "k", "value": "v"}]}
    )
    (item,) = api.get("/transactions/active?Limit=5&StageType=ManualReview").json()["items"]
    assert item["stage"] == "ManualReview"
    assert item["stageName"] == "Review"
    assert item["transactionId"] == key
    assert {"isReadOnly": True, "key": "k", "value": "v"} in item["transactionParameters"]
    parameters = {p["key"]: p["value"] for p in item["fileParameters"]}
    assert parameters == {"Index": "0", "SourceFileName": "a.pdf", "SourceType": "PublicAPI"}
    assert ids(api.get("/transactions/active?Limit=5&StageName=Review")) == [key]
    assert ids(api.get("/transactions/active?Limit=5&StageName=Other")) == []
    assert ids(api.get("/transactions/active?Limit=5&StageType=Automatic")) == []
    api.control.set(review=False, processing_polls=100)
    other = api.launch([("a.pdf", invoice)])
    assert ids(api.get("/transactions/active?Limit=5&StageType=Automatic")) == [other]


# ---- results ----


def test_results_follow_from_the_bytes(api: Any, pdf: Any) -> None:
    files = [(f"{n}.pdf", pdf(number=f"INV-{n}", total=f"{n}20.00", pages=n + 1)) for n in range(3)]
    for name, data in files:
        (fields,) = api.fields(api.launch([(name, data)]))
        number = int(name[0])
        assert fields["Invoice Number"] == f"INV-{number}"
        assert fields["Total"] == f"{number}20.00"
        assert fields["Supplier"] == "Example Ltd"
        assert fields["Source File Name"] == name
        assert fields["Source SHA-256"] == hashlib.sha256(data).hexdigest()
        assert fields["Source Size"] == str(len(data))
        assert fields["Page Count"] == str(number + 1)
        assert fields["Items"][1] == {
            "Description": "Nut M8",
            "Quantity": "40",
            "Unit Price": "1.00",
            "Amount": "40.00",
        }


def test_result_files_fit_their_schemas(api: Any, invoice: bytes) -> None:
    key = api.launch(
        [("a.pdf", invoice)], model={"registrationParameters": [{"key": "k", "value": "v"}]}
    )
    (files,) = api.results(key)
    fields = json.loads(files["FieldsJson"])
    check_value(fields, "FieldsJsonFile")
    full = json.loads(files["Json"])
    check_value(full, "JsonFile")
    assert full["Id"] == key
    document = full["Documents"][0]
    assert document["RegistrationParameters"] == [{"Key": "k", "Value": "v"}]
    listed = {f["Name"]: f["List"] for f in document["ExtractedData"]["RootObject"]["Fields"]}
    assert listed["Invoice Number"][0]["Value"] == "INV-1001"
    assert listed["Invoice Number"][0]["Annotation"]["Confidence"] == 96
    assert len(listed["Items"]) == 2
    row = {f["Name"]: f["List"][0]["Value"] for f in listed["Items"][0]["Value"]["Fields"]}
    assert row == fields["Fields"]["Items"][0]


def test_wrapped_results(make_api: Any, invoice: bytes) -> None:
    api = make_api(wrap_json=True, wrap_ocr_json=True)
    (files,) = api.results(api.launch([("a.pdf", invoice)]))
    assert json.loads(files["Json"])["Transaction"]["Documents"]
    (files,) = api.results(api.launch([("a.pdf", invoice)], "Text recognition"))
    assert json.loads(files["OcrJson"])[0]["layout"]["pages"]


def test_ocr_skill(api: Any, pdf: Any) -> None:
    key = api.launch([("note 7.pdf", pdf(pages=2))], "Text recognition")
    (document,) = api.finish(key)["documents"]
    names = {file["type"]: file["fileName"] for file in document["resultFiles"]}
    assert names == {"OcrJson": "note 7_text.json", "Text": "note 7.txt"}
    (files,) = api.results(key)
    assert "Invoice Number: INV-1001" in files["Text"].decode().splitlines()
    pages = json.loads(files["OcrJson"])["layout"]["pages"]
    assert len(pages) == 2
    assert pages[0]["width"] == 2480
    assert pages[1]["texts"][0]["lines"][0]["text"] == "Page 2"


def test_classification_skill(api: Any, tmp_path: Any) -> None:
    from pdfs import make_pdf

    for text, name, sure in (
        ("RECEIPT no 7", "Receipt", True),
        ("Invoice, not receipt", "Invoice", True),
        ("hello", "Other", False),
    ):
        data = make_pdf(tmp_path / "x.pdf", [text]).read_bytes()
        (document,) = api.finish(api.launch([("x.pdf", data)], "Document type"))["documents"]
        assert document["resultFiles"] == []
        found = document["classification"]
        assert found["resultClass"]["name"] == name
        assert found["isResultClassConfident"] is sure
        assert sum(item["confidence"] for item in found["classConfidences"]) <= 100


def test_process_skill_names_further_files_with_a_number(api: Any, tmp_path: Any, pdf: Any) -> None:
    from pdfs import make_pdf

    receipt = make_pdf(tmp_path / "r.pdf", ["Receipt", "Store: Example Ltd", "Total: 3.50"])
    files = [("a.pdf", pdf(number="INV-A")), ("r.pdf", receipt.read_bytes()), ("b.pdf", pdf())]
    key = api.launch(files, PROCESS)
    documents = api.finish(key)["documents"]
    names = [sorted(f["fileName"] for f in d["resultFiles"]) for d in documents]
    assert names == [
        ["Invoice.json", "Invoice_fields.json"],
        ["Receipt.json", "Receipt_fields.json"],
        ["Invoice2.json", "Invoice2_fields.json"],
    ]
    fields = api.fields(key)
    assert [f["Source File Name"] for f in fields] == ["a.pdf", "r.pdf", "b.pdf"]
    assert fields[1]["Store"] == "Example Ltd"
    assert "Store" not in fields[0]
    assert [d["classification"]["resultClass"]["name"] for d in documents] == [
        "Invoice", "Receipt", "Invoice",
    ]  # fmt: skip


def test_order_of_result_files_is_not_fixed(make_api: Any, invoice: bytes) -> None:
    api = make_api(processing_polls=0)
    orders = set()
    for _ in range(12):
        (document,) = api.finish(api.launch([("a.pdf", invoice)]))["documents"]
        orders.add(tuple(file["type"] for file in document["resultFiles"]))
    assert orders == {("Json", "FieldsJson"), ("FieldsJson", "Json")}


def test_exports_can_be_set(api: Any, invoice: bytes) -> None:
    api.control.set(exports={"Receipt": ["Text"]})
    (files,) = api.results(api.launch([("a.pdf", invoice)], "Receipt"))
    assert set(files) == {"Text"}


def test_business_rules(api: Any, pdf: Any) -> None:
    good = api.finish(api.launch([("a.pdf", pdf())]))
    assert good["documents"][0]["businessRulesErrors"] == []
    key = api.launch([("a.pdf", pdf(total="999.00"))])
    bad = api.finish(key)
    assert bad["status"] == "Processed", "a broken rule is no failure"
    (error,) = bad["documents"][0]["businessRulesErrors"]
    assert error["errorType"] == "Condition"
    assert "Total" in error["customMessage"]
    (files,) = api.results(key)
    rules = json.loads(files["Json"])["Documents"][0]["RuleErrors"]
    assert [rule["ErrorMessage"] for rule in rules] == [error["customMessage"]]
    api.control.set(rule_errors=[{"errorType": "CustomScript"}])
    half = api.finish(api.launch([("a.pdf", pdf())]))
    assert half["documents"][0]["businessRulesErrors"] == [{"errorType": "CustomScript"}]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.pdf", b""),
        ("a.pdf", b"hello"),
        ("a.pdf", b"%PDF-1.7\nbroken"),
        ("a.txt", b"Invoice Number: 7"),
        ("noextension", None),
        ("a.docx", None),
    ],
)
def test_unknown_format_fails_the_transaction(
    api: Any, name: str, data: bytes | None, invoice: bytes
) -> None:
    key = api.launch([(name, invoice if data is None else data)])
    found = api.finish(key)
    assert found["status"] == "Failed"
    assert "nknown format" in found["error"]
    assert name in found["error"]


def test_large_broken_pdf_is_found_out_quickly(tmp_path: Any) -> None:
    from vantage_orchestration.sandbox.sources import read_source

    path = tmp_path / "a.pdf"
    with path.open("wb") as file:
        file.write(b"%PDF-1.7\n")
        file.truncate(70 * 1024**2)
    found = read_source(path, "a.pdf", path.stat().st_size, "")
    assert found.pages == ()
    assert "can't be opened" in str(found.error)


def test_truncated_pdf_fails(api: Any, invoice: bytes) -> None:
    found = api.finish(api.launch([("a.pdf", invoice[:200])]))
    assert found["status"] == "Failed"


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n"),
        ("a.jpg", b"\xff\xd8\xff\xe0"),
        ("a.tif", b"II*\x00"),
        ("a.TIFF", b"MM\x00*"),
        ("a.bmp", b"BM"),
        ("a.webp", b"RIFF\x00\x00\x00\x00WEBP"),
    ],
)
def test_images_are_one_page_without_text(api: Any, name: str, head: bytes) -> None:
    data = head + b"\x00" * 50
    (fields,) = api.fields(api.launch([(name, data)]))
    assert fields == {
        "Source File Name": name,
        "Source SHA-256": hashlib.sha256(data).hexdigest(),
        "Source Size": str(len(data)),
        "Page Count": "1",
    }


def test_results_only_when_processed(api: Any, invoice: bytes) -> None:
    key = api.launch([("a.pdf", invoice)])
    file = api.finish(key)["documents"][0]["resultFiles"][0]["fileId"]
    other = api.launch([("a.pdf", invoice)])
    assert api.get(f"/transactions/{other}/files/{file}/download").status_code == 404
    reply = api.get(f"/transactions/{key}/files/{file}/download")
    assert reply.headers["Content-Type"] == "application/octet-stream"
    assert int(reply.headers["Content-Length"]) == len(reply.content)


def test_many_callers_at_once(make_api: Any, pdf: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    api = make_api(processing_polls=1)
    files = [(f"{n}.pdf", pdf(number=f"INV-{n}")) for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda file: api.launch([file]), files))
        fields = list(pool.map(api.fields, keys))
    assert len(set(keys)) == 24
    assert [f[0]["Invoice Number"] for f in fields] == [f"INV-{n}" for n in range(24)]
    assert api.control.count("POST", "/launch$") == 24
