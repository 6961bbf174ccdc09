"""Optional kinds of answers: several examples per request, files, slow answers, and features that requests write."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import threading
import wave
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from torch.multiprocessing.spawn import spawn

from models import FAMILIES
from models.family import Endpoint, Family, Features, Media
from models.features import Change, FeatureStore, create_live_store
from models.prepared import Prepared
from serve.answers import MAX_ATTEMPTS, NUM_LONG_ANSWERS
from serve.routes import make_app
from serve.service import Service, Settings
from tests.kit import toy_extras
from tests.kit.bundles import write_bundle
from tests.kit.replicas import replica, visit_in_a_process, visit_until_answered
from tests.kit.toy import visitor_rows
from tests.kit.toy_extras import BASKETS, SOUNDS, VISITS, Gate, Jingle, Visit, Visits, first, slow
from tests.serve.test_service import assert_problem, client_of

Serve = Callable[[Family], Service]
UNREACHED_TIMEOUT_S = 600.0


@pytest.fixture
def live_store(tmp_path: Path) -> Path:
    path = tmp_path / "live-features.sqlite"
    create_live_store(path)
    return path


@pytest.fixture
def serve(tmp_path: Path, live_store: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Start replicas of a family with one model and one live store."""

    def started(family: Family) -> Service:
        monkeypatch.setitem(FAMILIES, "toy", family)
        schema = family.Schema(family="toy", fingerprint="f" * 64, num_shards=4, num_examples={"train": 1})
        config = family.Config()
        if not (tmp_path / "v1").is_dir():
            network = family.build(config, schema)
            write_bundle(family, tmp_path / "v1", network=network, schema=schema, config=config)
        return replica(tmp_path / "v1", live_store)

    return started


def requests_to(service: Service) -> httpx.AsyncClient:
    """A client whose requests share one event loop, as in a replica."""
    transport = httpx.ASGITransport(app=make_app(service), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://replica")


# Several examples per request


@pytest.mark.parametrize("num_items", [0, 1, 3])
def test_a_basket_gets_one_colour_per_item_in_order(serve: Serve, num_items: int) -> None:
    client = client_of(serve(toy_extras.FAMILY))
    items = [[2.0, 2.0], [-2.0, -2.0], [-5.0, 5.0]][:num_items]
    alone = [client.post("/v1/colours", json={"numbers": item}).json()["colour"] for item in items]

    together = client.post(BASKETS.path, json={"items": items})

    assert together.status_code == 200
    assert together.json()["colours"] == alone


def test_a_bad_item_fails_its_own_basket_only(serve: Serve, tmp_path: Path, live_store: Path) -> None:
    sizes: list[int] = []
    serve(toy_extras.FAMILY)
    service = replica(tmp_path / "v1", live_store, sizes=sizes)
    good, bad = {"items": [[1, 1], [-1, -1]]}, {"items": [[1, 1], [5000, 1]]}

    async def ask() -> list[httpx.Response]:
        async with requests_to(service) as client:
            return await asyncio.gather(*(client.post(BASKETS.path, json=basket) for basket in (good, bad, good)))

    responses = asyncio.run(ask())

    assert [response.status_code for response in responses] == [200, 500, 200]
    assert [len(response.json()["colours"]) for response in (responses[0], responses[2])] == [2, 2]
    assert max(sizes) > 2, "the requests must share a batch"


# File answers


def test_a_file_answer_has_its_media_type(serve: Serve) -> None:
    response = client_of(serve(first(SOUNDS))).post(SOUNDS.path, json={"numbers": [1, 2]})

    assert response.status_code == 200
    assert response.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(response.content)) as sound:
        assert sound.getnframes() in (80, 160, 240)


def test_a_text_file_has_no_charset_added_to_its_media_type(serve: Serve) -> None:
    def answer(request: Any, predictions: Sequence[int], schema: Any, model_version: str) -> Media:
        return Media(content=b"\xff", media_type="text/csv")

    sounds: Endpoint = SOUNDS
    table = dataclasses.replace(sounds, path="/v1/table", Response=Media, answer=answer)
    client = client_of(serve(first(table)))

    response = client.post("/v1/table", json={"numbers": [1, 2]})

    assert (response.headers["content-type"], response.content) == ("text/csv", b"\xff")
    described = client.get("/openapi.json").json()["paths"]["/v1/table"]["post"]["responses"]["200"]
    assert list(described["content"]) == ["*/*"]


