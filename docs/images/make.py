# SPDX-License-Identifier: Apache-2.0
"""Makes the pictures of this folder anew: forms and pages as a browser shows them.

``python docs/images/make.py``, in the environment that ``make install`` makes, on a
machine with ``chromium`` and ``chromedriver`` (Debian's packages of these names). It starts a real
Airflow, a real Prefect server and the sandbox, looks whether each form offers its choices and hides
what is typed into its secret fields, and ends with an error if not.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import requests
from PIL import Image

from vantage_orchestration.config import FIELDS
from vantage_orchestration.sandbox import SandboxServer

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parents[1] / "tests"))

from browser import Browser, browser  # noqa: E402
from pdfs import make_invoice  # noqa: E402
from servers import airflow, environment_of, prefect  # noqa: E402

DOCUMENTS = HERE.parents[1] / "demo" / "documents"
#: A document whose sum is wrong.
WRONG = "invoice-0107.pdf"
#: The credentials block of the flow run.
BLOCK = "abbyy-vantage"
#: A picture is to load fast.
MOST_BYTES = 150_000
#: What is typed into the forms.
EXAMPLE = {
    "region": "eu",
    "username": "user@example.com",
    "password": "this is not shown",
    "client_id": "example-client",
    "client_secret": "this is not shown",
}
CHOICES = {spec.name: list(spec.choices) for spec in FIELDS if spec.choices}
SECRETS = [spec.name for spec in FIELDS if spec.kind == "secret"]


def label(name: str) -> str:
    return next(spec.label for spec in FIELDS if spec.name == name)


def default(name: str) -> str:
    return next(str(spec.default) for spec in FIELDS if spec.name == name)


def check(what: str, seen: Iterable[str], expected: Iterable[str]) -> None:
    if list(seen) != list(expected):
        raise RuntimeError(f"{what}: {list(seen)} instead of {list(expected)}")


def keep(name: str, png: bytes, output: Path) -> None:
    """Write a picture, with the few colours that such pages have."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    path = output / f"{name}.png"
    image.save(path, optimize=True)
    size = path.stat().st_size
    sys.stdout.write(f"{path.name}: {image.width} x {image.height}, {size // 1000} kB\n")
    if size > MOST_BYTES:
        raise RuntimeError(f"{path.name} is too large")


# ------------------------------------------------------------------- Airflow


def connection_form(page: Browser, base: str, output: Path) -> None:
    """The form *Add Connection*, both of its parts."""
    form = "//*[@role='dialog']"

    def box(name: str) -> str:
        return (
            f"{form}//*[@role='group'][.//input[@name='element_{name}']]//input[@role='combobox']"
        )

    page.open(f"{base}/connections", height=880)
    page.click("//button[contains(., 'Add Connection')]")
    page.type(f"{form}//input[@name='connection_id']", "abbyy_vantage_default")
    page.type(f"{form}//input[@role='combobox']", "ABBYY")
    page.click(f"{form}//*[@role='option'][.='ABBYY Vantage']")
    page.type(f"{form}//input[@name='login']", EXAMPLE["username"])
    page.type(f"{form}//input[@name='password']", EXAMPLE["password"])
    check("password", [page.attribute(f"{form}//input[@name='password']", "type")], ["password"])
    keep("airflow-connection", page.picture(), output)

    page.click(f"{form}//button[normalize-space()='Extra Fields']")
    for name, choices in CHOICES.items():
        page.click(box(name))
        check(f"choices of {name}", page.texts(f"{form}//*[@role='option']"), choices)
        page.type(box(name), f"{EXAMPLE.get(name, default(name))}\n")
    for name in ("client_id", "client_secret"):
        page.type(f"{form}//input[@name='element_{name}']", EXAMPLE[name])
    for name in SECRETS:
        if name != "password":
            kind = page.attribute(f"{form}//input[@name='element_{name}']", "type")
            check(f"field {name}", [kind], ["password"])
    page.run("document.activeElement.blur()")
    page.resize(1200, 2560)
    page.run("document.querySelector('[role=dialog]').parentElement.scrollTo(0, 0)")
    keep("airflow-connection-extra", page.picture(), output)


# ------------------------------------------------------------------- Prefect


def credentials_form(page: Browser, base: str, output: Path) -> None:
    """The form of the credentials block, in both of Prefect's interfaces."""
    path = "blocks/catalog/abbyy-vantage-credentials/create"
    page.open(f"{base}/{path}")
    for name, choices in CHOICES.items():
        shown = [each for each in page.texts(_part(label(name), "option")) if each != "None"]
        check(f"choices of {name}", shown, choices)

    page.open(f"{base}/v2/{path}", height=1000)
    for name, choices in CHOICES.items():
        page.click(f"//button[@aria-label='Select {label(name)}']")
        check(f"choices of {name}", page.texts("//*[@role='option']"), choices)
        page.click(f"//*[@role='option'][.='{EXAMPLE.get(name, default(name))}']")
    page.type("//input[@name='blockName']", "abbyy-vantage")
    for name in SECRETS:
        check(f"field {name}", [page.attribute(_field(name), "type")], ["password"])
    for name in ("username", "password", "client_id", "client_secret"):
        page.type(_field(name), EXAMPLE[name])
    page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    page.resize(1200, 2520)
    keep("prefect-credentials", page.picture(), output)


