"""Train the caption parser that ships in `ram_ray/captions/en_ud_ewt`.

    python -m ram_ray.captions.training.train_parser TREEBANK_DIR OUT_DIR [--steps N]

TREEBANK_DIR holds the train, dev and test splits of UD English EWT as `*.conllu.gz`. The result is an ordinary spaCy
pipeline (tagger, morphologizer, dependency parser, and spaCy's rule lemmatizer over its published tables):
`spacy.load(OUT_DIR)` loads it, and any other installed pipeline can replace it.

Captions are short, often without capitals and full stops, and the parser reads them in lower case (see `parser.py`), so
half of the training sentences are lower-cased. A web treebank has few captions, so about the same number of words again
comes from `grammar`, which generates captions with their trees.
"""

from __future__ import annotations

import argparse
import gzip
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import spacy
from spacy.cli.train import train
from spacy.language import Language
from spacy.scorer import Scorer
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from ram_ray.captions.parser import keep_hyphens
from ram_ray.captions.training.grammar import CaptionGrammar

KEPT_FEATURES = ("Number", "VerbForm", "Degree")
# Relations whose subtype the caption rules need: passives, owners, "pick up", "that is running".
KEPT_SUBTYPES = ("nsubj:pass", "aux:pass", "nmod:poss", "compound:prt", "acl:relcl", "obl:agent")
SENTENCES_PER_DOC = 3
CAPTIONS = 20_000  # generated captions besides the treebank's 12,544 sentences: about the same number of words

CONFIG = """
[paths]
train = null
dev = null

[system]
seed = {seed}

[nlp]
lang = "en"
pipeline = ["tok2vec","tagger","morphologizer","parser"]
batch_size = 512

[components]

[components.tok2vec]
factory = "tok2vec"

[components.tok2vec.model]
@architectures = "spacy.Tok2Vec.v2"

[components.tok2vec.model.embed]
@architectures = "spacy.MultiHashEmbed.v2"
width = 96
attrs = ["NORM","PREFIX","SUFFIX","SHAPE"]
rows = [5000,1000,2500,1000]
include_static_vectors = false

[components.tok2vec.model.encode]
@architectures = "spacy.MaxoutWindowEncoder.v2"
width = 96
depth = 4
window_size = 1
maxout_pieces = 3

[components.tagger]
factory = "tagger"

[components.tagger.model]
@architectures = "spacy.Tagger.v2"

[components.tagger.model.tok2vec]
@architectures = "spacy.Tok2VecListener.v1"
width = 96

[components.morphologizer]
factory = "morphologizer"

[components.morphologizer.model]
@architectures = "spacy.Tagger.v2"

[components.morphologizer.model.tok2vec]
@architectures = "spacy.Tok2VecListener.v1"
width = 96

[components.parser]
factory = "parser"

[components.parser.model]
@architectures = "spacy.TransitionBasedParser.v2"
state_type = "parser"
extra_state_tokens = false
hidden_width = 64
maxout_pieces = 2
use_upper = true

[components.parser.model.tok2vec]
@architectures = "spacy.Tok2VecListener.v1"
width = 96

[corpora]

[corpora.train]
@readers = "spacy.Corpus.v1"
path = ${{paths.train}}

[corpora.train.augmenter]
@augmenters = "spacy.lower_case.v1"
level = 0.5

[corpora.dev]
@readers = "spacy.Corpus.v1"
path = ${{paths.dev}}

[training]
seed = ${{system.seed}}
dev_corpus = "corpora.dev"
train_corpus = "corpora.train"
dropout = 0.1
patience = 0
max_steps = {steps}
eval_frequency = 1000

[initialize]

[initialize.before_init]
@callbacks = "ram_ray.whole_hyphens.v1"

[training.optimizer]
@optimizers = "Adam.v1"
learn_rate = 0.001

[training.batcher]
@batchers = "spacy.batch_by_words.v1"
tolerance = 0.2
discard_oversize = false

[training.batcher.size]
@schedules = "compounding.v1"
start = 100
stop = 1000
compound = 1.002

[training.score_weights]
tag_acc = 0.3
pos_acc = 0.2
dep_uas = 0.2
dep_las = 0.3
"""


def read_conllu(path: Path) -> Iterator[dict]:
    """Read the sentences of a treebank.

    Args:
        path: of a .conllu.gz file.

    Yields:
        A sentence as columns: words, trailing spaces, tags, features, heads and relations.
    """
    sentence = _empty_sentence()
    inside_until = 0  # last id of the multiword token ("don't") that is being read
    space_after_inside = True
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if not line:
                if sentence["words"]:
                    yield sentence
                sentence, inside_until = _empty_sentence(), 0
                continue
            if line.startswith("#"):
                continue
            ident, word, _, upos, xpos, features, head, relation, _, misc = line.split("\t")
            if "." in ident:  # an elided word, not in the text
                continue
            if "-" in ident:
                inside_until = int(ident.split("-")[1])
                space_after_inside = "SpaceAfter=No" not in misc
                continue
            index = int(ident)
            if index < inside_until:
                space = False
            elif index == inside_until:
                space = space_after_inside
            else:
                space = "SpaceAfter=No" not in misc
            morph = [feature for feature in features.split("|") if feature.split("=")[0] in KEPT_FEATURES]
            sentence["words"].append(word)
            sentence["spaces"].append(space)
            sentence["tags"].append(xpos)
            sentence["pos"].append(upos)
            sentence["morphs"].append("|".join(morph))
            sentence["heads"].append(index - 1 if head == "0" else int(head) - 1)
            base = relation.split(":")[0]
            sentence["deps"].append("ROOT" if head == "0" else relation if relation in KEPT_SUBTYPES else base)
    if sentence["words"]:
        yield sentence


