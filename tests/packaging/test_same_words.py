# SPDX-License-Identifier: Apache-2.0
"""A parameter has one name and one default in Airflow and in Prefect, or a reason is given here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

#: Prints the parameters of all that people call: name to default, as text.
PARAMETERS = """
    import inspect, json, sys

    def shown(default):
        if default is inspect.Parameter.empty or repr(default) == "PydanticUndefined":
            return "required"
        return repr(default or None if isinstance(default, (dict, list, tuple)) else default)

    def defaults(call):
        return {
            name: shown(parameter.default)
            for name, parameter in inspect.signature(call).parameters.items()
            if name != "self" and parameter.kind not in (2, 4)
        }
"""
AIRFLOW = """
    from vantage_orchestration import airflow as package

    kinds = [getattr(package, name) for name in package.__all__]
    found = {
        kind.__name__: defaults(kind.__init__)
        for kind in kinds
        if isinstance(kind, type) and kind.__name__ != "VantageHook"
    }
    print(json.dumps(found))
"""
PREFECT = """
    import importlib, pkgutil
    from prefect import Flow, Task
    from vantage_orchestration import prefect as package

    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{module.name}")
        for name, value in vars(module).items():
            if isinstance(value, (Flow, Task)) and value.fn.__module__ == module.__name__:
                found[f"{type(value).__name__.lower()} {name}"] = defaults(value.fn)
    block = package.VantageSkill
    fields = {name: shown(field.default) for name, field in block.model_fields.items()}
    found["block VantageSkill"] = {**fields, **defaults(block.trigger)}
    found["block VantageTransaction"] = defaults(package.VantageTransaction.download_results)
    print(json.dumps(found))
"""

#: What each of them is in the other orchestrator.
TWINS = {
    "task process_documents": "VantageProcessDocumentsOperator",
    "flow process_documents": "VantageProcessDocumentsOperator",
    "flow process_folder": "VantageProcessDocumentsOperator",
    "block VantageSkill": "VantageProcessDocumentsOperator",
    "task submit_documents": "VantageSubmitOperator",
    "task wait_for_transactions": "VantageTransactionsSensor",
    "task download_results": "VantageDownloadResultsOperator",
    "task delete_transactions": "VantageDeleteTransactionsOperator",
    "task fetch_completed": "VantageFetchCompletedOperator",
}
#: What has no twin, and why.
ALONE = {
    "VantageTransactionCompletedTrigger": "Prefect starts a flow by a schedule or an automation",
    "task list_skills": "in Airflow, VantageHook().client.list_skills()",
    "task process_document": "returns the fields of one file; in Airflow they would fill an XCom",
    "flow resume_reviewed": "Airflow resumes a deferred task itself",
    "block VantageTransaction": "Prefect's idea of a job; in Airflow the sensor and the download",
}

DURABLE = "a task in Prefect finds what it has started by its own records, which it always has"
DEFERS = "Airflow's own: where a task waits"
KILLED = "in Prefect a hook of the flow, vantage_orchestration.prefect.undo"
NOTIFIED = "in Prefect an automation for the event of a review"
FOLDER = "a form in Prefect's UI asks for a folder and a pattern"
DOWNLOADED = "download_results() of the transaction that trigger() returns"
ONE_AT_A_TIME = "trigger() starts one transaction from the files that it is given"
#: Parameters that one of two twins has.
ON_PURPOSE = {
    "task process_documents": {
        "durable": DURABLE,
        "deferrable": DEFERS,
        "delete_on_kill": KILLED,
        "review_notifiers": NOTIFIED,
    },
    "flow process_documents": {
        "durable": DURABLE,
        "deferrable": DEFERS,
        "delete_on_kill": KILLED,
        "review_notifiers": NOTIFIED,
    },
    "flow process_folder": {
        "durable": DURABLE,
        "deferrable": DEFERS,
        "delete_on_kill": KILLED,
        "review_notifiers": NOTIFIED,
        "inputs": FOLDER,
        "folder": FOLDER,
        "pattern": FOLDER,
    },
    "block VantageSkill": {
        "durable": DURABLE,
        "deferrable": DEFERS,
        "delete_on_kill": KILLED,
        "review_notifiers": NOTIFIED,
        "output_path": DOWNLOADED,
        **dict.fromkeys(("duplicates", "on_empty", "max_files", "max_pages"), ONE_AT_A_TIME),
    },
    "task submit_documents": {
        "durable": DURABLE,
        "state_path": "a task in Prefect has its records in the storage of Prefect's results",
    },
    "task wait_for_transactions": {
        "deferrable": DEFERS,
        "delete_on_kill": KILLED,
        "review_notifiers": NOTIFIED,
        "timeout": "every sensor has it already",
    },
}
#: Defaults that differ: in Prefect and in Airflow, and why.
OTHER_DEFAULTS = {
    # A folder that is looked through every night may be empty.
    "flow process_folder": {"on_empty": ("'skip'", "'fail'")}
}
#: How each orchestrator calls a stored login.
LOGIN = {"abbyy_vantage_conn_id", "credentials"}


def parameters(code: str, folder: Path) -> dict[str, dict[str, Any]]:
    environment = {**os.environ, "AIRFLOW_HOME": str(folder), "PREFECT_HOME": str(folder)}
    script = textwrap.dedent(PARAMETERS) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_each_parameter_has_one_name_and_one_default(tmp_path: Path) -> None:
    airflow, prefect = parameters(AIRFLOW, tmp_path), parameters(PREFECT, tmp_path)
    assert {*airflow, *prefect} == {*TWINS, *TWINS.values(), *ALONE}
    one_sided, unlike = {}, {}
    for name, twin in TWINS.items():
        ours, theirs = prefect[name], airflow[twin]
        one_sided[name] = (ours.keys() ^ theirs.keys()) - LOGIN
        unlike[name] = {
            each: (ours[each], theirs[each])
            for each in ours.keys() & theirs.keys()
            if ours[each] != theirs[each]
        }
    assert one_sided == {name: set(ON_PURPOSE.get(name, ())) for name in TWINS}
    assert {name: each for name, each in unlike.items() if each} == OTHER_DEFAULTS
    words = {*LOGIN, *(word for each in prefect.values() for word in each)}
    words |= {word for each in airflow.values() for word in each}
    near = {"conn_id", "skill_id", "document", "documents", "files", "transactions"} & words
    assert near <= {"document"}, "the singular is that of process_document, which takes one file"
