"""Contract: reading a treebank loses no text, and training writes a pipeline that the caption parser can load."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import spacy

from ram_ray.captions.parser import CaptionParser
from ram_ray.captions.training.train_parser import read_conllu, to_docs, train_parser

TREEBANK = Path(__file__).resolve().parents[3] / "../shared/data/treebank"

# "I don't, he said." with a multiword token, an elided word, and punctuation set without a space.
SENTENCES = """# text = I don't, he said.
1\tI\tI\tPRON\tPRP\tCase=Nom|Number=Sing\t3\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
2\tdo\tdo\tAUX\tVBP\tVerbForm=Fin\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_
3.1\tgo\tgo\tVERB\tVB\t_\t_\t_\t_\t_
4\t,\t,\tPUNCT\t,\t_\t2\tpunct\t_\t_
5\the\the\tPRON\tPRP\tCase=Nom|Number=Sing\t6\tnsubj:pass\t_\t_
6\tsaid\tsay\tVERB\tVBD\tVerbForm=Fin\t2\tparataxis\t_\tSpaceAfter=No
7\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_

# text = Dogs run
1\tDogs\tdog\tNOUN\tNNS\tNumber=Plur\t2\tnsubj\t_\t_
2\trun\trun\tVERB\tVBP\tVerbForm=Fin\t0\troot\t_\t_
"""


@pytest.fixture
def treebank_file(tmp_path: Path) -> Path:
    path = tmp_path / "hand-train.conllu.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(SENTENCES)
    return path


def test_sentences(treebank_file: Path) -> None:
    first, second = read_conllu(treebank_file)
    assert first["words"] == ["I", "do", "n't", ",", "he", "said", "."]
    assert first["heads"] == [2, 1, 1, 1, 5, 1, 1]  # indices; a root is its own head
    assert first["deps"][1] == "ROOT" and first["deps"][4] == "nsubj:pass"
    assert first["morphs"][0] == "Number=Sing"
    assert second["words"] == ["Dogs", "run"]


def test_text_round_trip(treebank_file: Path) -> None:
    vocab = spacy.blank("en").vocab
    alone = list(to_docs(treebank_file, vocab, sentences_per_doc=1))
    assert [doc.text.strip() for doc in alone] == ["I don't, he said.", "Dogs run"]
    (joined,) = to_docs(treebank_file, vocab, sentences_per_doc=3)
    assert joined.text.strip() == "I don't, he said. Dogs run"
    assert [sentence.text for sentence in joined.sents] == ["I don't, he said.", "Dogs run"]
    assert joined[7].head.text == "run"


def test_training_gives_a_pipeline_for_captions(tmp_path: Path) -> None:
    if not TREEBANK.is_dir():
        pytest.skip("the treebank is not beside the repository, so there is nothing to train on")
    small = tmp_path / "treebank"
    small.mkdir()
    for part, count in (("train", 60), ("dev", 10), ("test", 10)):
        (source,) = TREEBANK.glob(f"*-{part}*.conllu.gz")
        with gzip.open(source, "rt", encoding="utf-8") as file:
            sentences = file.read().split("\n\n")[:count]
        with gzip.open(small / f"small-{part}.conllu.gz", "wt", encoding="utf-8") as file:
            file.write("\n\n".join(sentences) + "\n\n")
    scores = train_parser(small, tmp_path / "out", steps=3, seed=0, captions=40)
    assert set(scores) == {"token_acc", "tag_acc", "pos_acc", "dep_uas", "dep_las"}
    assert all(0 <= value <= 1 for value in scores.values())
    assert [token.text for token in spacy.load(tmp_path / "out")("a short-sleeved shirt")][1] == "short-sleeved"
    assert "lemmatizer" in spacy.load(tmp_path / "out").pipe_names
    assert len(CaptionParser(str(tmp_path / "out")).parse(["a dog", "a cat"])) == 2
