# SPDX-License-Identifier: Apache-2.0
"""A fresh process that imports one library, gets one token and prints how long each part took.

``python first.py CONTESTANT SETTING``, the setting as JSON. Everything that is not needed is
imported after the clock has stopped, so that each library pays for its own imports.
"""

import sys
from time import perf_counter


def main() -> None:
    """Take the times."""
    import os

    import contestants

    os.environ.update(OAUTHLIB_INSECURE_TRANSPORT="1", AUTHLIB_INSECURE_TRANSPORT="1")
    kind = contestants.CONTESTANTS[sys.argv[1]]
    setting = contestants.Setting(*sys.argv[2:])
    begun = perf_counter()
    kind.load()
    imported = perf_counter()
    kind(setting).get()
    ended = perf_counter()
    sys.stdout.write(f"{imported - begun} {ended - imported}\n")


if __name__ == "__main__":
    main()
