"""The image family's requests and answers at the border of the service."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from models.family import Endpoint, Features, RawBody
from models.image.codec import MAX_BYTES, colour_card, decode, encode_png
from models.image.data import Picture
from models.image.networks.anomaly import Strangeness
from models.image.networks.build import predict, predict_similar
from models.image.networks.classifier import Recognition
from models.image.schema import MISSING, Schema
from models.image.similarity_index import MAX_NEIGHBOURS, Comparison
from models.image.text.describe import THRESHOLD, Description, Phrase, describe, entitled, held_attributes

MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp")
MAX_COUNT = 100
RAW = RawBody(field="image", media_types=MEDIA_TYPES, max_bytes=MAX_BYTES)


def _from_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("not base64; write the bytes of the picture in base64, or send them as the body") from None


EncodedPicture = Annotated[
    bytes,
    Field(max_length=MAX_BYTES),
    BeforeValidator(_from_base64),
    PlainSerializer(lambda value: base64.b64encode(value).decode("ascii"), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "A JPEG, PNG or WebP picture."}),
]
"""The bytes of a picture file; in JSON, which has no bytes, they are base64."""


class PictureRequest(BaseModel):
    """A picture to be asked about."""

    model_config = ConfigDict(extra="forbid")

    image: EncodedPicture


class RecognitionRequest(PictureRequest):
    """A picture, and how much is wanted to be known of it."""

    count: int = Field(default=3, ge=1, le=MAX_COUNT)
    """Classes to name for each attribute, most likely first."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """An attribute whose best class is less likely than this is unsure."""
    embedding: bool = False
    """Whether to give the picture's embedding too."""


class Guess(BaseModel):
    """A class and how likely it is, calibrated on pictures that were not trained on."""

    value: str
    confidence: float


class RecognisedAttribute(BaseModel):
    """What one head says; `value` is null where it is unsure."""

    name: str
    value: str | None
    unsure: bool
    confidence: float
    best: list[Guess]


class RecognitionResponse(BaseModel):
    """What a picture shows."""

    model_version: str
    attributes: list[RecognisedAttribute]
    embedding: list[float] | None = None
    anomaly: Strangeness | None = None
    """How unlike the catalogue it is, where the network can say: the autoencoder."""


class DescriptionRequest(PictureRequest):
    """A picture to put into words."""

    threshold: float = Field(default=THRESHOLD, ge=0, le=1)
    """An attribute less likely than this is not mentioned."""
    writer: Literal["template", "learnt"] = "template"
    """Who writes the English words. The learnt one has the wording and the order of the shop's own titles, and needs a
    model that was trained on titles; the Chinese words are from templates either way."""


class EvidencedPhrase(BaseModel):
    """Some words of a text, and what they rest on."""

    text: str
    attribute: str
    value: str
    confidence: float


class Writing(BaseModel):
    """A title and a description in one language; both are empty where nothing is sure enough to be said."""

    title: str
    description: str
    phrases: list[EvidencedPhrase]
    """Every statement of the description, in order; the title makes no other."""
    writer: Literal["template", "learnt"]
    """Who wrote it: `template` also where the learnt one was asked for and this network or language has none."""


class DescriptionResponse(BaseModel):
    """The words, which say nothing that the model does not hold: never a brand, never an attribute that is unsure."""

    model_version: str
    en: Writing
    zh: Writing


class SimilarRequest(PictureRequest):
    """A picture to find products like it."""

    count: int = Field(default=10, ge=1, le=MAX_NEIGHBOURS)


class SimilarProduct(BaseModel):
    """A product, and the cosine of its most similar picture with the one that was sent."""

    item_id: str
    similarity: float


class SimilarResponse(BaseModel):
    """Products that look like a picture, most similar first."""

    model_version: str
    indexed: int
    """Products that it was compared with; 0 where the prepared pictures carry no product ids."""
    items: list[SimilarProduct]


def golden_request(schema: Schema) -> RecognitionRequest:
    """A picture of stripes and shades, of the size that the model takes."""
    return RecognitionRequest(image=encode_png(colour_card(schema.size, channels=schema.channels)))


