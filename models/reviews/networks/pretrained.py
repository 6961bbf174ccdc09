"""A pretrained encoder from a local folder in Hugging Face's format, fine-tuned as the deep part of a network.

Shapes: B texts, L characters, T tokens, D width of the encoder, K classes.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.extras import extra
from models.prepared import Prepared
from models.reviews.config import Config
from models.reviews.data import Reviews
from models.reviews.schema import Schema

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
"""The `model_type` of encoders that can be read; none of them needs code of its own."""
ARCHITECTURE, WEIGHTS, SHARDED = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENISER, VOCABULARY, TOKENISER_SETTINGS = "tokenizer.json", "vocab.txt", "tokenizer_config.json"
MAX_TOKENS = 320
"""More than the characters that are read have in most languages."""
LEAST_TOKENS = 8
MAX_ID = 10_000_000
"""Of a token: a tokeniser that is written out has room for every number up to the largest."""
LOADING = {"dtype": torch.float32, "trust_remote_code": False, "attn_implementation": "sdpa"}
"""Of every encoder; a folder may name an implementation that would be downloaded."""
POSITIONS_BEFORE = 2
"""Positions of a RoBERTa that no token has."""
UNNEEDED = ("pooler.", "embeddings.position_ids")
"""Weights that a folder may lack."""


class Pretrained(nn.Module):
    """Logits from the mean or the first state of an encoder; an empty shell until it is read or loaded.

    The architecture and the tokeniser are buffers of bytes, so that a model directory needs no folder beside it.
    """

    architecture: Tensor
    tokeniser: Tensor
    encoder: nn.Module | None
    head: nn.Module | None

    def __init__(self, config: Config, schema: Schema) -> None:
        super().__init__()
        self.pooling, self.num_classes = config.pooling, len(schema.classes)
        self.dropout = nn.Dropout(config.dropout)
        self.register_module("encoder", None)
        self.register_module("head", None)
        self.register_buffer("architecture", torch.zeros(0, dtype=torch.uint8))
        self.register_buffer("tokeniser", torch.zeros(0, dtype=torch.uint8))
        self._tokeniser: Any = None

    def forward(self, batch: Reviews) -> Tensor:
        """Logits [B, K]."""
        assert self.encoder is not None and self.head is not None
        tokens_BT, mask_BT = self._tokens(batch.characters)
        states_BTD = self.encoder(input_ids=tokens_BT, attention_mask=mask_BT).last_hidden_state
        if self.pooling == "cls":
            pooled_BD = states_BTD[:, 0]
        else:
            share = mask_BT / mask_BT.sum(1, keepdim=True)
            pooled_BD = (states_BTD * share[..., None].to(states_BTD.dtype)).sum(1)
        logits: Tensor = self.head(self.dropout(pooled_BD))
        return logits.float()

    def fit(self, data: Prepared, schema: Schema, config: Config) -> None:
        """Read architecture, tokeniser and weights of the folder; raises ValueError that names file and remedy."""
        folder = Path(config.pretrained).expanduser()
        architecture, tokeniser = read_architecture(folder), read_tokeniser(folder)
        self._assemble(architecture, tokeniser, read_weights(folder))
        self.architecture, self.tokeniser = _as_bytes(architecture), _as_bytes(tokeniser)

    def _assemble(self, architecture: str, tokeniser: str, encoder: nn.Module | None = None) -> None:
        """Make the modules that these describe; the weights of an encoder that is not given are yet to be loaded."""
        given = json.loads(architecture)
        if given.get("model_type") not in ARCHITECTURES:
            raise ValueError(f"the model_type of an encoder is {given.get('model_type')!r}, not {_known()}")
        if encoder is None:
            read = _transformers().AutoConfig.for_model(**given)
            encoder = _without_pooler(_transformers().AutoModel.from_config(read, **LOADING))
        self.encoder = encoder
        chosen: Any = encoder.config
        self.head = nn.Linear(chosen.hidden_size, self.num_classes)
        # The first logits are 0: what is learned adds to those of the wide part.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self._tokeniser = _tokenizers().Tokenizer.from_str(tokeniser)
        num_tokens, padding = 1 + max(self._tokeniser.get_vocab().values(), default=-1), chosen.pad_token_id or 0
        if num_tokens > chosen.vocab_size or not 0 <= padding < chosen.vocab_size:
            raise ValueError(
                f"the tokeniser has {num_tokens} tokens and the encoder {chosen.vocab_size}, {padding} of them for "
                f"padding, see vocab_size in {ARCHITECTURE}; use the tokeniser that the encoder was trained with"
            )
        most_tokens = min(MAX_TOKENS, chosen.max_position_embeddings - POSITIONS_BEFORE)
        if most_tokens < LEAST_TOKENS:
            raise ValueError(
                f"the encoder reads {most_tokens} tokens, see max_position_embeddings in {ARCHITECTURE}; use one that "
                f"reads {LEAST_TOKENS} or more"
            )
        self._tokeniser.enable_truncation(most_tokens)
        self._tokeniser.enable_padding(pad_id=padding)

    def _tokens(self, characters_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers and mask [B, T] of the tokens of each text."""
        texts = [_text(row[row > 0]) for row in characters_BL.cpu().numpy()]
        found = self._tokeniser.encode_batch(texts)
        tokens = torch.tensor([each.ids for each in found], device=characters_BL.device)
        return tokens, torch.tensor([each.attention_mask for each in found], device=characters_BL.device)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        architecture, tokeniser = (state_dict.get(f"{prefix}{name}") for name in ("architecture", "tokeniser"))
        if architecture is not None and tokeniser is not None:
            if self.encoder is None:
                self._assemble(_from_bytes(architecture), _from_bytes(tokeniser))
            self.architecture, self.tokeniser = torch.empty_like(architecture), torch.empty_like(tokeniser)
        super()._load_from_state_dict(state_dict, prefix, *others)


