# SPDX-License-Identifier: Apache-2.0
"""The command: start, ready file, greeting, signals, refusals, memory."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from patience import wait_while_running
from pdfs import make_invoice
from requests_toolbelt.multipart.encoder import MultipartEncoder

from vantage_orchestration.sandbox import SandboxControl

COMMAND = [sys.executable, "-m", "vantage_orchestration.sandbox"]


class Running:
    """A sandbox in a process of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.ready = folder / "ready.json"
        self.process = subprocess.Popen(
            [*COMMAND, "--port", "0", "--ready-file", str(self.ready), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_while_running(self.process, self.ready.exists, "the sandbox")
        self.info = json.loads(self.ready.read_text(encoding="utf-8"))
        self.url = self.info["url"]
        self.control = SandboxControl(self.url)

    def end(self, number: int) -> tuple[int, str, str]:
        """Send a signal; return exit code, output, errors."""
        self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=30)
        return self.process.returncode, output, errors


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*options: str) -> Running:
        started.append(Running(tmp_path, *options))
        return started[-1]

    yield start
    for item in started:
        if item.process.poll() is None:
            item.end(signal.SIGTERM)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_end_it_cleanly(run: Callable[..., Running], number: int, code: int) -> None:
    running = run()
    assert running.info["pid"] == running.process.pid == running.control.health()["pid"]
    exit_code, output, errors = running.end(number)
    assert exit_code == code
    assert errors == ""
    assert running.url in output
    assert not running.ready.exists()


def test_damaged_files_leave_no_noise(run: Callable[..., Running]) -> None:
    running = run("--quiet", "--processing-polls", "0")
    account = running.control.credentials()
    form: dict[str, Any] = {n: account[n] for n in ("client_id", "client_secret")}
    form |= {"grant_type": "client_credentials", "scope": "openid permissions global.wildcard"}
    token = requests.post(running.url + "/auth2/connect/token", data=form, timeout=30).json()
    headers = {"Authorization": "Bearer " + token["access_token"]}
    base = running.url + "/api/publicapi/v1/transactions"
    files = [("Files", ("a.pdf", b"junk %PDF-1.7\n1 0 obj\n<</Type /Catalog"))]
    url = base + "/launch?skillId=Receipt"
    made = requests.post(url, files=files, headers=headers, timeout=30).json()["transactionId"]
    reply = requests.get(f"{base}/{made}", headers=headers, timeout=30).json()
    assert reply["status"] == "Failed"
    assert running.end(signal.SIGTERM) == (0, "", "")


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_other_loopback_addresses(run: Callable[..., Running]) -> None:
    running = run("--host", "::1")
    assert running.url.startswith("http://[::1]:")
    assert running.control.health()["status"] == "ok"


def test_ends_in_the_middle_of_a_request(run: Callable[..., Running]) -> None:
    running = run()
    running.control.add_fault(path_regex=".", delay=3600, times=0)
    with pytest.raises(requests.ReadTimeout):
        requests.get(running.url + "/api/publicapi/v1/skills", timeout=0.2)
    code, _, errors = running.end(signal.SIGTERM)
    assert (code, errors) == (0, "")


def test_greeting_can_be_copied(run: Callable[..., Running]) -> None:
    running = run("--seed", "3", "--username", "o'neil@example.com", "--client-id", "mine")
    account = running.control.credentials()
    _, output, _ = running.end(signal.SIGTERM)
    line = next(s for s in output.splitlines() if "AIRFLOW_CONN" in s)
    word, assignment = shlex.split(line)
    assert word == "export"
    name, _, text = assignment.partition("=")
    assert name == "AIRFLOW_CONN_ABBYY_VANTAGE_DEFAULT"
    assert json.loads(text) == {
        "conn_type": "abbyy_vantage",
        "login": "o'neil@example.com",
        "password": account["password"],
        "host": running.url,
        "extra": {
            "region": "custom",
            "client_id": "mine",
            "client_secret": account["client_secret"],
        },
    }
    call = re.search(r"VantageCredentials\(.*?\n  \)", output, re.DOTALL)
    assert call is not None
    values = eval(call[0], {"VantageCredentials": dict})
    assert values == {
        "region": "custom",
        "base_url": running.url,
        "username": "o'neil@example.com",
        "password": account["password"],
        "client_id": "mine",
        "client_secret": account["client_secret"],
    }


