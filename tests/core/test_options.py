# SPDX-License-Identifier: Apache-2.0
"""Arguments and options as people and orchestrators write them."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from vantage_orchestration import arguments, options
from vantage_orchestration.errors import ConfigurationError
from vantage_orchestration.options import Options, Processing, checked, names_of, takes

A = "0d0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"
B = "1e0f6b7e-58c0-4b3f-9a7a-1a2b3c4d5e6f"


class Lazy(Sequence[Any]):
    """A sequence as Airflow gives for the XComs of mapped tasks."""

    def __init__(self, *found: Any) -> None:
        self.found = found

    def __getitem__(self, index: Any) -> Any:
        return self.found[index]

    def __len__(self) -> int:
        return len(self.found)

    def __str__(self) -> str:
        return f"LazyXComSequence([{len(self)} items])"


@pytest.mark.parametrize(
    "value",
    [
        [A, B],
        (A, B),
        {B, A},
        Lazy(A, B),
        Lazy([A], [B], None),
        f"['{A}', '{B}']",
        f'["{A}", "{B}"]',
        f"{A},{B}",
        f"{A}\n{B}\n",
        f" {A}; {B} ",
        [A.upper(), B, A],
        {"transaction_ids": [A, B]},
        {A: "Processed", B.upper(): "Processing"},
        [{A: "Processed"}, {B: "Processed"}],
        Lazy({A: "Processed"}, {"transaction_ids": [B]}),
        f"{{'{A}': 'Processed', '{B}': 'Processed'}}",
    ],
)
def test_ids_of_transactions_are_read(value: Any) -> None:
    assert arguments.transaction_ids(value) == [A, B]


@pytest.mark.parametrize("value", [None, [], (), "", "None", "[]", " ", Lazy(), [None], {}])
def test_nothing_is_an_empty_list(value: Any) -> None:
    assert arguments.transaction_ids(value) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'; that is not a transaction id"),
        ([A, "b"], "'b'"),
        (5, "5; a list is expected"),
        ([5], "5"),
        (True, "True"),
        ({"a": A}, "an object of the type dict"),
        ({A: "Processed", "total": 1}, "an object of the type dict"),
        (str(Lazy(A, B)), "the text of an object. Pass a task's .output"),
        (object(), "an object of the type object"),
        ((each for each in (A, B)), "it can be read only once. Nothing was sent. Give a list"),
        (iter([A, B]), "it can be read only once"),
        ([map(str, [A])], "it can be read only once"),
    ],
)
def test_other_ids_are_refused_in_their_own_words(value: Any, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        arguments.transaction_ids(value)
    assert text in str(caught.value)
    assert "transaction_ids" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("a.pdf", ["a.pdf"]),
        ("a.pdf\n", ["a.pdf"]),
        (" a, b.pdf", [" a, b.pdf"]),
        (Path("a.pdf"), [Path("a.pdf")]),
        (["a", Path("b")], ["a", Path("b")]),
        ("['a', 'b']", ["a", "b"]),
        ('["a", "b"]', ["a", "b"]),
        ("('a', 'b')", ["a", "b"]),
        ("[2026]", ["[2026]"]),
        ("in [2026]/*.pdf", ["in [2026]/*.pdf"]),
        (Lazy(["a"], ["b", "c"]), ["a", "b", "c"]),
        (frozenset({"b", "a"}), ["a", "b"]),
        (None, []),
        ("None", []),
        ([], []),
    ],
)
def test_inputs_are_read(value: Any, found: list[Any]) -> None:
    assert arguments.items("inputs", value) == found


@pytest.mark.parametrize("value", [5, True, {"a": "b"}, "{'a': 'b'}", [3.5], object()])
def test_other_inputs_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="inputs"):
        arguments.items("inputs", value)


def test_parameters_become_text() -> None:
    found = arguments.pairs(
        "skill_parameters",
        {
            "a": 5,
            "b": 1.5,
            "c": True,
            "d": False,
            "e": Decimal("1.10"),
            "f": datetime.date(2026, 1, 2),
            7: "x",
        },
    )
    assert found == {
        "a": "5",
        "b": "1.5",
        "c": "Yes",
        "d": "No",
        "e": "1.10",
        "f": "2026-01-02",
        "7": "x",
    }
    for text in ("{'a': '1'}", '{"a": 1}'):
        assert arguments.pairs("skill_parameters", text) == {"a": "1"}
    assert arguments.pairs("skill_parameters", None) == {}


def test_numbers_of_numpy_are_read_as_those_of_python() -> None:
    import numpy as np

    given = {"n": np.int64(4711), "x": np.float32(0.5), "b": np.bool_(True)}
    found = Options.of(
        registration_parameters=given,
        min_confidence={"Total": np.float32(90)},
        parallel=np.int64(3),
        timeout=np.float32(1.5),
        delete_after=np.bool_(False),
    )
    assert found.registration_parameters == {"n": "4711", "x": "0.5", "b": "Yes"}
    assert (found.parallel, found.timeout, found.delete_after) == (3, 1.5, False)
    # It holds nanoseconds or years, which the number alone would not say.
    for wrong in (np.timedelta64(1, "ns"), np.array([1.5])):
        with pytest.raises(ConfigurationError, match="timeout"):
            Options.of(timeout=wrong)


@pytest.mark.parametrize("value", [{"a": None}, {"a": [1]}, {"a": float("nan")}, "a", ["a"], 5])
def test_other_parameters_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="skill_parameters"):
        Options.of(skill_parameters=value)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (["fieldsjson"], ("FieldsJson",)),
        ("FIELDSJSON, json", ("FieldsJson", "Json")),
        ("['Json', 'json']", ("Json",)),
        (["other:Sound"], ("Sound",)),
        ([], ()),
        (None, ()),
    ],
)
def test_types_of_results(value: Any, found: tuple[str, ...]) -> None:
    assert Options.of(result_types=value).result_types == found


@pytest.mark.parametrize("value", ["FieldJson", ["Sound"], 5, [None, 5], {"Json": 1}])
def test_unknown_types_of_results_are_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="result_types"):
        Options.of(result_types=value)


@pytest.mark.parametrize("name", ["timeout", "review_timeout", "poke_interval"])
@pytest.mark.parametrize("value", [None, -1, float("nan"), float("inf"), "60", True, [60]])
def test_seconds_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is"):
        checked(name, value)
    assert checked(name, datetime.timedelta(minutes=2)) == 120.0


def test_an_option_is_in_a_group_and_in_the_value_and_described() -> None:
    assert names_of(options.Every) == list(get_type_hints(Options))
    assert [name for name in names_of(options.Every) if not options.words_of(name)] == []


def test_signature_and_documentation_name_each_option() -> None:
    @takes(Processing, poke_interval=2.0)
    def work(given: int, **options: Any) -> Options:
        """Work.

        Args:
            given: Something.

        Returns:
            The options.
        """
        return Options.of(**options)

    signature = inspect.signature(work)
    assert list(signature.parameters) == ["given", *names_of(Processing)]
    assert signature.parameters["poke_interval"].default == 2.0
    assert signature.parameters["result_types"].default is None
    assert work(1).poke_interval == 2.0
    assert "    parallel: Concurrent requests.\n\nReturns:" in (work.__doc__ or "")
