# SPDX-License-Identifier: Apache-2.0
"""Pages in Airflow's API server: the ABBYY Vantage transactions of a task instance.

* :mod:`vantage_orchestration.airflow.pages.app`: routes, and who may use them
* :mod:`vantage_orchestration.airflow.pages.service`: what is asked of ABBYY Vantage
* :mod:`vantage_orchestration.airflow.pages.html`: how it looks
"""
