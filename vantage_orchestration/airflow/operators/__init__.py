# SPDX-License-Identifier: Apache-2.0
"""Operators for ABBYY Vantage."""
