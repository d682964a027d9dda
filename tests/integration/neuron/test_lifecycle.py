"""Load, plan, unload, and what followers hear of it."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx

from neuron.models.bundled import bundled_root
from neuron.protocol import routes
from neuron.protocol.types import (
    Discovery,
    LoadPlan,
    LoadProgress,
    LoadResult,
    ModelState,
    UnloadResult,
)
from tests.integration.neuron.conftest import (
    LONG,
    MODEL,
    STORY,
    Start,
    events_of,
    follow,
)


def test_a_load_streams_its_progress_and_then_its_result(start: Start) -> None:
    with start() as neuron:
        with neuron.http.stream(
            "POST",
            routes.MODELS_LOAD,
            json={"model": MODEL, "slots": 2},
            headers={"Accept": "text/event-stream"},
        ) as response:
            *progress, result = list(events_of(response))
        assert progress
        assert all(event.event == "progress" for event in progress)
        last = LoadProgress.model_validate_json(progress[-1].data)
        assert last.stage
        assert last.done == last.total > 0
        assert result.event == "result"
        loaded = LoadResult.model_validate_json(result.data)
        assert not loaded.already_loaded
        assert loaded.model.state is ModelState.READY
        assert loaded.model.slots == 2
        assert loaded.model.memory_mb is not None
        assert loaded.model.memory_mb > 20
        assert neuron.load()["already_loaded"]


def test_many_loads_at_once_are_one(start: Start) -> None:
    with start() as neuron:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda _: neuron.load(), range(8)))
        assert all(result["model"]["state"] == "ready" for result in results)
        assert neuron.process.log_text().count("ready after") == 1
        assert len(neuron.http.get(routes.HEALTH).json()["models"]) == 1


def test_web_pages_neither_load_nor_unload_nor_use(start: Start) -> None:
    with start() as neuron:
        for path in (routes.MODELS_LOAD, routes.MODELS_UNLOAD, *routes.INFERENCE):
            response = neuron.http.post(
                path,
                content=json.dumps({"model": MODEL}),
                headers={"Content-Type": "text/plain", "Origin": "http://a.example"},
            )
            assert response.status_code == 403
            assert response.json()["error"]["code"] == "forbidden"
        assert neuron.model().state is ModelState.UNLOADED


def test_a_plan_has_numbers_and_loads_nothing(start: Start) -> None:
    with start() as neuron:
        response = neuron.post(routes.MODELS_PLAN, {"model": MODEL, "slots": 3})
        plan = LoadPlan.model_validate(response.json())
        assert plan.fits
        assert plan.slots == 3
        assert plan.need_bytes == sum(plan.parts.values())
        assert plan.available_bytes is not None
        assert neuron.model().state is ModelState.UNLOADED


def test_what_cannot_be_loaded_is_said_with_numbers(start: Start) -> None:
    with start() as neuron:
        load = routes.MODELS_LOAD
        status, error = neuron.refusal(load, {"model": "no-such"})
        assert (status, error["code"]) == (404, "model_not_found")
        assert MODEL in error["message"]
        status, error = neuron.refusal(load, {"model": MODEL, "engine": "warp"})
        assert (status, error["param"]) == (422, "engine")
        status, error = neuron.refusal(load, {"model": MODEL, "slots": "two"})
        assert (status, error["param"]) == (400, "slots")
        status, error = neuron.refusal(load, {"model": MODEL, "draft": "no-such"})
        assert (status, error["param"]) == (404, "draft")
        for options in ({"draft": MODEL}, {"loras": [{"path": "l"}]}, {"ngram": True}):
            status, error = neuron.refusal(load, {"model": MODEL, **options})
            assert (status, error["param"]) == (422, *options)
        huge = {"model": MODEL, "cache_tokens": 10_000_000_000}
        status, error = neuron.refusal(load, huge)
        assert (status, error["code"]) == (507, "insufficient_memory")
        assert error["plan"]["need_bytes"] > error["plan"]["available_bytes"]

        status, error = neuron.refusal(routes.V1_COMPLETIONS, STORY)
        assert (status, error["code"]) == (409, "model_not_loaded")
        assert routes.MODELS_LOAD in error["message"]

        neuron.load(slots=2)
        status, error = neuron.refusal(load, {"model": MODEL, "slots": 3})
        assert (status, error["code"], error["param"]) == (
            409,
            "already_loaded",
            "slots",
        )
        assert (error["loaded"], error["requested"]) == (2, 3)


def test_unloading_gives_the_memory_back_and_can_be_repeated(start: Start) -> None:
    with start() as neuron:
        neuron.load()
        pid = neuron.worker_pid()
        unloaded = neuron.post(routes.MODELS_UNLOAD, {"model": MODEL})
        freed = UnloadResult.model_validate(unloaded.json()).freed_bytes
        assert freed is not None
        assert freed > 20_000_000
        assert neuron.model().state is ModelState.UNLOADED
        assert not alive(pid)
        again = neuron.post(routes.MODELS_UNLOAD, {"model": MODEL})
        assert UnloadResult.model_validate(again.json()).freed_bytes == 0
        assert neuron.refusal(routes.MODELS_UNLOAD, {"model": "no-such"})[0] == 404
        neuron.load()
        assert neuron.story()


def test_unloading_lets_a_running_story_finish(start: Start) -> None:
    with start() as neuron:
        neuron.load()
        with ThreadPoolExecutor(1) as pool, neuron.stream(LONG) as events:
            next(events)
            unloading = pool.submit(neuron.post, routes.MODELS_UNLOAD, {"model": MODEL})
            neuron.until_state(ModelState.UNLOADING)
            status, error = neuron.refusal(routes.V1_COMPLETIONS, STORY)
            assert (status, error["code"]) == (409, "model_not_loaded")
            assert [event.data for event in events][-1] == "[DONE]"
            assert unloading.result().status_code == 200


def test_unloading_at_once_ends_a_story_with_an_error(start: Start) -> None:
    with start() as neuron:
        neuron.load()
        with ThreadPoolExecutor(1) as pool, neuron.stream(LONG) as events:
            next(events)
            unloading = pool.submit(
                neuron.post, routes.MODELS_UNLOAD, {"model": MODEL, "drain_s": 0}
            )
            last = [event.data for event in events][-1]
            assert unloading.result().status_code == 200
        assert json.loads(last)["error"]["code"] == "model_unloading"


def test_followers_hear_of_every_state_and_can_resume(start: Start) -> None:
    with start() as neuron:
        with neuron.http.stream("GET", routes.EVENTS) as response:
            events = follow(response)
            first = next(events)
            assert first.message == "snapshot"
            assert first.data["models"][0]["state"] == "unloaded"
            neuron.load()
            states = []
            last = first.seq
            for event in events:
                assert event.seq == last + 1
                last = event.seq
                assert event.model is not None
                states.append(event.model.state)
                if event.model.state is ModelState.READY:
                    break
        assert states[0] is ModelState.LOADING
        neuron.post(routes.MODELS_UNLOAD, {"model": MODEL})
        with neuron.http.stream(
            "GET", routes.EVENTS, headers={"Last-Event-ID": str(last)}
        ) as response:
            resumed = follow(response)
            missed = [next(resumed), next(resumed)]
        assert [event.seq for event in missed] == [last + 1, last + 2]
        assert [e.model.state for e in missed if e.model] == ["unloading", "unloaded"]


def test_a_number_from_an_earlier_run_gets_a_snapshot(start: Start) -> None:
    with (
        start() as neuron,
        neuron.http.stream(
            "GET", routes.EVENTS, headers={"Last-Event-ID": "12"}
        ) as response,
    ):
        assert next(follow(response)).message == "snapshot"


def test_a_body_that_is_too_large_is_refused(start: Start) -> None:
    with start(config="[limits]\nmax_body_mb = 1\n") as neuron:
        neuron.load()
        body = STORY | {"prompt": "x" * 2_000_000}
        status, error = neuron.refusal(routes.V1_COMPLETIONS, body)
        assert (status, error["code"]) == (413, "request_too_large")


def test_a_small_cache_limits_the_answer_and_refuses_nothing(start: Start) -> None:
    with start() as neuron:
        neuron.load(slots=1, cache_tokens=64)
        body = {key: value for key, value in LONG.items() if key != "max_tokens"}
        answer = neuron.post(routes.V1_COMPLETIONS, body).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["total_tokens"] == 64


def test_models_of_the_users_own_are_served_beside_the_bundled_one(
    start: Start, tmp_path: Path
) -> None:
    own = tmp_path / "acme" / "tiny"
    shutil.copytree(bundled_root() / MODEL, own)
    (own / "chat_template.jinja").write_text(
        "{{ bos_token }}{{ messages[-1].content }}, there was"
    )
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no")
    with start("--models-dir", str(tmp_path)) as neuron:
        found = {m["id"]: m for m in neuron.http.get(routes.MODELS).json()["models"]}
        assert set(found) == {MODEL, "acme/tiny", "broken"}
        assert not found["broken"]["servable"]["ok"]
        assert "/broken/" in found["broken"]["servable"]["reason"]
        assert "chat_template" in found["acme/tiny"]["capabilities"]
        status, error = neuron.refusal(routes.MODELS_LOAD, {"model": "broken"})
        assert (status, error["code"]) == (422, "model_not_supported")
        neuron.load()
        neuron.load(model="acme/tiny")
        pids = {m["pid"] for m in neuron.http.get(routes.HEALTH).json()["models"]}
        assert len(pids) == 2
        url = neuron.http.get(routes.model_endpoint("acme/tiny")).json()["url"]
        assert url == neuron.process.url
        chat = {
            "model": "acme/tiny",
            "messages": [{"role": "user", "content": "Once upon a time"}],
            "max_tokens": 8,
            "temperature": 0,
        }
        answer = neuron.post(routes.V1_CHAT_COMPLETIONS, chat).json()
        assert answer["model"] == "acme/tiny"
        assert answer["choices"][0]["message"]["content"].startswith(" a little")


def test_default_models_load_by_themselves(start: Start) -> None:
    config = f'[[default_models]]\nmodel = "{MODEL}"\nslots = 2\n'
    with start(config=config) as neuron:
        neuron.until_state(ModelState.READY)
        assert neuron.model().slots == 2
        endpoint = neuron.http.get(routes.model_endpoint(MODEL)).json()["url"]
        assert endpoint == neuron.process.url
        assert httpx.get(endpoint + routes.V1_MODELS).json()["data"][0]["id"] == MODEL


def test_a_default_model_that_does_not_exist_is_said(start: Start) -> None:
    with start(config='[[default_models]]\nmodel = "no-such"\n') as neuron:
        neuron.until(lambda: "no-such" in neuron.process.log_text())
        assert neuron.http.get(routes.HEALTH).status_code == 200


def test_discovery_of_a_host_without_a_gpu(start: Start) -> None:
    with start() as neuron:
        found = Discovery.model_validate(neuron.http.get(routes.DISCOVERY).json())
        assert found.hostname
        assert found.ram_total_mb
        assert [engine.name for engine in found.engines if engine.available]
        version = neuron.http.get(routes.VERSION).json()
        assert version["pid"] == neuron.process.announcement.pid


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
