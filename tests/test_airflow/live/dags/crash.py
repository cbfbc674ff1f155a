# SPDX-License-Identifier: Apache-2.0
"""Airflow Dags that are disturbed: each processes documents, with other options."""

from __future__ import annotations

from test_airflow.live.one_task import make

crash = make("crash")
crash_delete_on_kill = make("crash_delete_on_kill", delete_on_kill=True)
crash_short = make("crash_short", timeout=6, retries=50)
crash_in_worker = make("crash_in_worker", deferrable=False)
crash_delete_after = make("crash_delete_after", delete_after=True)
