"""The reviews family's endpoints: sentiment of texts with evidence, and the reputation of a product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.family import Endpoint, Feature, Features
from models.raw.ids import Id
from models.reviews.aspects.mentions import aspects_of
from models.reviews.aspects.reading import FILE, lexicons_of
from models.reviews.data import Review, Reviews
from models.reviews.networks.build import predict
from models.reviews.networks.sentiment import Prediction, Sentiment
from models.reviews.products import reputation_rows
from models.reviews.schema import Schema
from models.reviews.text import LANGUAGES, codes_of, language_of, normalise

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


class AspectMention(BaseModel):
    """An aspect that a review speaks of, by the lexicon of its language."""

    aspect: str
    polarity: float
    """From -1, blame, to 1, praise; 0 if neither is said."""
    text: str
    start: int
    end: int


class AspectTerm(BaseModel):
    """A term that a review has an opinion on, by the networks that were trained on the shop's labelled aspects."""

    text: str
    """As it stands in the review."""
    polarity: Literal["negative", "neutral", "positive"]
    confidence: float
    """Probability of the polarity, not calibrated."""
    start: int
    """First character, counted in the review from 0."""
    end: int
    """The character after the last."""


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
    aspects: list[AspectMention]
    """By the lexicon of the review's language."""
    terms: list[AspectTerm] = []
    """By the networks of aspect terms; empty for a model without labelled aspects, or in languages that they lack."""


class AnalysisResponse(BaseModel):
    """The analysis of each text, in their order."""

    model_version: str
    reviews: list[Analysis]


def golden_request(schema: Schema) -> AnalysisRequest:
    """A request with one text of two languages."""
    return AnalysisRequest(texts=["质量很好, 下次还会买", "Bad quality, it broke after a day."])


def encode(request: AnalysisRequest, schema: Schema, features: Features) -> list[Review]:
    """An example for each text; raises ValueError for one of which nothing is left."""
    found = []
    for number, text in enumerate(request.all_texts):
        plain = normalise(text[: schema.max_chars])
        if not plain.text:
            raise ValueError(f"text {number} is empty; send a review")
        language = language_of(plain.text)
        read = text[: schema.max_chars] if language in schema.term_languages else ""
        found.append(Review(plain.codes, language=LANGUAGES.index(language), explain=request.evidence, text=read))
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
    language = language_of(plain.text)
    return Analysis(
        sentiment=sentiment,
        confidence=probability[sentiment],
        unsure=prediction.unsure,
        probabilities=[ClassProbability(sentiment=name, probability=value) for name, value in probability.items()],
        rating=None if ratings is None else float(sum(map(float.__mul__, ratings, prediction.probabilities))),
        language=language,
        truncated=len(text) > schema.max_chars,
        evidence=evidence,
        aspects=_aspects(text[: schema.max_chars], language, schema),
        terms=[
            AspectTerm.model_validate({**asdict(each), "text": text[each.start : each.end]})
            for each in prediction.terms
        ],
    )


def _aspects(text: str, language: str, schema: Schema) -> list[AspectMention]:
    lexicons = lexicons_of(schema.files.get(FILE, b""))
    if language not in lexicons:
        return []
    return [
        AspectMention(
            aspect=each.aspect,
            polarity=each.polarity,
            text=text[each.start : each.end],
            start=each.start,
            end=each.end,
        )
        for each in aspects_of(text, language, lexicons[language])
    ]


class ReputationRequest(BaseModel):
    """A product."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    product_id: Id
    """The product; a number is read as its text."""


class ReputationResponse(BaseModel):
    """What the prepared reviews say of a product; docs/reviews-reputation.md says what each number means."""

    model_version: str
    product_id: str
    source: Literal["reviews", "unknown"]
    """unknown: no review of the product was prepared, and all numbers are null."""
    reviews: int = 0
    effective_reviews: float | None = None
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    rank: int | None = None
    change: float | None = None
    chance_better: float | None = None
    flags: list[str] = []
    summary: list[dict[str, Any]] = []
    """Aspects with share, polarity and verbatim quotes."""


def encode_product(request: ReputationRequest, schema: Schema, features: Features) -> list[Review]:
    """An example that carries what is stored of the product."""
    stored = features.get("reputation", {}).get(request.product_id)
    return [Review(codes_of(""), stored=stored)]


def pass_on(network: Sentiment, batch: Reviews) -> Sequence[Mapping[str, Any] | None]:
    """What is stored of each product."""
    return batch.stored


def answer_product(
    request: ReputationRequest, predictions: Sequence[Mapping[str, Any] | None], schema: Schema, model_version: str
) -> ReputationResponse:
    """The stored reputation of a product."""
    (stored,) = predictions
    shown = ReputationResponse.model_fields.keys()
    fields = {} if stored is None else {name: value for name, value in stored.items() if name in shown}
    source: Literal["reviews", "unknown"] = "unknown" if stored is None else "reviews"
    return ReputationResponse(model_version=model_version, product_id=request.product_id, source=source, **fields)


def _product_keys(request: BaseModel) -> list[str]:
    return [request.product_id] if isinstance(request, ReputationRequest) else []


FEATURES = (Feature("reputation", keys=_product_keys, rows=reputation_rows, can_be_missing=True),)

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
    Endpoint(
        path="/v1/reviews/reputation",
        summary="The reputation of a product by its reviews, with what is praised and blamed",
        Request=ReputationRequest,
        Response=ReputationResponse,
        encode=encode_product,
        predict=pass_on,
        answer=answer_product,
    ),
)
