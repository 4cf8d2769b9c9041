"""Contract: every backend gives the plain model's logits, exact in fp32 and near in bf16, for any batch and any tags,
from several threads; what cannot run is one clear error."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ram_ray.inference.backends.backend import make_label_set
from ram_ray.inference.backends.registry import make_backend
from ram_ray.models.cpu_inference import bias_windows
from tests import released
from tests.bench import inference as bench

KINDS = ("ram", "ram_plus", "tag2text")
EXACT, NEAR = 1e-4, 0.2


def _pixels(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, 48, 48, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def _plain(kind: str) -> torch.Tensor:
    model = released.model(kind)
    return model.logits(model.encode(_pixels()))


def _check(name: str, kind: str, precision: str) -> None:
    model = released.model(kind)
    labels = make_label_set(model, model.label_embed)
    other_labels = None if kind == "tag2text" else make_label_set(model, model.label_embed.flip(0)[:4])
    backend = make_backend(name, model, precision=precision, threads=1)
    expected, atol = _plain(kind), EXACT if precision == "fp32" else NEAR
    assert expected.std() > 5 * EXACT

    def logits(pixels: torch.Tensor, labels=labels) -> torch.Tensor:
        return backend.logits(backend.encode(pixels), labels)

    torch.testing.assert_close(logits(_pixels()), expected, atol=atol, rtol=0)
    torch.testing.assert_close(logits(_pixels()[:1]), expected[:1], atol=atol, rtol=0)
    if other_labels is not None:
        some = logits(_pixels(), labels.select([5, 0, 6]))
        torch.testing.assert_close(some, expected[:, [5, 0, 6]], atol=atol, rtol=0)
        torch.testing.assert_close(logits(_pixels(), other_labels), expected.flip(1)[:, :4], atol=atol, rtol=0)
    with ThreadPoolExecutor(3) as pool:
        rows = list(pool.map(lambda row: logits(_pixels()[row : row + 1]), [0, 1, 2, 0, 1, 2]))
    torch.testing.assert_close(torch.cat(rows[3:]), expected, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_torch(precision: str, kind: str) -> None:
    _check("torch", kind, precision)


@pytest.mark.parametrize("kind", ["ram", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_openvino(kind: str) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    _check("openvino", kind, "fp32")


def test_openvino_in_bf16() -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    _check("openvino", "ram", "bf16")


def test_a_conversion_by_openvino_is_reported_to_nobody() -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    code = (
        "from ram_ray.inference.backends.openvino_backend import import_openvino; import_openvino(); "
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip().endswith("telemetry_stub")


def test_biases_made_once_change_no_number() -> None:
    model, changed = released.model("ram"), released.model("ram")
    bias_windows(changed)
    bias_windows(changed)  # a second time finds nothing to do
    with torch.no_grad():
        torch.testing.assert_close(changed.encode(_pixels()), model.encode(_pixels()), atol=1e-6, rtol=1e-6)


def test_what_cannot_run_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = released.model("ram")
    with pytest.raises(ValueError, match="torch, openvino"):
        make_backend("abacus", model, precision="fp32", threads=None)
    with pytest.raises(ValueError, match="'fp32' or 'bf16'"):
        make_backend("torch", model, precision="int4", threads=None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ValueError, match="extra 'openvino'"):
        make_backend("openvino", model, precision="fp32", threads=None)


def test_the_bench_measures_what_it_says() -> None:
    variants = bench.variants("tiny", threads=None, device="cpu", only=["torch fp32"])
    pixels = torch.randn(2, 3, 32, 32)
    for variant in variants:
        bench.measure(variant, pixels)
    rows = bench.report(variants, size="tiny", device="cpu")
    assert [row["variant"] for row in rows] == ["plain", "torch fp32"]
    assert rows[1]["largest_logit_difference"] < EXACT and rows[0]["ratio"] == 1
    tiny = bench.model("tiny")
    with torch.no_grad():
        torch.testing.assert_close(bench.plain(tiny)(pixels), tiny.logits(tiny.encode(pixels)), atol=1e-5, rtol=1e-5)
