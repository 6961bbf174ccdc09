"""The usual way to serve a recommender: FastAPI, SQLite and torch in one process, one request at a time.

The request's checks, the model and the answer are those of the family, so that only the serving differs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI, Response

from models import bundle
from models.ask import Answerer
from models.features import FeatureStore, filled
from models.recommender import FAMILY
from models.recommender.endpoints import ENDPOINTS, RecommendationRequest


def main() -> None:
    """Serve a bundle's network with histories from a feature store until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = bundle.load(arguments.bundle, FAMILY)
    store, features = FeatureStore(arguments.features, read_only=True), filled(FAMILY.features)
    answerer = Answerer(FAMILY, ENDPOINTS[0], loaded.network, loaded.schema, "bare")
    app = FastAPI()

    @app.post(ENDPOINTS[0].path)
    async def recommend(request: RecommendationRequest) -> Response:
        answer = answerer(request, store.read(features, request).values)
        return Response(answer.model_dump_json(), media_type="application/json")

    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
