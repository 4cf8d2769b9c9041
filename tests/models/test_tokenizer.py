"""Contract: texts become rows of equal length, from the first token to [SEP], and can be decoded again."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest

from ram_ray.models.tokenizer import TextTokenizer
from tests.s3 import S3Proxy

PROMPT = "a picture of "
TEXTS = ["A picture of a red dog", "a picture of two dogs running", "a Café | a dog", "dogs run | red"] * 3


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(TEXTS, vocab_size=150)


def test_the_vocabulary_has_the_special_tokens_and_at_most_the_requested_size(tokenizer: TextTokenizer) -> None:
    assert tokenizer.pad == 0, "models take 0 for padding"
    assert len({tokenizer.dec, tokenizer.enc, tokenizer.sep, tokenizer.pad}) == 4
    assert max(tokenizer.dec, tokenizer.enc) < len(tokenizer) <= 150
    assert len(TextTokenizer.train(TEXTS * 5, vocab_size=50)) == 50


def test_decoded_words_are_in_lower_case_without_accents(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(["A RED Café"], first=tokenizer.enc, max_tokens=24)[0].tolist()
    assert tokenizer.decode(ids) == "a red cafe"
    assert ids == tokenizer.encode(["a red cafe"], first=tokenizer.enc, max_tokens=24)[0].tolist()


def test_a_row_is_first_token_text_separator_padding(tokenizer: TextTokenizer) -> None:
    rows = tokenizer.encode(["red dog", ""], first=tokenizer.dec, max_tokens=8)
    assert rows.shape == (2, 8) and rows.dtype == "int64"
    tokens = tokenizer._tokenizer.encode("red dog", add_special_tokens=False).ids
    expected = [tokenizer.dec, *tokens, tokenizer.sep]
    assert rows[0].tolist() == expected + [0] * (8 - len(expected))
    assert rows[1].tolist() == [tokenizer.dec, tokenizer.sep] + [0] * 6
    assert tokenizer.encode([], first=tokenizer.dec, max_tokens=8).shape == (0, 8)


def test_long_texts_are_truncated_before_the_separator(tokenizer: TextTokenizer) -> None:
    long, longer = (tokenizer.encode(["red dog " * n], first=tokenizer.enc, max_tokens=6)[0] for n in (20, 90))
    assert (long == longer).all() and long[0] == tokenizer.enc and long[-1] == tokenizer.sep
    assert (long != 0).all() and (long[1:-1] != tokenizer.sep).all()


def test_a_caption_begins_with_the_prompt_and_its_own_tokens_start_at_prompt_length(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode_captions(["two red dogs", "a cafe", ""], prompt=PROMPT, max_tokens=20)
    start = tokenizer.prompt_length(PROMPT)
    assert (ids[:, :start] == ids[0, :start]).all() and (ids[:, 0] == tokenizer.dec).all()
    assert tokenizer.decode(ids[0, :start].tolist()) == "a picture of"
    assert [tokenizer.decode(row[start:].tolist()) for row in ids] == ["two red dogs", "a cafe", ""]
    assert ids[2, start] == tokenizer.sep


def test_tags_are_joined_to_a_text(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode_tags([["dog", "red"], []], max_tokens=10)
    assert tokenizer.decode(ids[0].tolist()) == "dog | red" and ids[0, 0] == tokenizer.enc
    assert ids[1].tolist() == [tokenizer.enc, tokenizer.sep] + [0] * 8


@pytest.mark.parametrize("as_file", [False, True])
def test_a_saved_tokenizer_loads_as_itself(tokenizer: TextTokenizer, as_file: bool, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    loaded = TextTokenizer.load(str(tmp_path / "tokenizer.json" if as_file else tmp_path))
    assert len(loaded) == len(tokenizer)
    assert [loaded.dec, loaded.enc, loaded.sep, loaded.pad] == [
        tokenizer.dec, tokenizer.enc, tokenizer.sep, tokenizer.pad,
    ]  # fmt: skip
    for text in TEXTS:
        rows = [
            encoder.encode_captions([text], prompt=PROMPT, max_tokens=16).tolist() for encoder in (tokenizer, loaded)
        ]
        assert rows[0] == rows[1]


def test_a_tokenizer_on_s3_is_the_one_on_disk(tokenizer: TextTokenizer, s3: S3Proxy, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "bert").mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Dog", "dog"]
    (tmp_path / "bert/vocab.txt").write_text("\n".join(words))
    (tmp_path / "bert/tokenizer_config.json").write_text('{"do_lower_case": false}')
    (tmp_path / "bert/weights.bin").write_bytes(b"not needed")
    fsspec.filesystem("s3").put(f"{tmp_path}/", f"{s3.bucket}/words", recursive=True)
    s3.log = []
    for name in ("", "/tokenizer.json", "/bert", "/bert/vocab.txt"):
        local, remote = (TextTokenizer.load(f"{root}{name}") for root in (tmp_path, f"{s3.bucket}/words"))
        assert remote._tokenizer.to_str() == local._tokenizer.to_str(), name
    assert not [request for request in s3.log if "weights" in request]
    with pytest.raises(ValueError, match="^tokenizer s3://.*nothing is there"):
        TextTokenizer.load(f"{s3.bucket}/none")


def test_training_is_deterministic() -> None:
    for size in (40, 60, 150):  # at 40, tokens of equal counts compete for the last ids
        vocabularies = {TextTokenizer.train(TEXTS, vocab_size=size)._tokenizer.to_str() for _ in range(5)}
        assert len(vocabularies) == 1, size


def test_padding_and_truncation_of_a_file_are_ignored(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    copy = json.loads(tokenizer._tokenizer.to_str())
    copy["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(copy))
    loaded = TextTokenizer.load(str(tmp_path))
    assert loaded.prompt_length(PROMPT) == tokenizer.prompt_length(PROMPT)


def test_a_missing_or_invalid_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tokenizer.json or vocab.txt there"):
        TextTokenizer.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer"):
        TextTokenizer.load(str(tmp_path))


def test_a_vocabulary_that_pads_with_another_id_is_refused(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel, WordPiece

    for vocab, message in [
        ({"[UNK]": 0, "[PAD]": 1, "[SEP]": 2}, r"\[PAD\].*0"),
        ({"[UNK]": 0, "a": 1}, "BERT-style"),
    ]:
        with pytest.raises(ValueError, match=message):
            TextTokenizer(Tokenizer(WordPiece(vocab, unk_token="[UNK]")))
    words = {"[PAD]": 0, "[UNK]": 1, "[SEP]": 2}
    assert len(TextTokenizer(Tokenizer(WordLevel(words, unk_token="[UNK]")))) == 5
