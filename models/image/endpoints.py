"""The requests and responses of the image family's endpoints."""

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
from models.image.networks.anomaly import AnomalyScore
from models.image.networks.build import predict
from models.image.networks.classifier import Prediction
from models.image.schema import MISSING, Schema
from models.image.similarity_index import MAX_NEIGHBOURS, Comparison, compare
from models.image.text.describe import THRESHOLD, Description, Phrase, confident_attributes, describe, describe_title

MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp")
MAX_COUNT = 100
RAW = RawBody(field="image", media_types=MEDIA_TYPES, max_bytes=MAX_BYTES)


def _from_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise ValueError("not base64; encode the image file in base64, or send it as the body") from None


EncodedPicture = Annotated[
    bytes,
    Field(max_length=MAX_BYTES),
    BeforeValidator(_from_base64),
    PlainSerializer(lambda value: base64.b64encode(value).decode("ascii"), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "A JPEG, PNG or WebP image."}),
]
"""The bytes of an image file, in base64 in JSON."""


class PictureRequest(BaseModel):
    """An image."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    image: EncodedPicture


class RecognitionRequest(PictureRequest):
    """An image to classify, and the level of detail of the response."""

    count: int = Field(default=3, ge=1, le=MAX_COUNT)
    """Number of classes to return for each attribute, most likely first."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Minimum confidence of an attribute; below it the attribute is marked as unsure."""
    embedding: bool = False
    """Whether to return the embedding."""


class Guess(BaseModel):
    """A class and its probability, calibrated on the validation split."""

    value: str
    confidence: float


class RecognisedAttribute(BaseModel):
    """The prediction for one attribute; `value` is null if it is unsure."""

    name: str
    value: str | None
    unsure: bool
    confidence: float
    best: list[Guess]


class RecognitionResponse(BaseModel):
    """The predicted attributes of an image."""

    model_version: str
    attributes: list[RecognisedAttribute]
    embedding: list[float] | None = None
    anomaly: AnomalyScore | None = None
    """The anomaly score; autoencoder only."""


class DescriptionRequest(PictureRequest):
    """An image to generate a title and description for."""

    threshold: float = Field(default=THRESHOLD, ge=0, le=1)
    """Confidence that an attribute needs in order to be mentioned."""
    writer: Literal["template", "learnt"] = "template"
    """How the English text is generated. `learnt` uses a model of the wording and word order of the shop's own titles,
    and needs a model trained on titles; the Chinese text always comes from templates."""


class EvidencedPhrase(BaseModel):
    """Some words of a text, and the prediction that supports them."""

    text: str
    attribute: str
    value: str
    confidence: float


class Writing(BaseModel):
    """A title and a description in one language; both are empty if no product type reaches the threshold."""

    title: str
    description: str
    phrases: list[EvidencedPhrase]
    """Every statement of the description, in order; the title makes no others."""
    writer: Literal["template", "learnt"]
    """How it was generated: `template` also if `learnt` was requested and the network or language has no generator."""


class DescriptionResponse(BaseModel):
    """Texts that mention confident attributes only, and never a brand."""

    model_version: str
    en: Writing
    zh: Writing


class SimilarRequest(PictureRequest):
    """An image to find similar products for."""

    count: int = Field(default=10, ge=1, le=MAX_NEIGHBOURS)


class SimilarProduct(BaseModel):
    """A product and the cosine similarity of its most similar image to the query."""

    item_id: str
    similarity: float


class SimilarResponse(BaseModel):
    """The most similar products, nearest first."""

    model_version: str
    indexed: int
    """Number of products in the index; 0 if the prepared images have no product ids."""
    items: list[SimilarProduct]


def golden_request(schema: Schema) -> RecognitionRequest:
    """A request with a deterministic test image of the model's input size."""
    return RecognitionRequest(image=encode_png(colour_card(schema.size, channels=schema.channels)))


def encode(request: PictureRequest, schema: Schema, features: Features) -> list[Picture]:
    """The example of a request with an image; raises PictureRejected, a ValueError, if it cannot be decoded."""
    pixels = decode(request.image, size=schema.size, channels=schema.channels)
    return [Picture(pixels, np.full(len(schema.heads), MISSING, np.int16))]


def encode_description(request: DescriptionRequest, schema: Schema, features: Features) -> list[Picture]:
    """The example of a description request; also raises ValueError if the model has no title generator."""
    if request.writer == "template":
        return encode(request, schema, features)
    if not schema.forms:
        raise ValueError(
            "writer is 'learnt', but this model was trained without titles; use 'template', or prepare the images with "
            "their titles, --columns title=NAME, and train again"
        )
    return [replace(picture, threshold=request.threshold) for picture in encode(request, schema, features)]


def answer_recognition(
    request: RecognitionRequest, predictions: Sequence[Prediction], schema: Schema, model_version: str
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
        anomaly=prediction.anomaly,
    )


def answer_description(
    request: DescriptionRequest, predictions: Sequence[Prediction], schema: Schema, model_version: str
) -> DescriptionResponse:
    """The title and description of one prediction."""
    (prediction,) = predictions
    attributes = confident_attributes(schema.heads, prediction.probabilities, request.threshold)
    learnt = prediction.title if request.writer == "learnt" else None
    return DescriptionResponse(
        model_version=model_version,
        en=_writing(describe(attributes, "en"), "template")
        if learnt is None
        else _writing(describe_title(learnt), "learnt"),
        zh=_writing(describe(attributes, "zh"), "template"),
    )


def answer_similar(
    request: SimilarRequest, predictions: Sequence[Comparison], schema: Schema, model_version: str
) -> SimilarResponse:
    """The response to one search in the catalogue."""
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
        summary="Predict the attributes of a product image",
        Request=RecognitionRequest,
        Response=RecognitionResponse,
        encode=encode,
        predict=predict,
        answer=answer_recognition,
        raw=RAW,
    ),
    Endpoint(
        path="/v1/images/describe",
        summary="Generate a title and a description of an image, in English and Chinese",
        Request=DescriptionRequest,
        Response=DescriptionResponse,
        encode=encode_description,
        predict=predict,
        answer=answer_description,
        raw=RAW,
    ),
    Endpoint(
        path="/v1/images/similar",
        summary="Find the most visually similar products",
        Request=SimilarRequest,
        Response=SimilarResponse,
        encode=encode,
        predict=compare,
        answer=answer_similar,
        raw=RAW,
    ),
)


def _best(classes: Sequence[str], probabilities: Sequence[float], *, count: int) -> list[Guess]:
    order = sorted(range(len(classes)), key=lambda index: -probabilities[index])[:count]
    return [Guess(value=classes[index], confidence=probabilities[index]) for index in order]


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
