# SPDX-License-Identifier: Apache-2.0
"""Pages in Airflow's API server: the ABBYY Vantage transactions of a task instance.

* :mod:`vantage_orchestration.airflow.pages.app`: routes and access control
* :mod:`vantage_orchestration.airflow.pages.service`: queries to ABBYY Vantage
* :mod:`vantage_orchestration.airflow.pages.html`: HTML
"""
