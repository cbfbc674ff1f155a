# SPDX-License-Identifier: Apache-2.0
"""The command ``vantage-orchestration sandbox``."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from .settings import LIST_ORDERS, PARAMETER_FILTERS, SandboxSettings, SettingsError

if TYPE_CHECKING:
    from types import FrameType

HELP = "run a local stand-in for ABBYY Vantage, for trials and tests"

_DEFAULTS = SandboxSettings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=int, default=8080, help="port to listen on, 0 for a free one (%(default)s)"
    )
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="allow an address that other machines can reach; the account is made up, "
        "but what is uploaded is not protected",
    )
    parser.add_argument("--seed", type=int, default=1, help="ids follow from it (%(default)s)")
    parser.add_argument(
        "--token-lifetime",
        type=int,
        metavar="SECONDS",
        default=_DEFAULTS.token_lifetime,
        help="lifetime of access tokens (%(default)s)",
    )
    parser.add_argument(
        "--lockout",
        type=int,
        metavar="N",
        default=_DEFAULTS.lockout,
        help="wrong passwords in a row that lock an account, 0 for never (%(default)s)",
    )
    parser.add_argument(
        "--processing-polls",
        type=int,
        metavar="N",
        default=_DEFAULTS.processing_polls,
        help="status calls that answer Processing before a transaction ends (%(default)s)",
    )
    parser.add_argument(
        "--processing-seconds",
        type=float,
        metavar="S",
        default=_DEFAULTS.processing_seconds,
        help="least time a transaction stays Processing (%(default)s)",
    )
    parser.add_argument(
        "--review", action="store_true", help="demand a manual review for every transaction"
    )
    parser.add_argument(
        "--list-new", action="store_true", help="show new transactions on the active list"
    )
    parser.add_argument(
        "--list-lag",
        type=float,
        metavar="S",
        default=_DEFAULTS.list_lag,
        help="time the lists of transactions lag behind (%(default)s)",
    )
    parser.add_argument(
        "--list-order",
        choices=LIST_ORDERS,
        default=_DEFAULTS.list_order,
        help="order of the lists of transactions (%(default)s)",
    )
    parser.add_argument(
        "--parameter-filter",
        choices=PARAMETER_FILTERS,
        default=_DEFAULTS.parameter_filter,
        help="how the lists read filters by parameters (%(default)s)",
    )
    parser.add_argument(
        "--max-upload-bytes",
        type=int,
        metavar="N",
        default=_DEFAULTS.max_upload_bytes,
        help="size limit of the files of a transaction (%(default)s)",
    )
    parser.add_argument("--username", default=_DEFAULTS.username, help="user (%(default)s)")
    parser.add_argument("--password", default=_DEFAULTS.password, help="password (made up)")
    parser.add_argument("--client-id", default=_DEFAULTS.client_id, help="API client (%(default)s)")
    parser.add_argument("--client-secret", default=_DEFAULTS.client_secret, help="its secret")
    parser.add_argument("--tenant-id", default="", help="tenant id (made from the seed)")
    parser.add_argument(
        "--ready-file",
        type=Path,
        metavar="PATH",
        help="write url and pid there as JSON once requests are answered; removed at the end",
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")


def run(args: argparse.Namespace) -> int:
    """Run the sandbox until SIGINT or SIGTERM.

    Returns:
        0 after SIGTERM, 130 after SIGINT, 1 if the address can't be used or a library is
        missing, 2 if an option is wrong.
    """
    if not args.allow_remote and not _is_loopback(args.host):
        return _fail(2, f"{args.host} is not an address of this machine only; see --allow-remote")
    try:
        settings = SandboxSettings(
            seed=args.seed,
            username=args.username,
            password=args.password,
            client_id=args.client_id,
            client_secret=args.client_secret,
            tenant_id=args.tenant_id,
            token_lifetime=args.token_lifetime,
            lockout=args.lockout,
            processing_polls=args.processing_polls,
            processing_seconds=args.processing_seconds,
            review=args.review,
            list_new=args.list_new,
            list_lag=args.list_lag,
            list_order=args.list_order,
            parameter_filter=args.parameter_filter,
            max_upload_bytes=args.max_upload_bytes,
        )
    except SettingsError as error:
        return _fail(2, str(error))
    try:
        from .server import SandboxServer
    except ImportError as error:
        return _fail(
            1, f"{error.name} is missing; install the extra: vantage-orchestration[sandbox]"
        )
    ended = _wait_for_signals()
    server = SandboxServer(settings, host=args.host, port=args.port)
    try:
        server.start()
    except (OSError, OverflowError, RuntimeError) as error:
        return _fail(1, f"can't listen on {args.host}:{args.port}: {error}")
    try:
        if args.ready_file is not None:
            _write_ready(args.ready_file, server.url)
        if not args.quiet:
            sys.stdout.write(_greeting(server.url, server.credentials))
            sys.stdout.flush()
        number = ended()
    finally:
        server.stop()
        if args.ready_file is not None:
            args.ready_file.unlink(missing_ok=True)
    return 130 if number == signal.SIGINT else 0


class _Signals:
    """Waits for the first of the signals that end the command."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._number = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._number = self._number or number
        self._event.set()

    def __call__(self) -> int:
        # A wait without a limit can't be interrupted by signals on every platform.
        while not self._event.wait(1.0):
            pass
        return self._number


def _wait_for_signals() -> _Signals:
    return _Signals()


def _fail(code: int, text: str) -> int:
    sys.stderr.write(f"sandbox: {text}\n")
    return code


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _write_ready(path: Path, url: str) -> None:
    """Write the file in one step, so that a reader never sees half of it."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps({"url": url, "pid": os.getpid()}), encoding="utf-8")
    partial.replace(path)


def _greeting(url: str, account: dict[str, str]) -> str:
    connection = {
        "conn_type": "abbyy_vantage",
        "login": account["username"],
        "password": account["password"],
        "host": url,
        "extra": {
            "region": "custom",
            "client_id": account["client_id"],
            "client_secret": account["client_secret"],
        },
    }
    return f"""ABBYY Vantage sandbox: {url}
All of this is made up; no secret of yours is needed here.

  user name      {account["username"]}
  password       {account["password"]}
  client id      {account["client_id"]}
  client secret  {account["client_secret"]}
  tenant id      {account["tenant_id"]}

Apache Airflow (for a shell):

  export AIRFLOW_CONN_ABBYY_VANTAGE_DEFAULT={shlex.quote(json.dumps(connection))}

Prefect:

  from vantage_orchestration.prefect import VantageCredentials

  VantageCredentials(
      region="custom",
      base_url={url!r},
      username={account["username"]!r},
      password={account["password"]!r},
      client_id={account["client_id"]!r},
      client_secret={account["client_secret"]!r},
  ).save("abbyy-vantage", overwrite=True)

Control routes (this machine only): {url}/sandbox/health
Stop with Ctrl-C.
"""