@pytest.mark.parametrize(
    "media_type", ["text/csv\r\nset-cookie: a=b", "text/csv\n", "text/\N{SNOWMAN}", "text", "", 'text/csv; a="\r"']
)
def test_an_invalid_media_type_is_rejected_before_it_becomes_a_header(media_type: str) -> None:
    class Table(Media):
        media_type: str

    for kind in (Media, Table):
        with pytest.raises(ValueError, match="is not a media type"):
            kind(content=b"", media_type=media_type)


@pytest.mark.parametrize("media_type", ["image/svg+xml", "text/csv;charset=utf-8", 'text/csv; header="a; b"; n=1'])
def test_a_media_type_may_have_parameters(media_type: str) -> None:
    assert Media(content=b"", media_type=media_type).media_type == media_type


def test_an_endpoint_with_file_answers_documents_files_and_problems(serve: Serve) -> None:
    client = client_of(serve(first(SOUNDS)))

    assert_problem(client.post(SOUNDS.path, json={"visitor_id": "nobody"}), 422)
    assert_problem(client.post(SOUNDS.path, json={"colour": "red"}), 422)
    responses = client.get("/openapi.json").json()["paths"][SOUNDS.path]["post"]["responses"]
    assert responses["200"]["content"] == {"audio/wav": {"schema": {"type": "string", "format": "binary"}}}
    assert list(responses["422"]["content"]) == ["application/problem+json"]


def test_a_model_with_a_different_golden_file_is_rejected(serve: Serve, tmp_path: Path) -> None:
    serve(first(SOUNDS))
    replica_model = tmp_path / "v1"

    def louder(*arguments: Any) -> Jingle:
        return Jingle(content=b"RIFF")

    changed = first(dataclasses.replace(SOUNDS, answer=louder))
    with pytest.raises(ValueError, match=r"response\.num_bytes was"):
        serve(changed)
    assert replica_model.is_dir()


# Slow answers


def test_a_slow_answer_does_not_block_others(serve: Serve) -> None:
    gate = Gate()
    long = slow(gate, timeout_s=UNREACHED_TIMEOUT_S)
    service = serve(dataclasses.replace(toy_extras.FAMILY, endpoints=[*toy_extras.FAMILY.endpoints, long]))

    async def ask() -> tuple[list[int], int]:
        async with requests_to(service) as client:
            waiting = asyncio.create_task(client.post(long.path, json={"numbers": [1, 0]}))
            assert await asyncio.to_thread(gate.entered.acquire, timeout=60)
            others = [
                await client.post("/v1/colours", json={"numbers": [1, 0]}),
                await client.post(long.path, json={"numbers": [-1, 0]}),
            ]
            assert not waiting.done()
            gate.is_open.set()
            return [other.status_code for other in others], (await waiting).status_code

    assert asyncio.run(ask()) == ([200, 200], 200)


def test_an_answer_that_times_out_is_a_504_problem_and_stuck_answers_are_bounded(serve: Serve) -> None:
    gate = Gate()
    long = slow(gate, timeout_s=0.01)
    service = serve(dataclasses.replace(toy_extras.FAMILY, endpoints=[*toy_extras.FAMILY.endpoints, long]))
    client = client_of(service)

    stuck = []
    for _ in range(NUM_LONG_ANSWERS):
        stuck.append(client.post(long.path, json={"numbers": [1, 0]}))
        assert gate.entered.acquire(timeout=60)
    refused = client.post(long.path, json={"numbers": [-1, 0]})
    other = client.post("/v1/colours", json={"numbers": [-1, 0]})
    gate.is_open.set()

    assert all("longer than 0.01 s" in assert_problem(response, 504)["detail"] for response in stuck)
    assert "try again later" in assert_problem(refused, 503)["detail"], "it must be rejected immediately"
    assert other.status_code == 200


