# SPDX-License-Identifier: Apache-2.0
"""Counts the pages of files before anything is started, since pages are charged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vantage_orchestration.errors import ConfigurationError

if TYPE_CHECKING:
    from vantage_orchestration.processing.plan import PlannedFile, Unit

__all__ = ["check_pages"]


def check_pages(units: Iterable[Unit], most: int, known: int = 0) -> None:
    """Refuse to start more pages than the limit of a task.

    Args:
        units: Units to start. Files that an earlier try has processed do not count.
        most: Highest number of pages of the run.
        known: Pages of the run that were already charged.

    Raises:
        ConfigurationError: There are more, or pypdf is not installed. Nothing was sent.
    """
    files = [file for unit in units for file in unit.files]
    pages = sum(map(_pages, files))
    if known + pages > most:
        before = f" and {known} of earlier tries" if known else ""
        raise ConfigurationError(
            f"The {len(files)} files have {pages} pages{before}, more than the {most} that"
            " max_pages allows",
            hint="Nothing was sent. Raise max_pages, or process fewer files at a time",
        )


def _pages(file: PlannedFile) -> int:
    if not file.original_name.lower().endswith(".pdf"):
        return 1
    try:
        from pypdf import PdfReader
        from pypdf.errors import PyPdfError
    except ImportError:
        raise ConfigurationError(
            "max_pages needs pypdf, which is not installed", hint="Install it: pip install pypdf"
        ) from None
    try:
        with file.source.open() as stream:
            return len(PdfReader(stream).pages)
    except (PyPdfError, ValueError, KeyError, TypeError, RecursionError):
        return 1  # It is no PDF that can be read. The service will say so.
