# SPDX-License-Identifier: Apache-2.0
"""Addresses of files and folders as lineage and assets name them."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

#: Aliases of a scheme.
_SAME: Final = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "local": "file"}
#: Schemes that name the container where others name a user.
_CONTAINER: Final = frozenset({"abfs", "abfss", "wasb", "wasbs"})


class StorageUrl(NamedTuple):
    """Address of a file or folder, without credentials, query and fragment."""

    #: For example ``file`` or ``s3``.
    scheme: str
    #: Bucket, container or host; empty for local files.
    authority: str
    #: Absolute path, beginning with a slash.
    path: str

    @classmethod
    def of(cls, url: str) -> StorageUrl:
        """Parse a URL or a local path. No I/O.

        A user name before the bucket (Airflow's way to name a connection,
        ``s3://conn_id@bucket/key``) and a password are dropped.
        """
        scheme, found, rest = url.partition("://")
        if not found:
            return cls("file", "", os.path.abspath(url))
        scheme = _SAME.get(scheme.lower(), scheme.lower())
        if scheme in {"http", "https"}:
            # Only in web addresses are these not part of a file's name. Signed addresses hold a key
            # in them.
            rest = rest.partition("#")[0].partition("?")[0]
        authority, _, path = rest.partition("/")
        user, _, host = authority.rpartition("@")
        if scheme not in _CONTAINER or ":" in user:
            authority = host
        return cls(scheme, authority, "/" + path.strip("/"))

    @property
    def url(self) -> str:
        """The address as a URL."""
        return f"{self.scheme}://{self.authority}{self.path}"
