# SPDX-License-Identifier: Apache-2.0
"""Typed tables of extracted fields. They need the extra ``tables`` (pyarrow)."""