def encode(request: PictureRequest, schema: Schema, features: Features) -> list[Picture]:
    """The example of a request with a picture; PictureRejected, a ValueError, when it cannot be decoded."""
    pixels = decode(request.image, size=schema.size, channels=schema.channels)
    return [Picture(pixels, np.full(len(schema.heads), MISSING, np.int16))]


def encode_description(request: DescriptionRequest, schema: Schema, features: Features) -> list[Picture]:
    """The example of a picture to put into words; ValueError too where titles are asked for that were not learnt."""
    if request.writer == "template":
        return encode(request, schema, features)
    if not schema.forms:
        raise ValueError(
            "writer is 'learnt', but this model has learnt no titles; use 'template', or prepare the pictures with "
            "their titles, --columns title=NAME, and train again"
        )
    return [replace(picture, threshold=request.threshold) for picture in encode(request, schema, features)]


def answer_recognition(
    request: RecognitionRequest, predictions: Sequence[Recognition], schema: Schema, model_version: str
) -> RecognitionResponse:
    """The response to one prediction."""
    (prediction,) = predictions
    attributes = []
    for head, classes in schema.heads.items():
        best = _best(classes, prediction.probabilities[head], count=request.count)
        unsure = best[0].confidence < request.threshold
        attributes.append(
            RecognisedAttribute(
                name=head,
                value=None if unsure else best[0].value,
                unsure=unsure,
                confidence=best[0].confidence,
                best=best,
            )
        )
    return RecognitionResponse(
        model_version=model_version,
        attributes=attributes,
        embedding=prediction.embedding if request.embedding else None,
        anomaly=prediction.strangeness,
    )


def answer_description(
    request: DescriptionRequest, predictions: Sequence[Recognition], schema: Schema, model_version: str
) -> DescriptionResponse:
    """The response to one prediction, in words."""
    (prediction,) = predictions
    held = held_attributes(schema.heads, prediction.probabilities, request.threshold)
    learnt = prediction.title if request.writer == "learnt" else None
    return DescriptionResponse(
        model_version=model_version,
        en=_writing(describe(held, "en"), "template") if learnt is None else _writing(entitled(learnt), "learnt"),
        zh=_writing(describe(held, "zh"), "template"),
    )


def answer_similar(
    request: SimilarRequest, predictions: Sequence[Comparison], schema: Schema, model_version: str
) -> SimilarResponse:
    """The response to one comparison with the catalogue."""
    (prediction,) = predictions
    nearest = prediction.neighbours[: request.count]
    return SimilarResponse(
        model_version=model_version,
        indexed=prediction.num_products,
        items=[SimilarProduct(item_id=one.item_id, similarity=one.similarity) for one in nearest],
    )


ENDPOINTS = (
    Endpoint(
        path="/v1/images/recognise",
        summary="Say what a picture shows",
        Request=RecognitionRequest,
        Response=RecognitionResponse,
        encode=encode,
        predict=predict,
        answer=answer_recognition,
        raw=RAW,
    ),
    Endpoint(
        path="/v1/images/describe",
        summary="Write a title and a description for a picture, in English and Chinese",
        Request=DescriptionRequest,
        Response=DescriptionResponse,
        encode=encode_description,
        predict=predict,
        answer=answer_description,
        raw=RAW,
    ),
    Endpoint(
        path="/v1/images/similar",
        summary="Find the products that look most like a picture",
        Request=SimilarRequest,
        Response=SimilarResponse,
        encode=encode,
        predict=predict_similar,
        answer=answer_similar,
        raw=RAW,
    ),
)


def _best(classes: Sequence[str], probabilities: Sequence[float], *, count: int) -> list[Guess]:
    order = sorted(range(len(classes)), key=lambda place: -probabilities[place])[:count]
    return [Guess(value=classes[place], confidence=probabilities[place]) for place in order]


def _writing(words: Description, writer: Literal["template", "learnt"]) -> Writing:
    phrases = _evidence(words.phrases)
    return Writing(title=words.title, description=words.description, phrases=phrases, writer=writer)


def _evidence(phrases: Sequence[Phrase]) -> list[EvidencedPhrase]:
    return [
        EvidencedPhrase(
            text=phrase.text,
            attribute=phrase.attribute.head,
            value=phrase.attribute.value,
            confidence=phrase.attribute.confidence,
        )
        for phrase in phrases
    ]
