"""The usual way to serve a recommender: one FastAPI route with SQLite and torch, one request at a time."""

from __future__ import annotations

import argparse
import json
import sqlite3
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI

from models import bundle
from models.recommender import FAMILY
from models.recommender.endpoints import (
    ENDPOINTS,
    RecommendationRequest,
    RecommendationResponse,
    answer_recommendation,
    encode_recommendation,
)


def make_app(model: Path, features: Path) -> FastAPI:
    """Serves a bundle with histories from a feature store; request, examples and answer are those of the family."""
    loaded, endpoint = bundle.load(model, FAMILY), ENDPOINTS[0]
    store = sqlite3.connect(f"{features.absolute().as_uri()}?mode=ro", uri=True)
    app = FastAPI()

    @app.post(endpoint.path)
    async def recommend(request: RecommendationRequest) -> RecommendationResponse:
        select = "SELECT value FROM feature WHERE name = 'history' AND key = ?"
        row = store.execute(select, (request.user_id,)).fetchone()
        histories = {"history": {str(request.user_id): json.loads(row[0])}} if row else {}
        with torch.inference_mode():
            batch = FAMILY.collate(encode_recommendation(request, loaded.schema, histories))
            predictions = list(endpoint.predict(loaded.network, batch))
        return answer_recommendation(request, predictions, loaded.schema, "1")

    return app


def main() -> None:
    """Serve until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    app = make_app(arguments.bundle, arguments.features)
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
