"""The wheel: what is in it, and that it runs from an environment without the checkout."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest
from harness import CHECKOUT, EngineProcess, environment

#: what the build reads
INPUTS = ("pyproject.toml", "setup.cfg", "README.md", "assay", "examples", "static", "templates")
OUTSIDE = environment({"PYTHONPATH": None})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing left over from other builds gets in."""
    source = tmp_path_factory.mktemp("source")
    for name in INPUTS:
        origin = CHECKOUT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source)]
    subprocess.run(command, check=True, capture_output=True, env=OUTSIDE, timeout=100)
    (built,) = (source / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment with the wheel; its dependencies are those of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", wheel]
    subprocess.run([*command, "--no-index"], check=True, capture_output=True, env=OUTSIDE, timeout=100)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def files_of(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_every_source_and_asset_is_in_the_wheel(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"assay/{name}" for name in files_of(CHECKOUT / "assay")}
    for folder in ("examples", "static", "templates"):
        expected |= {f"assay/{folder}/{name}" for name in files_of(CHECKOUT / folder)}
    assert {name for name in inside if ".dist-info/" not in name} == expected


def test_every_package_is_listed_by_name() -> None:
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    listed = set(setup["options"]["packages"].split())
    packages = {path.parent for path in (CHECKOUT / "assay").rglob("__init__.py")}
    assert listed == {str(path.relative_to(CHECKOUT)).replace("/", ".") for path in packages} | {
        "assay.examples",
        "assay.static",
        "assay.templates",
    }


def test_the_installed_program_serves_api_page_and_static_files(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [installed / "python", "-c", "import assay; print(assay.__file__)"],
        env=OUTSIDE,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(installed.parent))
    with EngineProcess(command=(installed / "assay", "serve"), env={"PYTHONPATH": None}) as engine:
        assert b'"status":"ok"' in read(f"{engine.api}/health")
        assert b'"version":"0.1.0"' in read(f"{engine.api}/version")
        page = read(f"{engine.url}/workflow/").decode()
        for address in re.findall(r'(?:href|src)="(/workflow/static/[^"]+)"', page):
            assert read(engine.url + address)
        assert "/workflow/static/" in page
        assert engine.terminate() == 0


def test_importing_the_package_costs_nothing() -> None:
    code = (
        "import sys, assay; heavy = {'flask', 'gevent', 'peewee', 'click'} & set(sys.modules); "
        "assert not heavy, heavy; assert callable(assay.create_app); assert 'flask' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), timeout=60)


def read(url: str) -> bytes:
    """The body of a 200 answer."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        body: bytes = answer.read()
        return body
