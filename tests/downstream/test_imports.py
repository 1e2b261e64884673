"""Each module of the released packages that imports under MMEngine 0.10.7 imports here."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_every_module_that_imports_under_mmengine_imports_here(contract_folder: Path) -> None:
    recorded = json.loads(gzip.decompress((contract_folder / "imports.json.gz").read_bytes()))
    command = [sys.executable, str(contract_folder / "imports.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert 0 == done.returncode, done.stderr[-2000:]
    found = json.loads(done.stdout)

    assert recorded.keys() == found.keys()
    for kind, names in recorded.items():
        assert [] == sorted(set(names) - set(found[kind])), kind