def test_a_request_that_times_out_is_a_504_problem(serve: Serve) -> None:
    release = threading.Event()

    def wait(network: Any, batch: Any) -> list[int]:
        assert release.wait(60)
        return [0] * len(batch)

    colours, *others = toy_extras.FAMILY.endpoints
    waiting = dataclasses.replace(colours, path="/v1/waiting", predict=wait)
    service = serve(dataclasses.replace(toy_extras.FAMILY, endpoints=[colours, waiting, *others]))

    with TestClient(make_app(service, timeout_s=0.01)) as client:
        content = assert_problem(client.post("/v1/waiting", json={"numbers": [1, 2]}), 504)
        release.set()

    assert "within 0.01 s" in content["detail"]


# Live features


def notes_of(path: Path, visitor: str = "ann") -> list[str]:
    notes: list[str] = (
        FeatureStore(path).read([toy_extras.NOTES], Visit(visitor_id=visitor)).values["notes"].get(visitor, [])
    )
    return notes


def test_a_request_reads_what_the_previous_one_wrote(serve: Serve, live_store: Path) -> None:
    client = client_of(serve(toy_extras.FAMILY))

    numbers = [client.post(VISITS.path, json={"visitor_id": "ann", "note": note}).json()["number"] for note in "abc"]

    assert numbers == [1, 2, 3]
    assert notes_of(live_store) == ["a", "b", "c"]
    assert notes_of(live_store, "bob") == []


def test_a_failed_answer_writes_nothing(serve: Serve, live_store: Path) -> None:
    client = client_of(serve(toy_extras.FAMILY))

    assert_problem(client.post(VISITS.path, json={"visitor_id": "ann", "is_lost": True}), 500)

    assert notes_of(live_store) == []


def test_a_value_that_is_not_unicode_is_a_422_problem_and_is_not_written(serve: Serve, live_store: Path) -> None:
    def update(request: Visit, predictions: Sequence[int], schema: Any, features: Features) -> Features:
        return {"notes": {"ann": ["\ud800"]}}

    visits: Endpoint = VISITS
    client = client_of(serve(first(dataclasses.replace(visits, update=update), golden_request=Visit(visitor_id="bob"))))

    detail = assert_problem(client.post(VISITS.path, json={"visitor_id": "ann"}), 422)["detail"]

    assert "the new value of 'notes' for 'ann' is not Unicode text" in detail
    assert notes_of(live_store) == []


@dataclasses.dataclass
class Rival:
    """A concurrent replica that writes between the read and the write of this one, `num_left` times."""

    store: FeatureStore
    num_left: int
    num_updates: int = 0

    def update(self, request: Visit, predictions: Sequence[int], schema: Any, features: Features) -> Features:
        """The update of a visit, after the rival has written."""
        self.num_updates += 1
        if self.num_left:
            self.num_left -= 1
            found = self.store.read([toy_extras.NOTES], request)
            rivals = [*found.values["notes"].get("ann", []), "rival"]
            assert self.store.compare_and_set([Change("notes", "ann", rivals, found.versions["notes", "ann"])])
        return toy_extras.update_notes(request, predictions, schema, features)


def test_a_request_that_loses_a_race_is_retried_with_the_new_features(serve: Serve, live_store: Path) -> None:
    rival = Rival(FeatureStore(live_store), num_left=2)
    client = client_of(
        serve(first(dataclasses.replace(VISITS, update=rival.update), golden_request=Visit(visitor_id="")))
    )

    response = client.post(VISITS.path, json={"visitor_id": "ann", "note": "mine"})

    assert response.json() == {"number": 3}
    assert notes_of(live_store) == ["rival", "rival", "mine"]


def test_a_request_that_loses_every_race_is_a_409_problem_and_writes_nothing(serve: Serve, live_store: Path) -> None:
    rival = Rival(FeatureStore(live_store), num_left=1000)
    client = client_of(
        serve(first(dataclasses.replace(VISITS, update=rival.update), golden_request=Visit(visitor_id="")))
    )

    assert_problem(client.post(VISITS.path, json={"visitor_id": "ann", "note": "mine"}), 409)

    assert rival.num_updates == MAX_ATTEMPTS
    assert notes_of(live_store) == ["rival"] * MAX_ATTEMPTS