def test_options_reach_the_server(run: Callable[..., Running]) -> None:
    options = (
        "--token-lifetime 77 --processing-polls 5 --processing-seconds 1.5 --review "
        "--list-new --list-lag 2.5 --parameter-filter json --list-order newest"
    )
    running = run("--quiet", "--lockout", "9", "--max-upload-bytes", "1000", *options.split())
    found = running.control.settings()
    wanted = {
        "token_lifetime": 77,
        "processing_polls": 5,
        "processing_seconds": 1.5,
        "review": True,
        "list_new": True,
        "list_lag": 2.5,
        "parameter_filter": "json",
        "list_order": "newest",
        "lockout": 9,
        "max_upload_bytes": 1000,
    }
    assert {name: found[name] for name in wanted} == wanted
    assert running.end(signal.SIGTERM) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--host", "0.0.0.0"], 2, "--allow-remote"),
        (["--host", "example.com"], 2, "--allow-remote"),
        (["--processing-polls", "-1"], 2, "must not be negative"),
        (["--password", ""], 2, "password must not be empty"),
        (["--port", "99999"], 1, "can't listen"),
        (["--port", "many"], 2, "invalid int value"),
    ],
)
def test_refusals(options: list[str], code: int, text: str) -> None:
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_port_in_use(run: Callable[..., Running]) -> None:
    port = run().url.rpartition(":")[2]
    done = subprocess.run([*COMMAND, "--port", port], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "can't listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_libraries_are_named(tmp_path: Path) -> None:
    blocked = tmp_path / "starlette.py"
    blocked.write_text("raise ModuleNotFoundError('no', name='starlette')\n")
    done = subprocess.run(
        [*COMMAND, "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "starlette is missing" in done.stderr
    assert "vantage-orchestration[sandbox]" in done.stderr


def high_water(pid: int) -> int:
    """Return the most memory a process has used so far, in bytes."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) * 1024


def large_pdf(path: Path, size: int) -> Path:
    """Make a good PDF of about that size: an invoice, and one more object that is all zeros."""
    data = make_invoice(path).read_bytes()
    root, count, start = (
        re.findall(pattern, data)[-1]
        for pattern in (rb"/Root (\d+ \d+ R)", rb"/Size (\d+)", rb"startxref\s+(\d+)")
    )
    place = len(data) + 1
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"\n%s 0 obj\n<</Length %d>>\nstream\n" % (count, size))
        file.seek(size, os.SEEK_CUR)
        file.write(b"\nendstream\nendobj\n")
        table = file.tell()
        file.write(b"xref\n%s 1\n%010d 00000 n \n" % (count, place))
        trailer = b"trailer\n<</Root %s /Size %d /Prev %s>>\n" % (root, int(count) + 1, start)
        file.write(trailer + b"startxref\n%d\n%%%%EOF\n" % table)
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_gigabyte_does_not_go_through_memory(run: Callable[..., Running], tmp_path: Path) -> None:
    path = large_pdf(tmp_path / "big.pdf", 1024**3)
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    running = run()
    account = running.control.credentials()
    form: dict[str, Any] = {n: account[n] for n in ("client_id", "client_secret")}
    form |= {"grant_type": "client_credentials", "scope": "openid permissions global.wildcard"}
    token = requests.post(running.url + "/auth2/connect/token", data=form, timeout=30).json()
    headers = {"Authorization": "Bearer " + token["access_token"]}
    base = running.url + "/api/publicapi/v1/transactions"

    def make() -> str:
        body = {"skillId": "workspace.default.processing"}
        return requests.post(base, json=body, headers=headers, timeout=30).json()["transactionId"]

    def upload(key: str, source: Path) -> None:
        with source.open("rb") as file:
            encoder = MultipartEncoder({"Files": (source.name, file, "application/pdf")})
            reply = requests.post(
                f"{base}/{key}/files",
                data=encoder,
                headers={**headers, "Content-Type": encoder.content_type},
                timeout=300,
            )
        assert reply.status_code == 200, reply.text

    small = tmp_path / "small.pdf"
    small.write_bytes(b"%PDF-1.7\n" + bytes(1_000_000))
    upload(make(), small)
    before = high_water(running.process.pid)
    key = make()
    upload(key, path)
    seen = running.control.transaction(key)
    assert seen["files"] == [{"name": "big.pdf", "size": size, "sha256": digest.hexdigest()}]

    (document,) = requests.get(f"{base}/{key}/documents", headers=headers, timeout=30).json()
    url = f"{base}/{key}/documents/{document['documentId']}/sourceFiles/"
    url += document["sourceFiles"][0]["id"] + "/download"
    got = hashlib.sha256()
    with requests.get(url, headers=headers, stream=True, timeout=300) as reply:
        for piece in reply.iter_content(1 << 20):
            got.update(piece)
    assert got.hexdigest() == digest.hexdigest()

    # Processing reads only what it needs.
    requests.post(f"{base}/{key}/start", headers=headers, timeout=30).raise_for_status()
    states = [
        requests.get(f"{base}/{key}", headers=headers, timeout=300).json()["status"]
        for _ in range(3)
    ]
    assert states[-1] == "Processed"
    assert high_water(running.process.pid) - before < 32 * 1024**2
    assert running.end(signal.SIGTERM)[0] == 0
