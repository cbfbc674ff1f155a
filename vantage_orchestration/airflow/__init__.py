# SPDX-License-Identifier: Apache-2.0
"""ABBYY Vantage in Apache Airflow: connection type, hook and helpers for tasks.

* :class:`vantage_orchestration.airflow.hooks.vantage.VantageHook`
* :func:`vantage_orchestration.airflow.context.task_key`
* :func:`vantage_orchestration.airflow.errors.translate`
"""