def _empty_sentence() -> dict:
    return {name: [] for name in ("words", "spaces", "tags", "pos", "morphs", "heads", "deps")}


def to_docs(path: Path, vocab, *, sentences_per_doc: int = SENTENCES_PER_DOC) -> Iterator[Doc]:
    """Join consecutive sentences into docs, so that the parser also learns where sentences end.

    Args:
        path: of a .conllu.gz file.
        vocab: spaCy's Vocab of the pipeline.
        sentences_per_doc: number of joined sentences.

    Yields:
        Docs with gold annotations.
    """
    joined, count = _empty_sentence(), 0
    for sentence in read_conllu(path):
        offset = len(joined["words"])
        for name, values in sentence.items():
            joined[name] += [value + offset for value in values] if name == "heads" else values
        count += 1
        if count == sentences_per_doc:
            yield Doc(vocab, **joined)
            joined, count = _empty_sentence(), 0
    if count:
        yield Doc(vocab, **joined)


def _to_doc(vocab, columns: dict) -> Doc:
    return Doc(vocab, **columns)


@spacy.registry.callbacks("ram_ray.whole_hyphens.v1")
def whole_hyphens() -> Callable[[Language], None]:
    """The callback before training that sets the tokenizer of captions, which leaves "long-sleeved" whole.

    Returns:
        `parser.keep_hyphens`.
    """
    return keep_hyphens


def train_parser(treebank: Path, out: Path, *, steps: int, seed: int, captions: int = CAPTIONS) -> dict[str, float]:
    """Train a pipeline, add the lemmatizer, and save it.

    Args:
        treebank: folder of a Universal Dependencies treebank, .conllu.gz files.
        out: folder for the pipeline.
        steps: number of training steps.
        seed: of training and of the generated captions.
        captions: number of generated captions besides the treebank.

    Returns:
        Scores on the test split, 0 to 1, by spaCy's names.
    """
    blank = spacy.blank("en")
    with tempfile.TemporaryDirectory() as scratch_name:
        scratch = Path(scratch_name)
        for part in ("train", "dev"):
            (source,) = treebank.glob(f"*-{part}*.conllu.gz")
            docs = list(to_docs(source, blank.vocab))
            grammar = CaptionGrammar(seed=seed) if part == "train" else CaptionGrammar(seed=seed + 1)
            count = captions if part == "train" else captions // 20
            docs += [_to_doc(blank.vocab, caption) for caption in grammar.captions(count)]
            DocBin(docs=docs, store_user_data=False).to_disk(scratch / f"{part}.spacy")
        config = spacy.util.load_config_from_str(CONFIG.format(seed=seed, steps=steps))
        spacy.util.load_model_from_config(config, auto_fill=True).config.to_disk(scratch / "config.cfg")
        train(
            scratch / "config.cfg",
            scratch / "model",
            overrides={"paths.train": str(scratch / "train.spacy"), "paths.dev": str(scratch / "dev.spacy")},
        )
        return finish(spacy.load(scratch / "model" / "model-best"), treebank, out)


def finish(nlp: Language, treebank: Path, out: Path) -> dict[str, float]:
    """Add the lemmatizer to a trained pipeline, score it on the treebank's test split, and save it.

    Args:
        nlp: the trained pipeline; changed.
        treebank: folder with the test split.
        out: folder for the pipeline.

    Returns:
        Scores, 0 to 1, by spaCy's names.
    """
    lemmatizer = nlp.add_pipe("lemmatizer", config={"mode": "rule"}, last=True)
    lemmatizer.initialize()  # type: ignore[attr-defined]
    (test,) = treebank.glob("*-test*.conllu.gz")
    references = list(to_docs(test, nlp.vocab, sentences_per_doc=1))
    predictions = nlp.pipe(reference.text for reference in references)
    scores = Scorer(nlp).score([Example(p, r) for p, r in zip(predictions, references, strict=True)])
    report = {name: round(scores[name], 4) for name in ("token_acc", "tag_acc", "pos_acc", "dep_uas", "dep_las")}
    nlp.meta.update(name="ud_ewt", version="0.2.0", license="CC BY-SA 4.0", performance=report)
    nlp.config["paths"].update(train=None, dev=None)  # scratch files of this training
    nlp.config["initialize"]["before_init"] = None  # the tokenizer is saved as it was trained with
    nlp.to_disk(out)
    return report


def main() -> None:
    """Command line of this module; prints the test scores as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("treebank", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--captions", type=int, default=CAPTIONS, help="number of generated captions besides the treebank"
    )
    options = parser.parse_args()
    settings = {"steps": options.steps, "seed": options.seed, "captions": options.captions}
    print(json.dumps(train_parser(options.treebank, options.out, **settings)))


if __name__ == "__main__":
    main()
