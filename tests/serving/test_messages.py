"""Contract: options mean the same from a form and from JSON, and an error names the wrong field."""

from __future__ import annotations

import json

import pytest

from ram_ray.serving.messages import Options, options_from_form, request_from_json


def body(**fields: object) -> bytes:
    return json.dumps({"images": [{"content": "aGk="}], **fields}).encode()


def test_form_and_json_give_the_same_options() -> None:
    form = options_from_form(
        [("top_k", "5"), ("threshold", "0.3"), ("tags", "red  umbrella,dog"), ("tags", "cat"), ("caption", "true")]
    )
    sent = request_from_json(body(top_k=5, threshold=0.3, tags=["red umbrella", "dog", "cat"], caption=True))
    assert form == sent.options()
    assert form.tags == ("red umbrella", "dog", "cat")


def test_an_empty_form_field_is_a_field_not_set() -> None:
    assert options_from_form([("top_k", ""), ("tags", " "), ("threshold", "")]) == Options()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"top_k": 0}, "top_k"),
        ({"top_k": 1001}, "top_k"),
        ({"top_k": "5"}, "top_k"),
        ({"top_k": 2.5}, "top_k"),
        ({"threshold": 1.01}, "threshold"),
        ({"threshold": -0.01}, "threshold"),
        ({"tags": []}, "tags"),
        ({"tags": "dog"}, "tags"),
        ({"tags": ["dog", "dog"]}, "tags"),
        ({"tags": ["x" * 65]}, "tags.0"),
        ({"tags": [f"t{i}" for i in range(201)]}, "tags"),
        ({"tags": [" "]}, "tags.0"),
        ({"tags": ["a\u0000b"]}, "tags.0"),
        ({"tags": ["dog"], "regions": True}, "regions"),
        ({"caption": "yes"}, "caption"),
        ({"topk": 5}, "topk"),
        ({"images": []}, "images"),
        ({"images": [{"content": 5}]}, "images.0.content"),
        ({"images": [{"content": "", "url": "http://x"}]}, "images.0.url"),
    ],
)
def test_a_wrong_json_field_is_named(fields: dict, field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}[:.]"):
        request_from_json(body(**fields))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ([("top_k", "many")], "top_k"),
        ([("top_k", "1"), ("top_k", "2")], "top_k"),
        ([("threshold", "nan")], "threshold"),
        ([("threshold", "inf")], "threshold"),
        ([("colour", "red")], "colour"),
        ([("colour", "")], "colour"),
    ],
)
def test_a_wrong_form_field_is_named(fields: list[tuple[str, str]], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}:"):
        options_from_form(fields)


def test_limits_are_inclusive() -> None:
    options = request_from_json(
        body(top_k=1000, threshold=1, tags=["x" * 64, *(f"t{i}" for i in range(199))])
    ).options()
    assert (options.top_k, options.threshold, len(options.tags or ())) == (1000, 1.0, 200)


def test_a_message_never_repeats_what_was_sent() -> None:
    with pytest.raises(ValueError) as caught:
        request_from_json(body(threshold="<script>"))
    assert "script" not in str(caught.value)
