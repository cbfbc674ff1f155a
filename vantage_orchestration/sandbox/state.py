# SPDX-License-Identifier: Apache-2.0
"""All state of a running sandbox. Only its event loop accesses it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path

from .accounts import seeded_accounts
from .clock import Clock
from .faults import Faults
from .ids import Ids
from .journal import Journal
from .settings import SandboxSettings
from .skills import Skills
from .tokens import TokenService
from .transactions import Transactions


class SandboxState:
    """The parts of a sandbox, wired together."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.initial = settings
        self.settings = settings
        self._temporary = tempfile.TemporaryDirectory(
            prefix="vantage-sandbox-", ignore_cleanup_errors=True
        )
        self.folder = Path(self._temporary.name)
        self.ids = Ids(settings.seed)
        self.clock = Clock()
        self.accounts = seeded_accounts(settings, self.ids)
        self.skills = Skills(self.ids)
        self.tokens = TokenService(self.accounts, self.ids, self.clock)
        self.transactions = Transactions(
            self.ids, self.clock, self.skills, self.folder, lambda: self.settings
        )
        self.journal = Journal(self.clock)
        self.faults = Faults()
        self.closing = asyncio.Event()

    def secrets(self) -> set[str]:
        """Return every text that must not be shown: passwords, tokens, tokens of links."""
        return {
            *self.accounts.secrets(),
            *self.tokens.issued(),
            *self.transactions.issued_secrets(),
        }

    def reset(self) -> None:
        """Forget transactions, faults, journal, locks and changed settings; revoke all tokens.

        Ids and tokens continue from where they were, so that none is ever issued twice.
        """
        self.settings = self.initial
        self.faults.clear()
        self.journal.clear()
        self.transactions.clear()
        self.tokens.revoke()
        self.tokens.unlock()

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than the server lives."""
        if seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.closing.wait(), seconds)

    def close(self) -> None:
        """Remove the temporary folder."""
        self._temporary.cleanup()
