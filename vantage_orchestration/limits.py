# SPDX-License-Identifier: Apache-2.0
"""Limits of the service (contract, section 5), and its types of result files (section 7.1)."""

from __future__ import annotations

#: Most bytes of all files of a transaction together.
LONGEST_UPLOAD = 2 * 1024**3
#: Most files of a transaction of a Process skill; other skills accept one.
MOST_FILES = 1000
#: Most registration or skill parameters of a transaction or file.
MOST_PARAMETERS = 10
#: Characters of a parameter's name and of its value.
LONGEST_KEY = 128
LONGEST_VALUE = 256
#: Items of a page of a list.
LONGEST_PAGE = 1000
#: Days after which a transaction is deleted, whatever its status.
RETENTION_DAYS = 14
#: Types of result files.
RESULT_TYPES = (
    *("Json", "Pdf", "Text", "Docx", "Xlsx", "OcrJson", "FieldsJson", "FieldPicture"),
    *("Xml", "Tiff", "Jpeg", "Csv", "Html", "Pptx", "Alto", "Png"),
)
