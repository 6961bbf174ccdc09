"""The toy family with every optional part: baskets, audio files, slow answers, live features, a WebSocket."""

from __future__ import annotations

import dataclasses
import io
import threading
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field
from torch import Tensor

from models.family import Endpoint, Family, Feature, Features, Media, Schema, Stream
from tests.kit import toy
from tests.kit.toy import COLOURS, Network, Visitor

TOO_HOT = 1000.0


# Several examples per request


class Basket(BaseModel, extra="forbid"):
    items: list[tuple[float, float]] = []


class Colours(BaseModel):
    colours: list[str]
    model_version: str


def encode_basket(request: Basket, schema: Schema, features: Features) -> list[Visitor]:
    return [np.array([*numbers, -1], dtype=np.float32) for numbers in request.items]


def predict_unless_hot(network: Network, batch: Tensor) -> list[int]:
    """The colours; fails on a batch with an item that is too hot."""
    if bool((batch[:, 0] > TOO_HOT).any()):
        raise ValueError(f"an item is hotter than {TOO_HOT:g}")
    return network.predict(batch)


def answer_basket(request: Basket, predictions: Sequence[int], schema: Schema, model_version: str) -> Colours:
    return Colours(colours=[COLOURS[each] for each in predictions], model_version=model_version)


BASKETS = Endpoint(
    path="/v1/baskets",
    summary="The colour of each item of a basket",
    Request=Basket,
    Response=Colours,
    encode=encode_basket,
    predict=predict_unless_hot,
    answer=answer_basket,
)


# File answers


class Jingle(Media):
    media_type: Literal["audio/wav"] = "audio/wav"


def answer_sound(request: toy.Request, predictions: Sequence[int], schema: Schema, model_version: str) -> Jingle:
    """A tone of 10 ms for blue, 20 ms for green, 30 ms for red."""
    content = io.BytesIO()
    with wave.open(content, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(b"\x00\x10" * 80 * (predictions[0] + 1))
    return Jingle(content=content.getvalue())


SOUNDS = Endpoint(
    path="/v1/sounds",
    summary="A visitor's colour as a sound",
    Request=toy.Request,
    Response=Jingle,
    encode=toy.encode,
    predict=Network.predict,
    answer=answer_sound,
)


# Slow answers


@dataclass(frozen=True)
class Gate:
    """Blocks answers to requests with positive warmth until it is opened."""

    is_open: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def answer(
        self, request: toy.Request, predictions: Sequence[int], schema: Schema, model_version: str
    ) -> toy.Response:
        """The toy's answer, after the gate."""
        assert request.numbers is not None
        if request.numbers[0] > 0:
            self.entered.release()
            assert self.is_open.wait(60)
        return toy.answer(request, predictions, schema, model_version)


def slow(gate: Gate, *, timeout_s: float) -> Endpoint:
    """An endpoint whose answers wait for a gate."""
    return Endpoint(
        path="/v1/slow",
        summary="Predict a visitor's colour slowly",
        Request=toy.Request,
        Response=toy.Response,
        encode=toy.encode,
        predict=Network.predict,
        answer=gate.answer,
        answer_timeout_s=timeout_s,
    )


# Live features


class Visit(BaseModel, extra="forbid"):
    visitor_id: str
    note: str = ""
    is_lost: bool = False
    """Makes the answer fail."""


class Visits(BaseModel):
    number: int = Field(ge=1)
    """Index of the visit of this visitor, from 1."""


def notes_before(request: Visit, features: Features) -> list[str]:
    notes: list[str] = features.get("notes", {}).get(request.visitor_id, [])
    return notes


def encode_visit(request: Visit, schema: Schema, features: Features) -> list[Visitor]:
    return [np.array([len(notes_before(request, features)), 0.0, -1.0], dtype=np.float32)]


def predict_visit(network: Network, batch: Tensor) -> list[int]:
    return [int(count) + 1 for count in batch[:, 0]]


def answer_visit(request: Visit, predictions: Sequence[int], schema: Schema, model_version: str) -> Visits:
    if request.is_lost:
        raise RuntimeError("the answer is lost")
    return Visits(number=predictions[0])


def update_notes(request: Visit, predictions: Sequence[int], schema: Schema, features: Features) -> Features:
    return {"notes": {request.visitor_id: [*notes_before(request, features), request.note]}}


def visiting(request: BaseModel) -> list[str]:
    return [request.visitor_id] if isinstance(request, Visit) else []


NOTES = Feature(name="notes", keys=visiting, is_personal=True)
VISITS = Endpoint(
    path="/v1/visits",
    summary="Record a visit",
    Request=Visit,
    Response=Visits,
    encode=encode_visit,
    predict=predict_visit,
    answer=answer_visit,
    update=update_notes,
)


def asked_visitor(request: BaseModel) -> list[str]:
    return toy.asked_visitor(request) if isinstance(request, toy.Request) else []


# A WebSocket


@dataclass
class Talk:
    """State of a connection."""

    model_version: str
    number: float | None = None
    """The first number of a pair, until the second arrives."""
    num_colours: int = 0


class Heard(BaseModel):
    colour: str
    number: int
    """Index of the colour in this connection, from 1."""
    model_version: str


def open_talk(schema: Schema, model_version: str) -> Talk:
    return Talk(model_version)


def encode_words(talk: Talk, message: str | bytes, schema: Schema) -> list[Visitor]:
    """Two text messages with a number each make an example; bytes make one per pair of float32."""
    if isinstance(message, bytes):
        return [np.array([*pair, -1], dtype=np.float32) for pair in np.frombuffer(message, np.float32).reshape(-1, 2)]
    number = float(message)
    if talk.number is None:
        talk.number = number
        return []
    first, talk.number = talk.number, None
    return [np.array([first, number, -1], dtype=np.float32)]


def answer_words(talk: Talk, predictions: Sequence[int], schema: Schema) -> list[BaseModel | bytes]:
    """The colour of each example as JSON, then all colours as one byte each; nothing without examples."""
    answers: list[BaseModel | bytes] = []
    for each in predictions:
        talk.num_colours += 1
        answers.append(Heard(colour=COLOURS[each], number=talk.num_colours, model_version=talk.model_version))
    return [*answers, bytes(predictions)] if predictions else []


TALK = Stream(
    path="/v1/talk",
    summary="Predict colours from a stream of numbers",
    open=open_talk,
    encode=encode_words,
    predict=predict_unless_hot,
    answer=answer_words,
    max_message_bytes=1024,
)

FAMILY = dataclasses.replace(
    toy.FAMILY,
    endpoints=[*toy.FAMILY.endpoints, BASKETS, SOUNDS, VISITS],
    streams=[TALK],
    features=[Feature(name="visitor", keys=asked_visitor, rows=toy.visitor_rows, is_personal=True), NOTES],
)


def first(endpoint: Endpoint, *, golden_request: BaseModel | None = None) -> Family:
    """The family with another first endpoint, which batch prediction and the golden request use."""
    others = [each for each in FAMILY.endpoints if each.path != endpoint.path]
    asked = golden_request or toy.Request(numbers=(0.5, -0.5))
    return dataclasses.replace(FAMILY, endpoints=[endpoint, *others], golden_request=lambda schema: asked)
