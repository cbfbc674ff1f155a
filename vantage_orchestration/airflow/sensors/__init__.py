# SPDX-License-Identifier: Apache-2.0
"""Sensors for ABBYY Vantage."""

from vantage_orchestration.airflow import compat  # noqa: F401 - refuses an Airflow that is too old
