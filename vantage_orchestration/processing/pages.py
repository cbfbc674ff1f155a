# SPDX-License-Identifier: Apache-2.0
"""Counts the pages of files before anything is started, since pages are charged."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.text import named

if TYPE_CHECKING:
    from vantage_orchestration.processing.inputs import PlannedFile
    from vantage_orchestration.processing.plan import Unit

log = logging.getLogger(__name__)


def check_pages(units: Iterable[Unit], most: int, known: int = 0) -> None:
    """Refuse to start units if these and the pages that were already charged exceed the limit of a
    task, or if pypdf is not installed."""
    files = [file for unit in units for file in unit.files]
    counts = [_pages(file) for file in files]
    if unknown := [each.entry for each, n in zip(files, counts, strict=True) if n is None]:
        log.warning(
            "The pages of %s can't be counted (encrypted, or no PDF that can be read): each file"
            " counts as one page",
            named(unknown),
        )
    pages = sum(1 if number is None else number for number in counts)
    if known + pages > most:
        before = f" and {known} of earlier tries" if known else ""
        raise ConfigurationError(
            f"The {len(files)} files have {pages} pages{before}, more than the {most} that"
            " max_pages allows",
            hint="Nothing was sent. Raise max_pages, or process fewer files at a time",
        )


def _pages(file: PlannedFile) -> int | None:
    """Return the number of pages; None if it can't be known."""
    if not file.entry.name.lower().endswith(".pdf"):
        return 1
    try:
        from pypdf import PdfReader
    except ImportError:
        raise ConfigurationError(
            "max_pages needs pypdf, which is not installed", hint="Install it: pip install pypdf"
        ) from None
    with file.source.open() as stream:
        try:
            return len(PdfReader(stream).pages)
        except OSError:
            raise
        except Exception:  # Of a broken file it raises whatever happens. The service will say so.
            return None
