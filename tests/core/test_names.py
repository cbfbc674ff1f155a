# SPDX-License-Identifier: Apache-2.0
"""Names that come from outside and become files and folders."""

from __future__ import annotations

import random
import unicodedata

import pytest

from vantage_orchestration.processing.names import UniqueNames, safe_name, suffixed


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Delivery note_fields.json", "Delivery note_fields.json"),
        ("Grüße & (co).json", "Grüße & (co).json"),
        ("../../etc/passwd", "___.._etc_passwd"),
        ("..", "_"),
        (".", "_"),
        ("", "_"),
        ("  ", "_"),
        ("/", "_"),
        ("C:\\x\\y.json", "C__x_y.json"),
        (".blob.json", "_blob.json"),
        ("a. . ", "a"),
        ("a\0b\nc\x7f\u202egpj.json", "a_b_c__gpj.json"),
        ("\ud800.json", "_.json"),
        ("con", "_con"),
        ("CON.json", "_CON.json"),
        ("lpt1 .json", "_lpt1 .json"),
        ("console.json", "console.json"),
        ('<a>"b"|c?*#1%[2].json', "_a__b__c___1__2_.json"),
        ("u\u0308.json", "ü.json"),
        ("x" * 300 + ".json", "x" * 115 + ".json"),
        ("ü" * 300 + ".json", "ü" * 97 + ".json"),
        ("a." + "b" * 300, "a." + "b" * 118),
    ],
)
def test_safe_names(name, expected):
    assert safe_name(name) == expected


def test_any_name_becomes_safe_and_stays_so():
    chance = random.Random(7)
    letters = "aA.. /\\:*?\0\n\ud800\u202eü\u0308ß漢😀_-~conNUL1"
    for _ in range(3000):
        name = safe_name("".join(chance.choices(letters, k=chance.randrange(0, 260))))
        assert 0 < len(name) <= 120
        assert len(name.encode()) <= 200
        assert safe_name(name) == name
        assert not set(name) & set('<>:"/\\|?*\0\n')
        assert name[0] != "."
        assert name[-1] not in ". "
        assert name.split(".")[0].rstrip().lower() not in ("con", "nul")


def test_taken_names_get_numbers_that_fit():
    names = UniqueNames("manifest.json")
    asked = ["a.json", "A.json", "a_2.json", "a.json", "Manifest.json", "x" * 120, "x" * 120]
    assert [names.take(name) for name in asked] == [
        "a.json",
        "A_2.json",
        "a_2_2.json",
        "a_3.json",
        "Manifest_2.json",
        "x" * 120,
        "x" * 118 + "_2",
    ]
    assert names.take("no extension") == "no extension"
    assert names.take("No Extension") == "No Extension_2"
    assert suffixed("a.tar.gz", "-1") == "a.tar-1.gz"


def test_names_differ_where_case_and_composition_do_not_count():
    chance = random.Random(8)
    for _ in range(200):
        names = UniqueNames()
        asked = ["".join(chance.choices("aA_2ß", k=chance.randrange(1, 4))) for _ in range(40)]
        asked += ["ü.pdf", "u\u0308.pdf", "SS", "ß"]
        given = [names.take(name) for name in asked]
        folded = {unicodedata.normalize("NFC", name.casefold()) for name in given}
        assert len(folded) == len(given)
