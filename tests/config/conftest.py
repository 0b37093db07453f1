"""Every test of this folder runs in a folder of its own: `./.env` and `config/proxy.yaml` are looked for there."""

import pytest


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
