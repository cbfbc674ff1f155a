# SPDX-License-Identifier: Apache-2.0
"""All errors of this package: one family.

``retryable`` of a class says whether a later retry of the same action can help. So an orchestrator
can choose between a retry and a final failure without knowing the classes. An error carries what a
reader needs (method, path, status, transaction id, the server's message, what to do) and nothing
confidential: no header, token, secret, review link, query string or body.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, TypeVar

from vantage_orchestration.text import one_line

#: What a sentence ends with, perhaps within quotes.
_ENDS = (".", "?", '."')


class VantageError(Exception):
    """Base of all errors of this package.

    Args:
        what: What failed, as a sentence without a full stop.
        hint: What the reader can do, as a sentence.
        method: HTTP method of the request that failed.
        path: Path of that request, without host and query.
        status: HTTP status of the reply, if there was one.
        transaction_id: The transaction concerned.
        server_message: The server's own message, cleaned and shortened.
        host: Host (and port) that was called.
        request_id: Value of the reply's ``x-request-id`` header, if the server sent one.
        retry_after: Seconds to wait before the next try, as asked by the server.
        doubtful: Whether the server may have carried out the request although it failed.
    """

    #: Whether a later retry, with nothing changed, can help.
    retryable: ClassVar[bool] = False
    #: Whether the server may answer so too early, before all its machines know of a change.
    early: ClassVar[bool] = False

    def __init__(
        self,
        what: str,
        *,
        hint: str | None = None,
        method: str | None = None,
        path: str | None = None,
        status: int | None = None,
        transaction_id: str | None = None,
        server_message: str | None = None,
        host: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        doubtful: bool = False,
    ) -> None:
        self.what = one_line(what)
        super().__init__(self.what)
        texts = (hint, path, transaction_id, server_message, host, request_id)
        (
            self.hint,
            self.path,
            self.transaction_id,
            self.server_message,
            self.host,
            self.request_id,
        ) = (text and one_line(text) for text in texts)
        self.method = method
        self.status = status
        self.retry_after = retry_after
        self.doubtful = doubtful

    def details(self) -> dict[str, Any]:
        """Return all details as keyword arguments for the constructor."""
        names = VantageError.__init__.__kwdefaults__ or {}
        return {name: getattr(self, name) for name in names}

    def __str__(self) -> str:
        # A message about several transactions names them itself.
        named = self.transaction_id is not None and self.transaction_id in self.what
        parts = {
            "status": self.status,
            "transaction": None if named else self.transaction_id,
            "host": self.host,
            "request id": self.request_id,
        }
        where = [f"{self.method} {self.path}"] if self.method and self.path else []
        where += [f"{name} {part}" for name, part in parts.items() if part not in (None, "")]
        text = self.what
        if where:
            text += f" ({', '.join(where)})"
        if self.server_message:
            text += f'. The server says: "{self.server_message}"'
        if self.hint:
            text += f"{' ' if text.endswith(_ENDS) else '. '}{self.hint}"
        return text if text.endswith(_ENDS) else text + "."

    def __reduce__(self) -> tuple[Any, ...]:
        # Only the cleaned details are pickled, so a pickle holds exactly what the text shows.
        return (partial(type(self), **self.details()), (self.what,))

    def copy(self) -> VantageError:
        """Return an equal error without traceback, cause and context.

        One failed login is raised in many threads. A shared exception would collect the frames of
        all of them.
        """
        return type(self)(self.what, **self.details())


class translating(AbstractContextManager[None]):
    """Raise what ``translate`` returns for an error of this package, which may be the same."""

    def __init__(self, translate: Callable[[VantageError], Exception] | None) -> None:
        self._translate = translate

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, VantageError) and self._translate is not None:
            failure = self._translate(error)
            if failure is not error:
                raise failure.with_traceback(error.__traceback__) from None


class _Translator(Protocol):
    def translating(self) -> AbstractContextManager[None]: ...


C = TypeVar("C", bound=_Translator)
E = TypeVar("E", bound=BaseException)
P = ParamSpec("P")
R = TypeVar("R")


def bare(error: E) -> E:
    """Return an error without traceback, cause and context."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def frameless(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function if its frames, or those it calls, hold secrets in plain text.

    Error trackers show the local variables of every frame of a traceback. So each exception of the
    function is raised again from a frame without arguments, and the frames below are cut off.
    """

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            failure = bare(error)
        del args, kwargs
        try:
            raise failure
        finally:
            del failure  # Else frame and error would keep each other alive.

    return wrapper


def discreet(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that reads a credential, as :func:`frameless` does.

    An error of another family may quote a value. It becomes a ConfigurationError that names only
    its class.
    """

    @frameless
    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except VantageError:
            raise
        except Exception as error:
            trace = error.__traceback__
            if type(error) is TypeError and trace is not None and trace.tb_next is None:
                raise  # It was called with wrong arguments; such an error quotes no values.
            kind = type(error).__name__
        raise ConfigurationError(
            f"The ABBYY Vantage credential can't be read ({kind})", hint="Check its values"
        )

    return wrapper


