"""Workers that die or hang, and a daemon that is told to stop."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from neuron.protocol import routes
from neuron.protocol.types import ModelState
from tests.integration.neuron.conftest import LONG, MODEL, STORY, Neuron, Start


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def kill_worker(neuron: Neuron) -> None:
    os.kill(neuron.worker_pid(), signal.SIGKILL)


def test_a_killed_worker_ends_its_streams_and_comes_back(start: Start) -> None:
    with start() as neuron:
        neuron.load()
        before = neuron.story()
        with neuron.stream(LONG) as events:
            next(events)
            kill_worker(neuron)
            last = [event.data for event in events][-1]
        assert neuron.model().state is ModelState.RECOVERING
        error = json.loads(last)["error"]
        assert error["code"] == "worker_lost"
        assert MODEL in error["message"]
        neuron.until_state(ModelState.READY)
        assert neuron.story() == before
        assert "starting another" in neuron.process.log_text()


def test_a_whole_answer_from_a_killed_worker_is_a_502(start: Start) -> None:
    with start() as neuron, ThreadPoolExecutor(1) as pool:
        neuron.load(slots=1)
        pending = pool.submit(neuron.post, routes.V1_COMPLETIONS, LONG)
        neuron.until(lambda: neuron.worker().in_flight == 1)
        kill_worker(neuron)
        response = pending.result()
        assert response.status_code == 502
        assert response.json()["error"]["code"] == "worker_lost"
        assert response.headers["Retry-After"]


def test_while_it_recovers_requests_are_told_to_return(start: Start) -> None:
    with start() as neuron:
        neuron.load()
        kill_worker(neuron)
        neuron.until_state(ModelState.RECOVERING)
        status, error = neuron.refusal(routes.V1_COMPLETIONS, STORY)
        assert (status, error["code"]) == (503, "model_recovering")
        neuron.load()
        assert neuron.story()


def test_a_worker_that_hangs_at_work_is_replaced(start: Start) -> None:
    with start(config="[limits]\nstall_s = 2.0\n") as neuron:
        neuron.load()
        pid = neuron.worker_pid()
        with neuron.stream(LONG) as events:
            next(events)
            os.kill(pid, signal.SIGSTOP)
            last = [event.data for event in events][-1]
        assert json.loads(last)["error"]["code"] == "worker_lost"
        neuron.until_state(ModelState.READY)
        assert gone(pid)
        assert neuron.story()


def test_a_worker_that_dies_too_often_is_given_up(start: Start) -> None:
    with start() as neuron:
        neuron.load()
        neuron.story()
        for _ in range(3):
            kill_worker(neuron)
            neuron.until_state(ModelState.RECOVERING)
            neuron.until_state(ModelState.READY)
        neuron.story()
        kill_worker(neuron)
        neuron.until_state(ModelState.FAILED)
        model = neuron.model()
        assert model.error
        assert "SIGKILL" in model.error
        assert "/v1/completions" in model.error  # The worker's last log line.
        assert not model.servable.ok
        status, error = neuron.refusal(routes.V1_COMPLETIONS, STORY)
        assert (status, error["code"]) == (503, "model_failed")
        neuron.load()
        assert neuron.story()


def test_a_daemon_that_is_killed_leaves_no_worker(start: Start) -> None:
    with start() as neuron:
        neuron.load()
        pid = neuron.worker_pid()
        neuron.process.popen.kill()
        neuron.until(lambda: gone(pid))


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_exits_clean(start: Start, signum: signal.Signals) -> None:
    config = "[limits]\nmax_queue = 4\n"
    with start(config=config) as neuron, ThreadPoolExecutor(1) as pool:
        neuron.load(slots=1)
        pid = neuron.worker_pid()
        with neuron.stream(LONG) as events:
            next(events)
            waiting = pool.submit(neuron.post, routes.V1_COMPLETIONS, STORY)
            neuron.until(lambda: neuron.worker().queued == 1)
            neuron.process.popen.send_signal(signum)
            woken = waiting.result()
            assert woken.status_code == 503
            assert woken.json()["error"]["code"] == "shutting_down"
            assert woken.headers["Retry-After"]
            status, error = neuron.refusal(routes.V1_COMPLETIONS, STORY)
            assert (status, error["code"]) == (503, "shutting_down")
            status, error = neuron.refusal(routes.MODELS_LOAD, {"model": MODEL})
            assert (status, error["code"]) == (503, "shutting_down")
            assert neuron.http.get(routes.HEALTH).json()["status"] == "draining"
            assert [event.data for event in events][-1] == "[DONE]"
        assert neuron.process.popen.wait(20) == 0
        assert gone(pid)


def test_a_signal_cuts_a_longer_unload_short(start: Start) -> None:
    config = "[limits]\ndrain_s = 0.2\n"
    with start(config=config) as neuron, ThreadPoolExecutor(1) as pool:
        neuron.load()
        pid = neuron.worker_pid()
        with neuron.stream(LONG) as events:
            next(events)
            os.kill(pid, signal.SIGSTOP)  # The story will not end by itself.
            patient = {"model": MODEL, "drain_s": 600}
            unloading = pool.submit(neuron.post, routes.MODELS_UNLOAD, patient)
            neuron.until_state(ModelState.UNLOADING)
            neuron.process.popen.send_signal(signal.SIGTERM)
            assert neuron.process.popen.wait(20) == 0
            assert unloading.result().status_code == 200
        assert gone(pid)


def pause_while_loading(neuron: Neuron) -> int:
    """Stop the worker in the middle of its load; its process id."""
    neuron.until(lambda: bool(neuron.http.get(routes.HEALTH).json()["models"]))
    pid = neuron.worker_pid()
    os.kill(pid, signal.SIGSTOP)
    assert neuron.model().state is ModelState.LOADING
    return pid


def test_who_waits_for_a_load_is_woken_by_a_signal(start: Start) -> None:
    with start() as neuron, ThreadPoolExecutor(1) as pool:
        loading = pool.submit(neuron.post, routes.MODELS_LOAD, {"model": MODEL})
        pid = pause_while_loading(neuron)
        neuron.process.popen.send_signal(signal.SIGTERM)
        woken = loading.result()
        assert woken.status_code == 503
        assert woken.json()["error"]["code"] == "shutting_down"
        assert woken.headers["Retry-After"]
        assert neuron.process.popen.wait(20) == 0
        assert gone(pid)


def test_a_load_can_be_unloaded_and_its_waiters_hear_of_it(start: Start) -> None:
    with start() as neuron, ThreadPoolExecutor(1) as pool:
        loading = pool.submit(neuron.post, routes.MODELS_LOAD, {"model": MODEL})
        pid = pause_while_loading(neuron)
        status, error = neuron.refusal(routes.V1_COMPLETIONS, STORY)
        assert (status, error["code"]) == (503, "model_loading")
        unloaded = neuron.post(routes.MODELS_UNLOAD, {"model": MODEL})
        assert unloaded.status_code == 200
        refused = loading.result()
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "model_unloading"
        assert gone(pid)
        neuron.load()


def test_a_load_that_is_killed_fails_and_can_be_tried_again(start: Start) -> None:
    with start() as neuron, ThreadPoolExecutor(1) as pool:
        loading = pool.submit(neuron.post, routes.MODELS_LOAD, {"model": MODEL})
        os.kill(pause_while_loading(neuron), signal.SIGKILL)
        failed = loading.result()
        assert failed.status_code == 500
        assert failed.json()["error"]["code"] == "load_failed"
        assert "SIGKILL" in failed.json()["error"]["message"]
        assert neuron.model().state is ModelState.FAILED
        neuron.load()
        assert neuron.story()


def test_a_second_signal_exits_at_once(start: Start) -> None:
    with start() as neuron:
        neuron.load(slots=1)
        pid = neuron.worker_pid()
        with neuron.stream(LONG | {"max_tokens": 240}) as events:
            next(events)
            os.kill(pid, signal.SIGSTOP)  # The story will not end by itself.
            neuron.process.popen.send_signal(signal.SIGTERM)
            neuron.until(lambda: "draining" in neuron.process.log_text())
            began = time.monotonic()
            neuron.process.popen.send_signal(signal.SIGTERM)
            assert neuron.process.popen.wait(10) == 1
            assert time.monotonic() - began < 10
        os.kill(pid, signal.SIGCONT)
        neuron.until(lambda: gone(pid))


def test_an_address_in_use_and_a_bad_file_are_said(start: Start) -> None:
    with start() as neuron:
        host, _, port = neuron.process.url.removeprefix("http://").partition(":")
        code, output = run_neuron("--listen", f"{host}:{port}")
        assert code == 1
        assert "cannot listen" in output


def run_neuron(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "neuron", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_strangers_are_not_listened_to_without_consent() -> None:
    code, output = run_neuron("--listen", "0.0.0.0:0")
    assert code == 2
    assert 'auth = "none"' in output


def test_a_wrong_configuration_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "neuron.toml"
    file.write_text('listen = "127.0.0.1:0"\n\n[limits]\nstall = 3\n')
    code, output = run_neuron("--config", str(file))
    assert code == 2
    assert f"{file}:4: limits.stall: unknown key" in output


def test_version_and_wrong_usage() -> None:
    code, output = run_neuron("--version")
    assert (code, output.startswith("neuron ")) == (0, True)
    assert run_neuron("--wrong")[0] == 2
    assert run_neuron("quantize", "--help")[0] == 0