def _field(name: str) -> str:
    return f"//*[@id = //label[starts-with(normalize-space(), '{label(name)}')]/@for]"


def saved_credentials(page: Browser, base: str) -> None:
    """The page of a saved block, which must not show what is secret."""
    for interface in ("", "/v2"):
        page.open(f"{base}{interface}/blocks")
        page.click(f"//a[normalize-space()='{BLOCK}']")
        page.element("//body[contains(., 'example-client')]")
        if "****" not in page.text():
            raise RuntimeError(f"a saved block looks otherwise:\n{page.text()}")


def skill_form(page: Browser, base: str, output: Path) -> None:
    """The form of the skill block, in the interface that Prefect shows by default.

    The newer one shows it too, but Prefect 3.7 can't save there what refers to another block.
    """
    page.open(f"{base}/blocks/catalog/abbyy-vantage-skill/create", height=1440)
    page.type(_part("Block Name", "input"), "invoices")
    check(
        "choices of credentials", page.texts(_part("VantageCredentials", "option")), ["None", BLOCK]
    )
    check("choices of on_review", page.texts(_part("On review", "option")), ["wait", "fail"])
    page.type(_part("Skill", "textarea"), "Invoice")
    page.run(
        """
        const option = [...document.querySelectorAll('option')].find(it => it.text == arguments[0])
        option.closest('select').value = option.value
        option.closest('select').dispatchEvent(new Event('change', {bubbles: true}))
        document.activeElement.blur()
        """,
        BLOCK,
    )
    keep("prefect-skill", page.picture(), output)


def _part(title: str, element: str) -> str:
    """Return where an element of the field of that title is, in the older interface."""
    return f"//*[contains(@class, 'p-label')][starts-with(normalize-space(), '{title}')]//{element}"


def documents(page: Browser, base: str, output: Path) -> None:
    """The table of documents that a flow run has made."""
    with requests.Session() as http:
        http.trust_env = False
        reply = http.post(f"{base}/api/artifacts/filter", json={}, timeout=60)
    (table,) = (each for each in reply.json() if each["type"] == "table")
    page.open(f"{base}/artifacts/artifact/{table['id']}", height=680)
    files = sorted(path.name for path in DOCUMENTS.glob("*.pdf"))
    check("files", sorted(page.texts("//tbody/tr/td[1]")), sorted([*files, WRONG]))
    keep("prefect-documents", page.picture(), output)


def process(base: str, home: Path) -> None:
    """Run a flow over the documents of the demo, and one whose sum is wrong."""
    inputs = home / "documents"
    shutil.copytree(DOCUMENTS, inputs)
    make_invoice(inputs / WRONG, "INV-107", total="121.00")
    with SandboxServer() as sandbox:
        account = {name: it for name, it in sandbox.credentials.items() if name != "tenant_id"}
        script = f"""
from vantage_orchestration.prefect import VantageCredentials
from vantage_orchestration.prefect.flows import process_folder
from vantage_orchestration.prefect.skill import VantageSkill

VantageSkill.register_type_and_schema()
VantageCredentials(region="custom", base_url={sandbox.url!r}, **{account!r}).save({BLOCK!r})
process_folder({str(inputs)!r}, "memory://invoices/out", "Invoice", {BLOCK!r}, poke_interval=1)
"""
        subprocess.run(  # noqa: S603 - this very Python
            [sys.executable, "-c", script],
            env=environment_of(
                home, {"PREFECT_API_URL": f"{base}/api", "PREFECT_HOME": home, "DO_NOT_TRACK": 1}
            ),
            check=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the pictures")
    parser.add_argument("--only", choices=("airflow", "prefect"), help="pictures of this alone")
    arguments = parser.parse_args()
    output: Path = arguments.output
    with tempfile.TemporaryDirectory() as folder, browser() as page:
        home = Path(folder, "home")
        home.mkdir()
        if arguments.only != "prefect":
            with airflow(home) as base:
                connection_form(page, base, output)
        if arguments.only != "airflow":
            with prefect(home) as base:
                credentials_form(page, base, output)
                process(base, home)
                saved_credentials(page, base)
                skill_form(page, base, output)
                documents(page, base, output)


if __name__ == "__main__":
    main()
