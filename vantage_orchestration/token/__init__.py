# SPDX-License-Identifier: Apache-2.0
"""Access tokens: turns a credential into a token that is valid when used.

Both orchestrators share this package. Importing it loads neither ``requests`` nor ``pendulum``.
"""

from __future__ import annotations

from vantage_orchestration.credentials import Credentials
from vantage_orchestration.token.access import AccessToken
from vantage_orchestration.token.source import TokenSource, token_source

__all__ = ["AccessToken", "Credentials", "TokenSource", "token_source"]
