# SPDX-License-Identifier: Apache-2.0
"""Runs functions of ``inside`` with Airflow loaded, each in a process of its own.

Loading Airflow takes seconds, and it changes logging and the environment. So one process loads it
once, and forks for each call: no call sees what another has left in memory. Started as a program;
reads a JSON line for each call and answers with two: the process's id when it begins, its exit
code when it is over.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path


def main() -> int:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    # From here on stdout and stderr are Airflow's; tests search them for secrets.
    output = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.path.append(str(Path(__file__).parents[1]))  # For the modules that all tests share.
    import inside

    inside.prepare()
    answers.write("ready\n")
    for line in sys.stdin:
        call = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                answers.close()
                Path(call["answer"]).write_text(json.dumps(_answer(inside, call)))
                code = 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        answers.write(f"{child}\n")
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
    return 0


def _answer(inside: object, call: dict) -> dict:
    os.environ.update(call["environment"])
    try:
        inside.after_fork()
        # A name with a dot is that of a function in another module of this folder.
        module, _, name = call["function"].rpartition(".")
        place = importlib.import_module(module) if module else inside
        return {"result": getattr(place, name)(**call["arguments"])}
    except BaseException:
        return {"failure": traceback.format_exc()}


if __name__ == "__main__":
    sys.exit(main())
