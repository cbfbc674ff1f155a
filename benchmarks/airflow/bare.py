# SPDX-License-Identifier: Apache-2.0
"""What one writes without this package: a loop over files with ``requests`` and a pool of threads.

It has no store for tokens, renews none, repeats nothing, knows nothing of what an earlier try has
sent, writes results in place, and fails for all files if one request fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from place import Account
from requests.adapters import HTTPAdapter

__all__ = ["process"]


class _Loop:
    """One client of the API with as many connections as threads."""

    def __init__(self, account: Account, parallel: int, interval: float, look: bool) -> None:
        self._interval = interval
        self._look = look
        self._pool = ThreadPoolExecutor(parallel)
        self._api = f"{account.url}/api/publicapi/v1"
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.mount("http://", HTTPAdapter(pool_maxsize=parallel))
        login = {
            "grant_type": "password",
            "scope": "openid permissions global.wildcard",
            "username": account.username,
            "password": account.password,
            "client_id": account.client_id,
            "client_secret": account.client_secret,
        }
        reply = self._http.post(f"{account.url}/auth2/connect/token", data=login, timeout=30)
        reply.raise_for_status()
        self._http.headers["Authorization"] = f"Bearer {reply.json()['access_token']}"

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response:
        reply = self._http.request(method, f"{self._api}{path}", timeout=30, **options)
        reply.raise_for_status()
        return reply

    def run(self, groups: Sequence[Sequence[Path]], skill_id: str, output: Path) -> None:
        """Process each group of files as one transaction."""
        with self._pool:
            if len(groups) > 1:
                waiting = list(self._pool.map(lambda group: self._send(group, skill_id), groups))
            else:
                waiting = [self._send_together(groups[0], skill_id)]
            while True:
                ended = dict(zip(waiting, self._pool.map(self._status, waiting), strict=True))
                wanted = [
                    (name, number, file)
                    for name, reply in ended.items()
                    for number, document in enumerate(reply.get("documents") or (), 1)
                    for file in document.get("resultFiles") or ()
                    if reply["status"] == "Processed"
                ]
                list(self._pool.map(lambda each: self._download(output, *each), wanted))
                waiting = [
                    name
                    for name, reply in ended.items()
                    if reply["status"] in ("New", "Processing")
                ]
                if not waiting:
                    return
                time.sleep(self._interval)

    def _create(self, skill_id: str) -> str:
        return str(
            self._ask("POST", "/transactions", json={"skillId": skill_id}).json()["transactionId"]
        )

    def _add(self, name: str, index: int, file: Path) -> None:
        with file.open("rb") as stream:
            model = json.dumps({"files": [{"index": index}]})
            parts = [
                ("Model", (None, model, "application/json")),
                ("Files", (file.name, stream, "application/octet-stream")),
            ]
            self._ask("POST", f"/transactions/{name}/files", files=parts)

    def _start(self, name: str, files: int) -> None:
        if self._look and len(self._status(name)["sourceFiles"]) != files:
            raise RuntimeError("a file has not arrived")
        self._ask("POST", f"/transactions/{name}/start")

    def _send(self, group: Sequence[Path], skill_id: str) -> str:
        name = self._create(skill_id)
        for index, file in enumerate(group):
            self._add(name, index, file)
        self._start(name, len(group))
        return name

    def _send_together(self, group: Sequence[Path], skill_id: str) -> str:
        name = self._create(skill_id)
        list(self._pool.map(lambda each: self._add(name, *each), enumerate(group)))
        self._start(name, len(group))
        return name

    def _status(self, name: str) -> dict[str, Any]:
        return dict(self._ask("GET", f"/transactions/{name}").json())

    def _download(self, output: Path, name: str, number: int, file: dict[str, Any]) -> None:
        reply = self._ask("GET", f"/transactions/{name}/files/{file['fileId']}/download")
        folder = output / name / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file["fileName"]).write_bytes(reply.content)


def process(
    account: Account,
    groups: Sequence[Sequence[Path]],
    skill_id: str,
    output: Path,
    *,
    parallel: int,
    interval: float,
    look: bool,
) -> None:
    """Send files, wait, and write their results into a folder.

    Args:
        account: Where to.
        groups: Files of each transaction.
        skill_id: Skill.
        output: Folder.
        parallel: Connections.
        interval: Seconds between two looks.
        look: Read each transaction before its start, and see whether its files have arrived.
    """
    _Loop(account, parallel, interval, look).run(groups, skill_id, output)
