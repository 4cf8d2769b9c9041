"""The number format of a model follows the hardware, unless it is set."""

from __future__ import annotations

import logging

import pytest
import torch

from ram_ray.models import number_format
from ram_ray.models.number_format import choose_precision, has_bf16

PLAIN = {"avx2": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (PLAIN, "fp32"),
        ({**PLAIN, "avx512_f": True}, "fp32"),  # oneDNN computes bf16 with fp32 there
        ({**PLAIN, "avx512_bf16": True}, "bf16"),
        ({**PLAIN, "amx_bf16": True}, "bf16"),
    ],
)
def test_auto_is_bf16_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choose_precision("auto", "cpu") == expected
    assert choose_precision("auto", "cuda") == "bf16"
    assert choose_precision("fp32", "cpu") == choose_precision("fp32", "cuda") == "fp32"


def test_bf16_that_is_asked_for_is_used_and_a_slow_one_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: PLAIN)
    number_format._warn_of_bf16.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [choose_precision("bf16", "cpu"), choose_precision("bf16", "cpu")] == ["bf16", "bf16"]
    assert [record.message for record in caplog.records] == [
        "this processor has no bf16 arithmetic, so bf16 is slower than fp32 here; precision auto chooses"
    ]


def test_this_processor_is_judged_as_onednn_judges_it() -> None:
    if has_bf16():
        assert torch.ops.mkldnn._is_mkldnn_bf16_supported()


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="precision 'fp8': use 'auto', 'fp32' or 'bf16'"):
        choose_precision("fp8", "cpu")
