# SPDX-License-Identifier: Apache-2.0
# An image for flow runs and for workers of Prefect, with the store of S3.
#
#   docker build -f prefect.Dockerfile -t registry.example.com/prefect-abbyy-vantage:3.7.7 .
#
# constraints.txt is that of this project. It holds SQLAlchemy below 2.1, which Prefect's server needs.
ARG PREFECT_VERSION=3.7.7
ARG PYTHON_VERSION=3.12
FROM prefecthq/prefect:${PREFECT_VERSION}-python${PYTHON_VERSION}
ARG PREFECT_VERSION
COPY constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt \
    "prefect==${PREFECT_VERSION}" "vantage-orchestration[prefect]" s3fs
COPY flows /opt/prefect/flows