def translated(function: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """Decorate a function whose first argument is a client, so that its errors are translated."""

    @wraps(function)
    def wrapper(client: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with client.translating():
            return function(client, *args, **kwargs)

    return wrapper


class ConfigurationError(VantageError, ValueError):
    """The input or a setting is wrong. Nothing was sent."""


class FileNotReady(ConfigurationError):
    """A file is empty, has vanished or can't be read at present. Nothing was processed."""

    retryable = True


class StateUnavailable(VantageError):
    """State that an earlier try left can't be read at present. It was not overwritten."""

    retryable = True


class StateDamaged(VantageError):
    """State that an earlier try left is damaged or of another version. It was not overwritten."""


# ------------------------------------------------------------------ token


class AuthError(VantageError):
    """No access token could be obtained."""


class CredentialsRejected(AuthError):
    """User name or password is wrong, or the account is locked. Never retried automatically."""


class ClientRejected(AuthError):
    """The API client is unknown, or its secret is wrong or has expired."""


class GrantNotAllowed(AuthError):
    """The tenant or API client does not allow this grant type."""


class ScopeRejected(AuthError):
    """The token endpoint does not grant the configured scope."""


class AuthProtocolError(AuthError):
    """The answer is not that of a token endpoint: the address or the network is wrong."""


class Throttled(AuthError):
    """The token endpoint asks the client to wait."""

    retryable = True


class AuthUnavailable(AuthError):
    """The token endpoint is unreachable, out of order, or blocked by a firewall."""

    retryable = True


# -------------------------------------------------------------------- API


class ApiError(VantageError):
    """An API call failed."""


class BadRequest(ApiError):
    """400: the server rejects the request, or rejects it in the transaction's current state."""


class Unauthorized(ApiError):
    """401 for a fresh token, after one renewal. Never retried: each try would be a login."""


class Forbidden(ApiError):
    """403: the transaction belongs to another tenant, or a right is missing."""


class NotFound(ApiError):
    """404: unknown, deleted or unpublished."""

    early = True


class Conflict(ApiError):
    """409: a file of that name exists already, or there are too many files."""


class PayloadTooLarge(ApiError):
    """413: a front end refuses a body of this size."""


class RateLimited(ApiError):
    """429, even after the client's own retries."""

    retryable = True


class ServiceUnavailable(ApiError):
    """5xx, even after the client's own retries where those are safe."""

    retryable = True


class ConnectionFailed(ApiError):
    """The connection failed, or broke before the reply was complete.

    ``doubtful`` says whether the request may have arrived.
    """

    retryable = True


class ProtocolError(ApiError):
    """The reply or result does not fit the contract: a proxy sent it, or it was truncated."""

    retryable = True


class Redirected(ProtocolError):
    """3xx: the server is at another address. Redirects are not followed."""

    retryable = False


# ------------------------------------------------------------- processing


class ProcessingError(VantageError):
    """A transaction did not end with results."""


class TransactionFailed(ProcessingError):
    """The transaction ended as Failed. Its pages may have been charged."""


class TransactionCanceled(ProcessingError):
    """The transaction was cancelled in the product."""


class DocumentMismatch(ProcessingError):
    """The transaction does not hold exactly the files that were sent. A retry creates another
    one."""

    retryable = True


class FileChanged(ProcessingError):
    """A file changed, or vanished, while it was read or sent. It was not processed; the next try of
    the task reads it anew."""

    retryable = True


class JobLost(ProcessingError):
    """The output folder no longer holds the job. The next try continues with the running
    transactions."""

    retryable = True


class Overtaken(ProcessingError):
    """Another run or try is fetching the same transactions. A later try gets the rest."""

    retryable = True


class ResultsMissing(ProcessingError):
    """A document has none of the requested results. Nothing was deleted."""


class ReviewNeeded(ProcessingError):
    """A person must review the transaction, and the task is set not to wait for that."""


class LowQuality(ProcessingError):
    """Documents did not pass the quality gate, and the task is set to fail in that case."""


class RulesBroken(LowQuality):
    """Documents break business rules of their skill, and the task is set to fail in that case."""


class WaitTimeout(ProcessingError, TimeoutError):
    """The transaction has not ended in time. It keeps running; the next try finds it again."""

    retryable = True
