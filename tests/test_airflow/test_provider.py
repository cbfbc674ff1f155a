# SPDX-License-Identifier: Apache-2.0
"""What the package declares to Airflow, against Airflow's own schemas."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest

from vantage_orchestration.airflow.connection import COLUMNS
from vantage_orchestration.airflow.provider import get_provider_info
from vantage_orchestration.config import FIELDS


def airflow_schema(name: str) -> dict:
    spec = importlib.util.find_spec("airflow")  # Finds it, and does not import it.
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return json.loads((Path(spec.submodule_search_locations[0]) / name).read_text())


def strict() -> jsonschema.Draft7Validator:
    """The schema for authors of providers; its properties of the whole file are for Airflow's."""
    return jsonschema.Draft7Validator(
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "properties": {
                name: airflow_schema("provider.yaml.schema.json")["properties"][name]
                for name in ("connection-types", "integrations", "hooks", "package-name", "name")
            },
            "additionalProperties": True,
        }
    )


def test_fits_the_strict_schema() -> None:
    info = get_provider_info()
    strict().validate(info)
    connection = info["connection-types"][0]
    connection["conn-fields"]["region"]["widget"] = "select"
    with pytest.raises(jsonschema.ValidationError):
        strict().validate(info)


def test_fits_the_runtime_schema() -> None:
    jsonschema.Draft7Validator(airflow_schema("provider_info.schema.json")).validate(
        get_provider_info()
    )


def test_the_guide_and_the_logo_are_there() -> None:
    (integration,) = get_provider_info()["integrations"]
    root = Path(__file__).parents[2]
    for guide in integration["how-to-guide"]:
        assert guide.startswith("/docs/")
        assert (root / guide.lstrip("/")).is_file()
    assert integration["logo"].startswith("/integration-logos/")
    logo = resources.files("vantage_orchestration.airflow") / integration["logo"].lstrip("/")
    picture = ElementTree.fromstring(logo.read_text())
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert {each.tag.partition("}")[2] for each in picture.iter() if isinstance(each.tag, str)} <= {
        "svg",
        "path",
        "rect",
    }


def test_entry_point_and_names() -> None:
    mine = [
        point
        for point in entry_points(group="apache_airflow_provider")
        if point.dist is not None and point.dist.name == "vantage-orchestration"
    ]
    assert [point.load() for point in mine] == [get_provider_info]
    info = get_provider_info()
    assert info["package-name"] == mine[0].dist.name
    (connection,) = info["connection-types"]
    assert "__" not in connection["connection-type"]


def test_form_follows_the_list_of_fields() -> None:
    (connection,) = get_provider_info()["connection-types"]
    form = connection["conn-fields"]
    kept = [spec for spec in FIELDS if spec.name not in COLUMNS]
    assert list(form) == [spec.name for spec in kept]
    for spec in kept:
        field = form[spec.name]
        assert (field["label"], field["description"]) == (spec.label, spec.description)
        assert ("null" in field["schema"]["type"]) != spec.needed
        assert field["schema"].get("enum", []) == list(spec.choices)
        assert (field["schema"].get("format") == "password") == (spec.kind == "secret")
        assert field["schema"].get("default", "") == spec.default
    labels = {spec.name: spec.label for spec in FIELDS}
    assert connection["ui-field-behaviour"]["relabeling"] == {
        column: labels[name] for name, column in COLUMNS.items()
    }


def test_loads_nothing_heavy() -> None:
    code = (
        "import sys, vantage_orchestration.airflow.provider as p; p.get_provider_info();"
        "print(sorted({'airflow', 'requests', 'pendulum', 'tenacity'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
