"""The usual way to serve a picture model: FastAPI, Pillow and torch in one process, one picture at a time."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from fastapi import FastAPI, Request
from PIL import Image

from models import bundle
from models.image import FAMILY
from models.image.data import Batch


def main() -> None:
    """Serve a bundle's network until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loaded = bundle.load(arguments.bundle, FAMILY)
    app, size = FastAPI(), loaded.schema.size
    mode = "L" if loaded.schema.channels == 1 else "RGB"
    no_labels = torch.zeros(1, len(loaded.schema.heads), dtype=torch.int64)

    @app.post("/recognise")
    async def recognise(request: Request) -> dict[str, Any]:
        image = Image.open(io.BytesIO(await request.body())).convert(mode).resize((size, size))
        pixels = np.asarray(image).reshape(size, size, loaded.schema.channels)
        with torch.inference_mode():
            batch = Batch(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()), no_labels)
            (found,) = loaded.network.predict(batch)
        best = {head: int(np.argmax(row)) for head, row in found.probabilities.items()}
        return {head: loaded.schema.heads[head][place] for head, place in best.items()}

    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
