from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.settings import PREFIX, Settings


@pytest.fixture(autouse=True)
def no_settings_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the environment nor a ``.env`` of whoever runs the tests has a say."""
    plain = {"DATABASE_URL", "MODEL_PATH", "MODEL", "HOST", "PORT", "LOG_LEVEL"}
    for name in list(os.environ):
        if name.upper().startswith(PREFIX) or name.upper() in plain | {
            n.upper() for n in Settings.model_fields
        }:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