def test_concurrent_requests_to_one_replica_for_one_key_are_all_answered_at_the_first_attempt(
    serve: Serve, live_store: Path
) -> None:
    counter = Rival(FeatureStore(live_store), num_left=0)
    visits = dataclasses.replace(VISITS, update=counter.update)
    service = serve(first(visits, golden_request=Visit(visitor_id="")))

    async def ask() -> list[int]:
        async with requests_to(service) as client:
            asked = (client.post(VISITS.path, json={"visitor_id": "ann", "note": str(each)}) for each in range(30))
            return [response.json().get("number", 0) for response in await asyncio.gather(*asked)]

    assert sorted(asyncio.run(ask())) == list(range(1, 31))
    assert counter.num_updates == 30
    assert sorted(notes_of(live_store), key=int) == [str(each) for each in range(30)]


def test_a_request_waits_only_for_those_that_write_the_same_key(serve: Serve) -> None:
    is_open = threading.Event()

    def answer(request: Visit, *arguments: Any) -> Visits:
        assert request.visitor_id != "ann" or is_open.wait(60)
        return toy_extras.answer_visit(request, *arguments)

    visits = dataclasses.replace(VISITS, answer=answer, answer_timeout_s=UNREACHED_TIMEOUT_S)
    service = serve(first(visits, golden_request=Visit(visitor_id="")))

    async def ask() -> list[int]:
        async with requests_to(service) as client:
            anns = [asyncio.create_task(client.post(VISITS.path, json={"visitor_id": "ann"})) for _ in range(2)]
            bob = await client.post(VISITS.path, json={"visitor_id": "bob"})
            assert not any(ann.done() for ann in anns)
            is_open.set()
            return [bob.json()["number"], *sorted([(await ann).json()["number"] for ann in anns])]

    assert asyncio.run(ask()) == [1, 1, 2]


def test_two_replicas_lose_no_updates(serve: Serve, tmp_path: Path, live_store: Path) -> None:
    replicas = [serve(toy_extras.FAMILY), replica(tmp_path / "v1", live_store)]

    async def ask() -> list[int]:
        asked = (visit_until_answered(replicas[number % 2], str(number)) for number in range(24))
        return await asyncio.gather(*asked)

    assert sorted(asyncio.run(ask())) == list(range(1, 25))
    assert sorted(notes_of(live_store), key=int) == [str(number) for number in range(24)]


def test_replicas_in_two_processes_lose_no_updates(serve: Serve, tmp_path: Path, live_store: Path) -> None:
    serve(toy_extras.FAMILY)  # writes the model

    together = get_context("spawn").Barrier(2)
    spawn(visit_in_a_process, (together, tmp_path / "v1", live_store, 100), nprocs=2)  # type: ignore[no-untyped-call]

    notes = notes_of(live_store)
    assert sorted(notes) == sorted(f"{rank}-{number}" for rank in range(2) for number in range(100))
    for rank in range(2):
        assert [note for note in notes if note.startswith(f"{rank}-")] == [f"{rank}-{number}" for number in range(100)]


def test_live_and_filled_features_are_read_together(serve: Serve, tmp_path: Path, live_store: Path) -> None:
    serve(toy_extras.FAMILY)
    (tmp_path / "visitors.json").write_text('{"ann": [2.0, 2.0]}')
    store = FeatureStore(tmp_path / "features.sqlite")
    store.replace("visitor", visitor_rows(Prepared(tmp_path)))
    service = Service("toy")
    settings = Settings(version="1", bundle=tmp_path / "v1", feature_store=store.path, live_feature_store=live_store)
    asyncio.run(service.load(settings))
    client = client_of(service)

    assert client.post("/v1/colours", json={"visitor_id": "ann"}).status_code == 200
    assert client.post(VISITS.path, json={"visitor_id": "ann"}).json() == {"number": 1}


def test_a_family_that_writes_features_requires_a_live_store(serve: Serve, tmp_path: Path) -> None:
    serve(toy_extras.FAMILY)
    model = tmp_path / "v1"

    with pytest.raises(ValueError, match="no live_feature_store; deploy it again"):
        asyncio.run(Service("toy").load(Settings(version="1", bundle=model)))
