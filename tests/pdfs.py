# SPDX-License-Identifier: Apache-2.0
"""PDF files for tests, made on the spot, the same bytes for the same arguments."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

from fpdf import FPDF

_MADE = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)

INVOICE = {
    "Invoice Number": "INV-1001",
    "Invoice Date": "2026-03-01",
    "Order Number": "PO-77",
    "Supplier": "Example Ltd",
    "Customer": "Second Example Ltd",
    "Currency": "EUR",
    "Net Amount": "100.00",
    "Tax Amount": "20.00",
    "Total": "120.00",
}
ITEMS = (("Bolt M8", "40", "1.50", "60.00"), ("Nut M8", "40", "1.00", "40.00"))


def make_pdf(path: str | Path, lines: Sequence[str], pages: int = 1) -> Path:
    """Write a PDF with these lines on its first page; further pages only say their number."""
    pdf = FPDF()
    pdf.set_creation_date(_MADE)
    for number in range(1, pages + 1):
        pdf.add_page()
        pdf.set_font("helvetica", size=11)
        for line in lines if number == 1 else [f"Page {number}"]:
            pdf.cell(0, 8, line, new_x="LMARGIN", new_y="NEXT")
    path = Path(path)
    path.write_bytes(bytes(pdf.output()))
    return path


def make_invoice(
    path: str | Path,
    number: str = "INV-1001",
    *,
    pages: int = 1,
    items: Sequence[Sequence[str]] = ITEMS,
    extra_lines: Sequence[str] = (),
    **fields: str,
) -> Path:
    """Write an invoice the sandbox's Invoice skill can read.

    Args:
        path: Where to.
        number: Its number.
        pages: Number of pages.
        items: Rows of the table: description, quantity, unit price, amount.
        extra_lines: Further lines of text.
        fields: Other values, such as ``net_amount="5.00"``; empty leaves the line out.
    """
    values: Mapping[str, str] = {
        **INVOICE,
        **{name.replace("_", " ").title(): value for name, value in fields.items()},
        "Invoice Number": number,
    }
    lines = ["INVOICE", *(f"{label}: {value}" for label, value in values.items() if value)]
    if items:
        lines.append("Description | Quantity | Unit Price | Amount")
        lines += [" | ".join(row) for row in items]
    return make_pdf(path, [*lines, *extra_lines], pages)
