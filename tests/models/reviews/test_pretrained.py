"""A pretrained encoder from a local folder: what is read, what travels in a model, and what is refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobs.training.distributed import WorkerContext
from jobs.training.loop import run_training
from models import bundle
from models.ask import Answerer
from models.evaluate import Model
from models.extras import ExtraMissing
from models.prepared import Prepared
from models.reviews import FAMILY
from models.reviews.config import Config
from models.reviews.data import Review, collate
from models.reviews.endpoints import AnalysisRequest, AnalysisResponse
from models.reviews.networks.build import build
from models.reviews.networks.pretrained import Pretrained, read_tokeniser
from models.reviews.sample import made_up
from models.reviews.schema import Schema
from models.reviews.text import normalise
from tests.kit.gloo import run_workers
from tests.models.reviews.kit import prepared, trained, written

transformers = pytest.importorskip("transformers")
SETTINGS: dict[str, Any] = {"network": "encoder", "num_buckets": 1 << 12, "batch_size": 32, "epochs": 1}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def texts(count: int = 160) -> dict[str, list[str]]:
    draw = np.random.default_rng(0)
    return {
        "text": [made_up(bool(number % 2), "quality", draw) + f" {number}" for number in range(count)],
        "label": [str(number % 2) for number in range(count)],
    }


def small_encoder(folder: Path, kind: str = "Bert") -> Path:
    """A folder with a tiny encoder of random weights, and a vocabulary of the characters of the texts."""
    torch.manual_seed(0)
    characters = sorted({character for text in texts()["text"] for character in normalise(text).text} - {" "})
    words = [*SPECIAL, *characters, *(f"##{character}" for character in characters)]
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = getattr(transformers, f"{kind}Config")(vocab_size=len(words), hidden_size=16, pad_token_id=0, **sizes)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    directory = tmp_path_factory.mktemp("shop")
    return prepared(directory / "data", raw=str(written(directory / "raw.parquet", texts())))


def fitted(data: Prepared, folder: Path, **settings: Any) -> Any:
    """The network before training."""
    config, schema = Config(**SETTINGS, **settings, pretrained=str(folder)), data.schema(Schema)
    network = build(config, schema).eval()
    assert isinstance(network.deep, Pretrained)
    network.deep.fit(data, schema, config)
    return network


def batch_of(*given: str) -> Any:
    return collate([Review(normalise(text).codes) for text in given])


def test_a_model_answers_with_evidence_without_the_folder_that_it_was_made_of(data: Prepared, tmp_path: Path) -> None:
    folder = small_encoder(tmp_path / "encoder")
    model = trained(data, tmp_path / "run", **SETTINGS, pretrained=str(folder))
    shutil.rmtree(folder)

    again = bundle.load(tmp_path / "run" / "best", FAMILY)
    moved = Model(FAMILY, again.config, again.schema, again.network)
    found = [ask(each, "用了几天,质量让人喜欢") for each in (model, moved)]

    assert found[0] == found[1] and found[0].reviews[0].evidence


def ask(model: Model, text: str) -> AnalysisResponse:
    answer = Answerer(FAMILY, FAMILY.endpoints[0], model.network, model.schema, "1")(AnalysisRequest(text=text))
    assert isinstance(answer, AnalysisResponse)
    return answer


def test_training_changes_the_encoder_and_its_head(data: Prepared, folder: Path, tmp_path: Path) -> None:
    before = fitted(data, folder).deep
    after = trained(data, tmp_path / "run", **SETTINGS, pretrained=str(folder), learning_rate=0.01).network.deep

    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert {"head.weight", "encoder.encoder.layer.0.attention.self.query.weight"} <= changed
    assert not {"architecture", "tokeniser"} & changed


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_changes_no_answer(data: Prepared, folder: Path, pooling: str) -> None:
    deep = fitted(data, folder, pooling=pooling).deep
    torch.nn.init.normal_(deep.head.weight)

    with torch.no_grad():
        alone, together = deep(batch_of("质量好")), deep(batch_of("质量好", "用了几天,质量让人喜欢" * 4))

    assert torch.allclose(alone[0], together[0], atol=1e-5)
    assert not torch.allclose(together[0], together[1])


def test_texts_of_every_kind_have_tokens(data: Prepared, folder: Path) -> None:
    found = fitted(data, folder).deep(batch_of("😀", "好" * 6000, "\ud800 a", "מוצר"))

    assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("kind", ["Roberta", "Electra"])
def test_other_encoders_like_bert_are_read(data: Prepared, tmp_path: Path, kind: str) -> None:
    network = fitted(data, small_encoder(tmp_path / kind, kind))

    assert network.deep(batch_of("质量好")).shape == (1, 2)


def test_tokenizer_json_gives_the_same_tokens_as_vocab_txt(data: Prepared, folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "tokenizer.json").write_text(read_tokeniser(folder), encoding="utf-8")
    (other / "vocab.txt").unlink()

    tokens = [fitted(data, each).deep._tokens(batch_of("质量好").characters)[0] for each in (folder, other)]

    assert tokens[0].tolist() == tokens[1].tolist() and tokens[0].shape == (1, 5)  # three characters, [CLS] and [SEP]


def change_json(name: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        given = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps({**given, **values}), encoding="utf-8")

    return change


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.0.attention.self.query.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def not_a_number(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layer.0.attention.self.query.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, r"there is no .*config\.json; give a local folder.*Nothing is downloaded"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is not JSON"),
        (change_json("config.json", model_type="gpt2"), r"model_type 'gpt2'; use an encoder of bert"),
        (change_json("config.json", auto_map={"AutoModel": "x.Y"}), r"auto_map.*code of its own"),
        (lambda folder: (folder / "vocab.txt").unlink(), r"neither .*tokenizer\.json nor .*vocab\.txt"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), r"tokenizer\.json is not a tokeniser"),
        (lambda folder: (folder / "vocab.txt").open("a").write("\nx1\nx2\nx3"), r"tokeniser has \d+ tokens and"),
        (only_pickle, r"no model\.safetensors, but pytorch_model\.bin.*convert them"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x00" * 99), r"weights cannot be read"),
        (change_json("config.json", hidden_size=32), r"weights cannot be read"),
        (change_json("config.json", num_attention_heads=0), r"weights cannot be read.*config\.json that belongs"),
        (change_json("config.json", pad_token_id=999), r"weights cannot be read|999 of them for padding"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), r"config\.json is not JSON"),
        (not_a_number, r"the weights .* have NaN or infinity"),
        (other_weights, r"the weights lack encoder\.layer\.0\.attention\.self\.query\.weight"),
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_with_the_remedy(
    data: Prepared, folder: Path, tmp_path: Path, damage: Callable[[Path], Any], message: str
) -> None:
    copied = shutil.copytree(folder, tmp_path / "copy")
    damage(copied)

    with pytest.raises(ValueError, match=message):
        fitted(data, copied)


@pytest.mark.parametrize("settings", [{"network": "encoder"}, {"network": "deep", "pretrained": "/x"}])
def test_the_network_and_the_folder_go_together(data: Prepared, tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"--network encoder and --pretrained FOLDER"):
        trained(data, tmp_path / "run", **settings)


def test_without_its_packages_the_encoder_names_its_extra(
    data: Prepared, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)

    with pytest.raises(ExtraMissing, match=r"network encoder of reviews needs the package tokenizers.*\[encoder\]"):
        fitted(data, folder)


def test_a_model_whose_architecture_is_not_known_is_refused(data: Prepared, folder: Path) -> None:
    tensors = fitted(data, folder).deep.state_dict()
    tensors["architecture"] = torch.tensor(list(b'{"model_type": "gpt2"}'), dtype=torch.uint8)

    with pytest.raises(ValueError, match="'gpt2'"):
        Pretrained(Config(**SETTINGS), data.schema(Schema)).load_state_dict(tensors)


def work(rank: int, world_size: int, directory: Path) -> None:
    """The training of one of several workers."""
    run_training(
        FAMILY,
        config=Config(**SETTINGS, pretrained=str(directory / "encoder")),
        data=Prepared(directory / "data"),
        directory=directory / "run",
        worker=WorkerContext(rank=rank, world_size=world_size),
        report=lambda _: None,
    )


def test_two_workers_train_one_encoder(tmp_path: Path) -> None:
    small_encoder(tmp_path / "encoder")
    prepared(tmp_path / "data", raw=str(written(tmp_path / "raw.parquet", texts())))

    run_workers(work, 2, tmp_path)

    assert bundle.load(tmp_path / "run" / "best", FAMILY).metrics["epoch"] in (0, 1)
