# SPDX-License-Identifier: Apache-2.0
"""Sensors for ABBYY Vantage."""
