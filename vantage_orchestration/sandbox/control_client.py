# SPDX-License-Identifier: Apache-2.0
"""Client for the control routes of a running sandbox."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

_TIMEOUT = 30.0


class SandboxControlError(RuntimeError):
    """The sandbox refused a control call."""


class SandboxControl:
    """Reads and steers a running sandbox.

    Args:
        url: Base address of the sandbox, for example ``http://127.0.0.1:8080``.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def call(self, method: str, path: str, **options: Any) -> Any:
        import requests

        # trust_env off: a proxy of the environment must not see calls to this machine.
        with requests.Session() as session:
            session.trust_env = False
            reply = session.request(
                method, f"{self.url}/sandbox/{path}", timeout=_TIMEOUT, **options
            )
        if reply.status_code != 200:
            try:
                text = reply.json()["error"]
            except (ValueError, KeyError, TypeError):
                text = f"HTTP status {reply.status_code}"
            raise SandboxControlError(f"{method} {path}: {text}")
        return reply.json()

    def health(self) -> dict[str, Any]:
        """Return ``status`` and ``pid`` of the server."""
        found: dict[str, Any] = self.call("GET", "health")
        return found

    def journal(
        self, method: str | None = None, path_regex: str | None = None, since: int = 0
    ) -> list[dict[str, Any]]:
        """Return the requests made so far.

        Args:
            method: Only requests with this HTTP method.
            path_regex: Only requests whose path this regular expression is found in.
            since: Only requests with a higher number (``seq``).
        """
        query: dict[str, Any] = {"method": method, "path_regex": path_regex, "since": since}
        found: list[dict[str, Any]] = self.call("GET", "journal", params=query)
        return found

    def count(
        self, method: str | None = None, path_regex: str | None = None, since: int = 0
    ) -> int:
        """Return the number of such requests; see :meth:`journal`."""
        return len(self.journal(method, path_regex, since))

    def add_fault(self, **rule: Any) -> int:
        """Switch on a fault and return its number.

        Args:
            rule: Members of :class:`vantage_orchestration.sandbox.faults.FaultRule`, for
                example ``operation="startTransaction", status=503, times=2``.
        """
        return int(self.call("POST", "faults", json=rule)["id"])

    def faults(self) -> list[dict[str, Any]]:
        """Return all fault rules, each with ``hits``."""
        found: list[dict[str, Any]] = self.call("GET", "faults")
        return found

    def clear_faults(self) -> None:
        """Remove all fault rules."""
        self.call("DELETE", "faults")

    def revoke_tokens(self, sha256: str | None = None) -> int:
        """Revoke all tokens, or the one with that SHA-256. Return how many were good before."""
        return int(self.call("POST", "tokens/revoke", json={"sha256": sha256})["revoked"])

    def unlock_accounts(self) -> None:
        """Unlock accounts that were locked after wrong passwords."""
        self.call("POST", "accounts/unlock")

    def transactions(self) -> list[dict[str, Any]]:
        """Return every transaction as the server sees it, of all tenants."""
        found: list[dict[str, Any]] = self.call("GET", "transactions")
        return found

    def transaction(self, transaction_id: str) -> dict[str, Any]:
        """Return one transaction as the server sees it.

        Raises:
            KeyError: There is none.
        """
        for item in self.transactions():
            if item["id"] == transaction_id:
                return item
        raise KeyError(transaction_id)

    def receive(
        self,
        skill: str,
        files: Mapping[str, bytes] | Iterable[tuple[str, bytes]] | None = None,
        source: str = "Mail",
        parameters: Mapping[str, str] | None = None,
    ) -> str:
        """Receive a transaction by another channel than the API; return its id.

        It belongs to the main tenant and is started at once.

        Args:
            skill: Id or name of the skill.
            files: Contents by file name; None for a PDF of one page.
            source: ``SourceType`` of the files, for example ``Mail``, ``Scanner``, ``Mobile``.
            parameters: Its registration parameters.
        """
        return self.receive_many(1, skill, files, source, parameters)[0]

    def receive_many(
        self,
        count: int,
        skill: str,
        files: Mapping[str, bytes] | Iterable[tuple[str, bytes]] | None = None,
        source: str = "Mail",
        parameters: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Receive many equal transactions at once; return their ids, oldest first.

        Args:
            count: How many.
            skill: As in :meth:`receive`, like all that follow.
            files: Contents by file name; None for a PDF of one page.
            source: ``SourceType`` of the files.
            parameters: Their registration parameters.
        """
        order: dict[str, Any] = {
            "skill": skill,
            "source": source,
            "count": count,
            "parameters": dict(parameters or {}),
        }
        if files is not None:
            pairs = files.items() if isinstance(files, Mapping) else files
            order["files"] = [
                {"name": name, "content": base64.b64encode(data).decode()} for name, data in pairs
            ]
        found: list[str] = self.call("POST", "transactions", json=order)["ids"]
        return found

    def add_others(
        self,
        count: int,
        skill: str,
        *,
        ended: bool = True,
        seconds: float = 0.0,
        parameters: Mapping[str, str] | None = None,
        source: str = "Mail",
    ) -> None:
        """Add transactions of other people, which are listed and can't be read.

        Args:
            count: How many.
            skill: Id or name of the skill.
            ended: Whether they were processed; otherwise they run for ever.
            seconds: Period in which they were created, up to now, at equal intervals.
            parameters: Their registration parameters.
            source: Where they came in; ``PublicAPI`` adds the service's own parameter.
        """
        order = {
            "count": count,
            "skill": skill,
            "ended": ended,
            "seconds": seconds,
            "parameters": dict(parameters or {}),
            "source": source,
        }
        self.call("POST", "transactions/others", json=order)

    def finish_review(self, transaction_id: str, status: str = "Processed") -> None:
        """End a manual review.

        Args:
            transaction_id: A transaction that waits for a review.
            status: ``Processed``, ``Failed`` or ``Canceled``.
        """
        self.call("POST", f"transactions/{transaction_id}/review", json={"status": status})

    def settings(self) -> dict[str, Any]:
        """Return the present settings."""
        found: dict[str, Any] = self.call("GET", "settings")
        return found

    def set(self, **settings: Any) -> dict[str, Any]:
        """Change settings and return all of them.

        Args:
            settings: Members of :class:`vantage_orchestration.sandbox.SandboxSettings` other
                than the account and the seed.
        """
        found: dict[str, Any] = self.call("POST", "settings", json=settings)
        return found

    def advance(self, seconds: float) -> None:
        """Move the sandbox's clock forward; tokens, links and transactions get older."""
        self.call("POST", "clock", json={"seconds": seconds})

    def skills(self) -> list[dict[str, Any]]:
        """Return all skills, also the unpublished and the restricted one."""
        found: list[dict[str, Any]] = self.call("GET", "skills")
        return found

    def skill_id(self, name: str) -> str:
        """Return the id of the skill with that name.

        Raises:
            KeyError: There is none.
        """
        for skill in self.skills():
            if skill["name"] == name:
                return str(skill["id"])
        raise KeyError(name)

    def issued_secrets(self) -> list[str]:
        """Return every token and every link token issued so far.

        For searches that prove that none is in a log or a file.
        """
        found = self.call("GET", "secrets")
        return [*found["tokens"], *found["links"]]

    def credentials(self) -> dict[str, Any]:
        """Return the made-up accounts, passwords and secrets included.

        The main account stands at the top: ``tenant_id``, ``username``, ``password``,
        ``client_id``, ``client_secret``; all others are in ``tenants``, ``clients``, ``users``.
        """
        found: dict[str, Any] = self.call("GET", "credentials")
        return found

    def reset(self) -> None:
        """Forget everything but the clock, revoke all tokens, and restore the settings."""
        self.call("POST", "reset")
