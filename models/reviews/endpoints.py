"""The reviews family's endpoint: sentiment of texts, with the words that speak for it."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.family import Endpoint, Features
from models.reviews.data import Review
from models.reviews.networks.build import predict
from models.reviews.networks.sentiment import Prediction
from models.reviews.schema import Schema
from models.reviews.text import LANGUAGES, language_of, normalise

MAX_TEXTS = 64
MAX_CHARACTERS = 1_000_000
"""Characters of a text in a request; what is above `Schema.max_chars` is not read, and the answer says so."""


class AnalysisRequest(BaseModel):
    """One text or several to analyse."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    text: str | None = Field(default=None, max_length=MAX_CHARACTERS)
    """One review; a table has one a row."""
    texts: list[str] | None = Field(default=None, min_length=1, max_length=MAX_TEXTS)
    """Several reviews, in place of `text`."""
    evidence: bool = True
    """Whether to return the words that speak for each answer."""

    @model_validator(mode="after")
    def _has_texts(self) -> AnalysisRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("send either `text` or `texts`")
        for number, text in enumerate(self.all_texts):
            if len(text) > MAX_CHARACTERS:
                raise ValueError(f"text {number} has {len(text):,} characters; send at most {MAX_CHARACTERS:,}")
            if "\x00" in text:
                raise ValueError(f"text {number} has the character NUL; remove it")
        return self

    @property
    def all_texts(self) -> list[str]:
        """The texts of the request."""
        return self.texts if self.texts is not None else [self.text or ""]


class Evidence(BaseModel):
    """Words of a text that speak for its sentiment."""

    text: str
    """As they stand in the review."""
    start: int
    """First character, counted in the review from 0."""
    end: int
    """The character after the last."""
    score: float
    """What they add to the logit of the sentiment, by the linear part of the model."""


class ClassProbability(BaseModel):
    """A sentiment and its probability."""

    sentiment: str
    probability: float


class Analysis(BaseModel):
    """What a review says."""

    sentiment: str
    """negative, neutral or positive: the most likely one, also where it is unsure."""
    confidence: float
    """Its probability, calibrated on validation."""
    unsure: bool
    """Whether answers with so little confidence were right less often than the model was asked for."""
    probabilities: list[ClassProbability]
    """Of every sentiment."""
    rating: float | None
    """Expected rating: the mean rating of each class by its probability; null for a model without ratings."""
    language: str
    """zh, en or other."""
    truncated: bool
    """Whether the text is longer than the model reads, so that its end was not looked at."""
    evidence: list[Evidence]
    """At most three, the strongest first; empty for a purely deep network."""


class AnalysisResponse(BaseModel):
    """The analysis of each text, in their order."""

    model_version: str
    reviews: list[Analysis]


def golden_request(schema: Schema) -> AnalysisRequest:
    """A request with one text of two languages."""
    return AnalysisRequest(texts=["质量很好, 下次还会买", "Bad quality, it broke after a day."])


def encode(request: AnalysisRequest, schema: Schema, features: Features) -> list[Review]:
    """An example for each text."""
    found = []
    for text in request.all_texts:
        plain = normalise(text[: schema.max_chars])
        language = LANGUAGES.index(language_of(plain.text))
        found.append(Review(plain.codes, language=language, explain=request.evidence))
    return found


def answer(
    request: AnalysisRequest, predictions: Sequence[Prediction], schema: Schema, model_version: str
) -> AnalysisResponse:
    """The response to the predictions of a request's texts."""
    pairs = zip(request.all_texts, predictions, strict=True)
    return AnalysisResponse(
        model_version=model_version, reviews=[_analysis(text, each, schema) for text, each in pairs]
    )


def _analysis(text: str, prediction: Prediction, schema: Schema) -> Analysis:
    plain = normalise(text[: schema.max_chars])
    probability = dict(zip(schema.classes, prediction.probabilities, strict=True))
    sentiment = max(probability, key=probability.__getitem__)
    ratings = schema.class_ratings
    evidence = []
    for first, last, score in prediction.spans:
        start, end = plain.span(first, last)
        evidence.append(Evidence(text=text[start:end], start=start, end=end, score=score))
    return Analysis(
        sentiment=sentiment,
        confidence=probability[sentiment],
        unsure=prediction.unsure,
        probabilities=[ClassProbability(sentiment=name, probability=value) for name, value in probability.items()],
        rating=None if ratings is None else float(sum(map(float.__mul__, ratings, prediction.probabilities))),
        language=language_of(plain.text),
        truncated=len(text) > schema.max_chars,
        evidence=evidence,
    )


ENDPOINTS = (
    Endpoint(
        path="/v1/reviews/analyse",
        summary="Analyse the sentiment of reviews, with the words that speak for it",
        Request=AnalysisRequest,
        Response=AnalysisResponse,
        encode=encode,
        predict=predict,
        answer=answer,
    ),
)
