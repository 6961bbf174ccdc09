"""The vocabulary of titles: which phrases are learned, matched and encoded."""

from __future__ import annotations

from models.image.text.titles import END, PADDING, Form, Labels, Lexicon, learn_forms
from tests.models.image.test_writer import HEADS


def test_the_longest_name_matches_in_any_spelling() -> None:
    lexicon = Lexicon({"colour": ["Blue", "Navy Blue"], "type": ["Tshirts"], "people": ["Women"]})

    found = [mention.names for mention in lexicon.mentions("Acme women's NAVY blue, Polo T-Shirt (blue)")]

    assert found == [(("people", "Women"),), (("colour", "Navy Blue"),), (("type", "Tshirts"),), (("colour", "Blue"),)]


def test_the_vocabulary_has_the_shops_wordings_of_classes_and_no_brands() -> None:
    titles = ["Acme Printed T-shirt Blue", "Red Tape Tshirt Navy Blue"] * 5
    labels: list[Labels] = [{"type": "Tshirts", "colour": "Blue"}, {"type": "Tshirts", "colour": "Navy Blue"}] * 5

    forms = learn_forms(HEADS, titles, labels)

    assert [form.text for form in forms[:4]] == ["Blue", "Navy Blue", "T-shirt", "Tshirt"]
    assert {name for form in forms[4:] for name in form.names} == {
        *(("type", value) for value in HEADS["type"][:2]),
        *(("category", value) for value in HEADS["category"]),
    }
    assert forms == learn_forms(HEADS, titles[::-1], labels[::-1])


def test_phrases_that_contradict_the_labels_are_left_out_of_a_title() -> None:
    lexicon = Lexicon(HEADS, [Form(text="Red", names=(("colour", "Red"),)), Form(text="Tee", names=())])
    both = Lexicon(HEADS, [*lexicon.forms, Form(text="Tshirt", names=(("type", "Tshirts"),))])

    title = both.encode("Red Tape Tshirt, red", {"type": "Tshirts", "colour": "Blue"})

    assert title[:3] == [3, END, PADDING]
    assert set(both.encode("Acme 5", {"type": "Tshirts"})) == set(both.encode(None, {})) == {PADDING}