def read_architecture(folder: Path) -> str:
    """The config.json of a folder, checked; raises ValueError."""
    path = folder / ARCHITECTURE
    if not path.is_file():
        raise ValueError(
            f"--pretrained {folder}: there is no {path}; give a local folder with {ARCHITECTURE}, {WEIGHTS} and "
            f"{TOKENISER}, as save_pretrained of transformers writes it. Nothing is downloaded"
        )
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); copy the folder again") from None
    kind = found.get("model_type") if isinstance(found, dict) else None
    if kind not in ARCHITECTURES:
        raise ValueError(f"{path} has the model_type {kind!r}; use an encoder of {_known()}")
    if "auto_map" in found:
        raise ValueError(f"{path} has an auto_map, which asks for code of its own; use an encoder without it")
    return text


def read_tokeniser(folder: Path) -> str:
    """The tokeniser of a folder as JSON, from tokenizer.json or from a BERT's vocab.txt; raises ValueError."""
    path, words, settings = (folder / name for name in (TOKENISER, VOCABULARY, TOKENISER_SETTINGS))
    tokenizers = _tokenizers()
    if not path.is_file() and not words.is_file():
        raise ValueError(
            f"--pretrained {folder}: there is neither {path} nor {words}; save the encoder's tokeniser there"
        )
    try:
        if path.is_file():
            found = tokenizers.Tokenizer.from_file(str(path))
        else:
            given = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
            found = tokenizers.BertWordPieceTokenizer(str(words), lowercase=bool(given.get("do_lower_case", True)))
    except Exception as error:  # tokenizers raises Exception itself
        read = path if path.is_file() else words
        raise ValueError(f"{read} is not a tokeniser that can be read ({error}); copy the folder again") from error
    largest = max(found.get_vocab().values(), default=0)
    if largest > MAX_ID:
        raise ValueError(f"{folder}: the tokeniser has a token of the number {largest}; {MAX_ID} is the most")
    text: str = found.to_str()
    return text


def read_weights(folder: Path) -> nn.Module:
    """The encoder of a folder with its weights in fp32, read from safetensors alone; raises ValueError."""
    if not any((folder / name).is_file() for name in (WEIGHTS, SHARDED)):
        others = sorted(
            path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".h5")
        )
        raise ValueError(
            f"--pretrained {folder} has no {WEIGHTS}{f', but {others[0]}' if others else ''}: weights are read from "
            "safetensors alone, as other formats can run code; convert them with "
            "save_pretrained(FOLDER, safe_serialization=True) on a machine where you trust the file"
        )
    transformers = _transformers()
    try:
        encoder, told = transformers.AutoModel.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            **LOADING,
            output_loading_info=True,
        )
    except Exception as error:  # such as a damaged file, or shapes that differ
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"--pretrained {folder}: the weights cannot be read ({reason}); copy the folder again, or use the "
            f"{ARCHITECTURE} that belongs to them"
        ) from error
    missing = sorted(name for name in told["missing_keys"] if not name.startswith(UNNEEDED))
    if missing:
        raise ValueError(
            f"--pretrained {folder}: the weights lack {missing[0]} and {len(missing) - 1} others of {ARCHITECTURE}; "
            "use the weights of that architecture"
        )
    wrong = next((name for name, each in encoder.named_parameters() if not bool(torch.isfinite(each).all())), None)
    if wrong:
        raise ValueError(f"--pretrained {folder}: the weights {wrong} have NaN or infinity; copy the folder again")
    return _without_pooler(encoder)


def _without_pooler(encoder: Any) -> nn.Module:
    """The encoder without the layer after its first state, which is not used and would get no gradient."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    assert isinstance(encoder, nn.Module)
    return encoder


def _text(codes: Any) -> str:
    return codes.astype(np.uint32).tobytes().decode("utf-32-le", "replace")  # type: ignore[no-any-return]


def _as_bytes(text: str) -> Tensor:
    return torch.tensor(list(text.encode("utf-8")), dtype=torch.uint8)


def _from_bytes(found: Tensor) -> str:
    return bytes(found.tolist()).decode("utf-8")


def _known() -> str:
    return ", ".join(ARCHITECTURES)


def _transformers() -> Any:
    """Imported when it is needed: few models do, and it takes seconds."""
    with extra("encoder"):
        return importlib.import_module("transformers")


def _tokenizers() -> Any:
    with extra("encoder"):
        return importlib.import_module("tokenizers")
