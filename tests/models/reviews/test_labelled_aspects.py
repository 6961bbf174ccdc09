"""Labelled aspects as a whole: read, refused, split, trained on, answered and reported."""

from __future__ import annotations

import csv
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import pyarrow.parquet as pq
import pytest

from models.ask import Answerer
from models.erasure.erased import Erased
from models.errors import DataRejected
from models.evaluate import Model
from models.prepared import Prepared
from models.reviews.aspects.labelled import UNKNOWN, read_sentences
from models.reviews.endpoints import AnalysisRequest, AnalysisResponse
from models.reviews.erasure import rewrite
from models.reviews.prepare.semeval import KEYS, read_semeval
from models.reviews.report.sections import report
from models.reviews.schema import SPLITS, Schema
from tests.models.reviews.kit import prepared, trained, written

THINGS = ("lamp", "chair", "table", "shelf", "carpet", "mirror", "sofa", "drawer")
SAID = {"negative": ("awful", "wobbly"), "neutral": ("brown", "metal"), "positive": ("lovely", "superb")}


def sentences_of(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences with two terms of different polarity, and some without any."""
    draw, found = random.Random(seed), list[dict[str, Any]]()
    for number in range(count):
        (one, first), (two, second) = zip(draw.sample(list(SAID), 2), draw.sample(THINGS, 2), strict=True)
        text = f"the {first} is {draw.choice(SAID[one])} but the {second} is {draw.choice(SAID[two])}, no. {number}."
        terms = [(first, one), (second, two)] if number % 10 else []
        if not terms:
            text = f"I ordered it on day {number} of the year & waited."
        found.append({"text": text, "aspect_terms": [term_of(text, *term) for term in terms]})
    return found


def term_of(text: str, term: str, polarity: str) -> dict[str, Any]:
    return {"term": term, "polarity": polarity, "from": text.index(term), "to": text.index(term) + len(term)}


def xml(path: Path, sentences: list[dict[str, Any]]) -> Path:
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<sentences>"]
    for one in sentences:
        lines.append(f"<sentence><text>{escape(one['text'])}</text>")
        told = [
            " ".join(f"{name}={quoteattr(str(value))}" for name, value in term.items()) for term in one["aspect_terms"]
        ]
        lines += (
            ["<aspectTerms>", *(f"<aspectTerm {attributes}/>" for attributes in told), "</aspectTerms>"] if told else []
        )
        lines.append("</sentence>")
    path.write_text("\n".join([*lines, "</sentences>"]), "utf-8")
    return path


def reviews(path: Path) -> str:
    texts = [f"{'really good, I love it' if n % 2 else 'bad, it broke'} number {n}" for n in range(120)]
    users = [f"u{n % 7}" for n in range(120)]
    return str(written(path, {"text": texts, "label": [str(n % 2) for n in range(120)], "user_id": users}))


def made(root: Path, aspects: Path | None, **settings: Any) -> Prepared:
    more = {} if aspects is None else {"aspects": str(aspects)}
    return prepared(root / "data", raw=reviews(root / "raw.parquet"), **more, **settings)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    root = tmp_path_factory.mktemp("labelled")
    return made(root, xml(root / "aspects.xml", sentences_of(200)))


@pytest.fixture(scope="module")
def model(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return trained(data, tmp_path_factory.mktemp("run"), network="linear", num_buckets=4096, epochs=1)


def test_the_card_counts_labels_and_no_sentence_is_in_two_splits(data: Prepared) -> None:
    told, schema = data.card()["labelled_aspects"], data.schema(Schema)

    assert told["rows"] == 380 and told["bad"] == {} and sum(told["terms"].values()) == 360
    assert schema.term_counts == told["terms"] and schema.term_languages == ["en"]
    assert min(told["sentences"].values()) > 5 and sum(told["sentences"].values()) == 200
    texts = [{one.text for one in read_sentences(data.path, split)} for split in SPLITS]
    assert len(set.union(*texts)) == sum(map(len, texts))


def test_a_nested_table_a_flat_table_and_xml_are_the_same_labels(tmp_path: Path) -> None:
    labelled = sentences_of(60)
    flat = [
        {"text": one["text"], **term}
        for one in labelled
        for term in one["aspect_terms"] or [dict.fromkeys(("term", "polarity", "from", "to"))]
    ]
    nested = written(tmp_path / "nested.parquet", {name: [one[name] for one in labelled] for name in labelled[0]})
    rows = written(tmp_path / "flat.parquet", {name: [one[name] for one in flat] for name in flat[0]})

    found = [
        read_sentences(made(tmp_path / str(number), path).path)
        for number, path in enumerate((xml(tmp_path / "a.xml", labelled), nested, rows))
    ]

    assert found[0] == found[1] == found[2] and len(found[0]) == 60


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"from": 70, "to": 900}, "term_outside_text"),
        ({"from": 5, "to": 5}, "term_outside_text"),
        ({"from": 0, "to": 4}, "term_not_at_its_offsets"),
        ({"from": "soon"}, "bad_offset"),
        ({"polarity": "purple"}, "unknown_polarity"),
    ],
)
def test_a_bad_label_goes_to_quarantine_with_its_reason(tmp_path: Path, cells: dict[str, Any], reason: str) -> None:
    labelled = sentences_of(60)
    labelled[1]["aspect_terms"][0] |= cells

    data = made(tmp_path, xml(tmp_path / "aspects.xml", labelled), max_bad_fraction=0.1)

    assert data.card()["labelled_aspects"]["bad"] == {reason: 1}
    assert pq.read_table(data.path / "quarantine" / "aspects.parquet")["reason"].to_pylist() == [reason]
    with pytest.raises(DataRejected, match=rf"labelled aspects \(.*{reason}"):
        made(tmp_path / "strict", xml(tmp_path / "again.xml", labelled), max_bad_fraction=0.0)


def test_terms_in_conflict_are_found_and_have_no_polarity(tmp_path: Path) -> None:
    labelled = sentences_of(60)
    labelled[1]["aspect_terms"][0]["polarity"] = "conflict"
    twice = {"text": labelled[2]["text"], "aspect_terms": [{**labelled[2]["aspect_terms"][0], "polarity": "positive"}]}
    other = {**twice, "aspect_terms": [{**twice["aspect_terms"][0], "polarity": "negative"}]}

    data = made(tmp_path, xml(tmp_path / "aspects.xml", [*labelled, twice, other]))

    polarities = [term[2] for one in read_sentences(data.path) for term in one.terms]
    assert polarities.count(UNKNOWN) == 2 and len(polarities) == 108


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_a_table_of_text_has_the_sentences_of_the_xml(tmp_path: Path, data: Prepared, ending: str) -> None:
    rows = [
        {"text": one["text"], **term}
        for one in sentences_of(200)
        for term in one["aspect_terms"] or [dict.fromkeys(KEYS)]
    ]
    path = tmp_path / f"aspects{ending}"
    if ending == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", *KEYS])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    assert read_sentences(made(tmp_path, path).path) == read_sentences(data.path)


def test_two_columns_of_a_name_and_truth_values_as_offsets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "two.csv").write_text("text,text,term,polarity,from,to\na,a,a,positive,0,1\n")
    with pytest.raises(DataRejected, match=r"two.csv has two columns 'text'; rename or remove one"):
        made(tmp_path / "1", tmp_path / "two.csv")
    row = {"text": "a b", "term": "a", "polarity": "positive", "from": False, "to": True}
    (tmp_path / "bool.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataRejected, match="bad_offset"):
        made(tmp_path / "2", tmp_path / "bool.jsonl")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<sentences><sentence>", "broken.xml:1: is not well-formed XML"),
        ("<reviews/>", "broken.xml has no element <sentence>"),
        (
            '<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><sentences>&d;</sentences>',
            "broken.xml:1: has a document",
        ),
        ('<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>', "remove it, and write entities out"),
        ("<sentences><sentence><text>&b;</text></sentence></sentences>", "undefined entity"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', "broken.xml.*encoding"),
        ('<?xml version="1.0" encoding="gb18030"?><a/>', "broken.xml: its encoding cannot be read: .*save it as UTF-8"),
        ("<a><sentence>\n<sentence/></sentence></a>", "broken.xml:2: a <sentence> is inside another"),
        ("<a><sentence><text>a</text></sentence><aspectTerm/></a>", "<aspectTerm> is outside of a <sentence>"),
        ("<a><sentence><text>a</text><text>b</text></sentence></a>", "more than one <text>"),
        ("<a><sentence><text>a</text><Opinions><Opinion/></Opinions></sentence></a>", "SemEval-2015 and 2016"),
    ],
)
def test_malformed_xml_and_entities_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken.xml"
    path.write_text(content, "utf-8")

    with pytest.raises(DataRejected, match=message) as raised:
        read_semeval(path)
    assert str(raised.value).count("broken.xml") == 1


def test_missing_files_columns_and_labels_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataRejected, match=r"none\.xml cannot be read"):
        read_semeval(tmp_path / "none.xml")
    with pytest.raises(DataRejected, match="has no column 'from'; its columns are: text, term, polarity, to"):
        made(tmp_path, written(tmp_path / "t.parquet", {name: ["a"] for name in ("text", "term", "polarity", "to")}))
    nothing = [{"text": f"day {number}", "aspect_terms": []} for number in range(9)]
    with pytest.raises(DataRejected, match="the training sentences have no term with a polarity"):
        made(tmp_path / "b", xml(tmp_path / "nothing.xml", nothing))


def test_answers_have_the_trained_terms_with_their_place_and_polarity(model: Model) -> None:
    text = "It came today.  The lamp is awful but the sofa is superb!"
    ask = Answerer(model.family, model.family.endpoints[0], model.network, model.schema, "1")

    found = ask(AnalysisRequest(texts=[text, "台灯很好"]))

    assert isinstance(found, AnalysisResponse)
    english, chinese = found.reviews
    assert [(one.text, one.polarity) for one in english.terms] == [("lamp", "negative"), ("sofa", "positive")]
    assert all(text[one.start : one.end] == one.text and 0.3 < one.confidence <= 1 for one in english.terms)
    assert chinese.terms == []


def test_the_report_compares_with_the_lexicon_and_the_majority(model: Model, data: Prepared) -> None:
    found = {one.title: one for one in report(model.network, data, "test", schema=model.schema, config=model.config)}

    numbers = found["Aspect terms"].numbers
    assert numbers["term_f1"] > 0.9 > numbers["lexicon_term_f1"]
    assert numbers["term_polarity_accuracy"] > 0.9 > numbers["majority_polarity_accuracy"] > 0.2
    assert numbers["term_polarity_accuracy"] > numbers["lexicon_polarity_accuracy"]


def test_without_labels_everything_is_as_before(tmp_path: Path, data: Prepared) -> None:
    plain = made(tmp_path, None)
    schema = plain.schema(Schema)
    old = Schema.model_validate(schema.model_dump(exclude={"term_counts", "term_languages"}))

    model = trained(plain, tmp_path / "run", network="linear", num_buckets=4096, epochs=1)

    assert schema == old and schema.term_counts == {} and "labelled_aspects" not in plain.card()
    assert schema.fingerprint != data.fingerprint and model.network.terms is None
    assert not any(name.startswith("terms.") for name in model.network.state_dict())


def test_erasure_keeps_the_labels(data: Prepared, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        schema = rewrite(data, tmp_path, executor, Erased(b"salt" * 8, {}))

    assert schema.fingerprint == data.fingerprint
    assert read_sentences(tmp_path, "test") == read_sentences(data.path, "test")
    assert Prepared(tmp_path).card()["labelled_aspects"] == data.card()["labelled_aspects"]
