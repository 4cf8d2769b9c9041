"""Contract: an order reaches the server of this user, and its answer or its mistake comes back."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from ram_ray.serving import control


def test_orders_and_mistakes_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def carry_out(order: control.Order) -> control.Order:
        if order["model"] == "broken":
            raise ValueError("broken cannot be served: no weights")
        return {"name": order["model"]}

    with pytest.raises(ValueError, match="no server of yours at port 8123"):
        control.send(8123, {"model": "m"}, timeout_s=5)
    with control.listen(8123, carry_out):
        assert control.send(8123, {"model": "m"}, timeout_s=5) == {"name": "m"}
        with pytest.raises(ValueError, match="no weights"):
            control.send(8123, {"model": "broken"}, timeout_s=5)
        with pytest.raises(ValueError, match="KeyError"):
            control.send(8123, {}, timeout_s=5)
        assert stat.S_IMODE(control.socket_path(8123).parent.stat().st_mode) == 0o700
    with pytest.raises(ValueError, match="no server of yours"):
        control.send(8123, {"model": "m"}, timeout_s=5)
