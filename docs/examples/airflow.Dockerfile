# SPDX-License-Identifier: Apache-2.0
# An image for all parts of Airflow: workers, triggerers, API server, scheduler, DAG processor.
#
#   docker build -f airflow.Dockerfile -t registry.example.com/airflow-abbyy-vantage:3.3.2 .
#
# constraints.txt is the constraints file of that release of Airflow and that Python. With it, and
# with Airflow's own version in the same command, nothing that Airflow pins is moved.
ARG AIRFLOW_VERSION=3.3.2
ARG PYTHON_VERSION=3.12
FROM apache/airflow:${AIRFLOW_VERSION}-python${PYTHON_VERSION}
ARG AIRFLOW_VERSION
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt \
    "apache-airflow==${AIRFLOW_VERSION}" "vantage-orchestration[airflow]"
