"""How far a failure reaches: one request, the generator, or the process."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

import torch

from neuron.engines.base import EngineError, EngineEvent, Failed, SamplingParams
from neuron.engines.exllamav2 import failures
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.exllamav2.torch_engine import (
    Call,
    GenerationDriver,
    assert_page_table_holds,
    driving,
)
from tests.unit.reference.support import Outputs, generate, request, tiny
from tests.unit.reference.test_constraints import Steps

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

PAGE = 16
PROMPT = tuple(range(3, 23))
POISON = 77
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
ILLEGAL_ACCESS = RuntimeError("CUDA error: an illegal memory access was encountered")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for 640 tokens."""
    model = tiny("llama-gqa-tied-linear")
    config = model.config | {"max_position_embeddings": 640}
    return write_folder(tmp_path_factory.mktemp("tiny"), config, tensors(model))


@pytest.fixture
def driver(folder: Path) -> Iterator[GenerationDriver]:
    with driving(folder, page_size=PAGE, chunk=4 * PAGE) as driver:
        model = driver.generator.model
        yield driver
        model.before_call = lambda call: None
        model.poison = None


def fail_once(
    driver: GenerationDriver, error: BaseException, when: Callable[[Call], bool]
) -> None:
    """The next forward pass that `when` is true of raises."""
    model = driver.generator.model

    def before(call: Call) -> None:
        if when(call):
            model.before_call = lambda call: None
            raise error

    model.before_call = before


class TestOneRequest:
    def test_a_constraint_that_fails(self, driver: GenerationDriver) -> None:
        class Breaks(Steps):
            def accept(self, token_id: int) -> None:
                raise ValueError("no such rule")

        outputs = generate(
            driver,
            request("good", PROMPT, 9),
            request("broken", PROMPT, 9, constraint=Breaks([{5}, {6}])),
            request("stuck", PROMPT, 9, constraint=Steps([{5}, set(), {6}])),
            request("bound", PROMPT, 9, constraint=Steps([{5}, {6}])),
        )
        assert "no such rule" in str(outputs["broken"].error)
        assert "allows for no token" in str(outputs["stuck"].error)
        assert outputs["stuck"].tokens == [5]
        assert outputs["bound"].tokens == [5, 6]
        assert len(outputs["good"].tokens) == 9
        assert driver.stats().kv_pages_used == 0

    def test_a_mask_that_is_too_short(self, driver: GenerationDriver) -> None:
        short = request("a", PROMPT, 9, constraint=Steps([{5}], bits=32))
        error = generate(driver, short)["a"].error
        assert isinstance(error, EngineError)
        assert error.code == "constraint_failed"

    def test_nothing_is_left_to_choose(self, driver: GenerationDriver) -> None:
        everything = frozenset(range(96))
        never = request("a", PROMPT, 9, stop_ids=everything, min_new_tokens=2)
        outputs = generate(driver, never, request("b", PROMPT, 9))
        error = outputs["a"].error
        assert isinstance(error, EngineError)
        assert (error.code, error.fatal) == ("sampling_failed", False)
        assert len(outputs["b"].tokens) == 9

    @pytest.mark.parametrize("poisoned", [[POISON], [5] * 40 + [POISON] + [5] * 40])
    def test_output_that_is_not_finite(
        self, driver: GenerationDriver, poisoned: list[int]
    ) -> None:
        model = driver.generator.model
        good = [request(name, (*PROMPT, ord(name) % 90), 40) for name in "abc"]
        expected = generate(driver, *good)
        model.poison = POISON
        bad = request("bad", poisoned, 9, sampling=SamplingParams(seed=1))
        outputs = generate(driver, good[0], bad, *good[1:])
        error = outputs["bad"].error
        assert isinstance(error, EngineError)
        assert "not finite" in str(error)
        assert (error.retryable, error.fatal) == (False, False)
        for name in "abc":
            assert outputs[name].tokens == expected[name].tokens
        for tensor in driver.generator.cache.all_tensors():
            assert tensor.isfinite().all()
        assert_page_table_holds(driver)

    def test_a_prompt_whose_scores_are_not_finite(
        self, driver: GenerationDriver
    ) -> None:
        driver.generator.model.poison = POISON
        outputs = generate(
            driver,
            request("bad", [5, POISON, 5], 1, prompt_logprobs=1),
            request("good", PROMPT, 9),
        )
        assert "not finite" in str(outputs["bad"].error)
        assert len(outputs["good"].tokens) == 9

    def test_a_mask_is_computed_beside_the_forward_pass(
        self, driver: GenerationDriver
    ) -> None:
        computing = threading.Event()
        in_time: list[bool] = []

        class Waits(Steps):
            def mask(self) -> NDArray[np.int32]:
                in_time.append(computing.wait(20))
                computing.clear()
                return super().mask()

        driver.generator.model.before_call = lambda call: computing.set()
        generate(driver, request("a", [5], 9, constraint=Waits([{5}, {6}, {7}])))
        assert in_time == [True] * 3


class TestTheGenerator:
    """What the library raises leaves its page table in doubt."""

    @pytest.mark.parametrize("error", [AssertionError("job"), OUT_OF_MEMORY])
    def test_it_is_made_anew(self, driver: GenerationDriver, error: Exception) -> None:
        expected = generate(driver, *(request(n, PROMPT, 30) for n in "abc"))
        outputs = Outputs()
        driver.submit(request("a", PROMPT, 30))
        for _ in range(3):
            outputs.step(driver)
        driver.submit(request("b", PROMPT, 30))
        driver.submit(request("c", PROMPT, 30))
        before = driver.generator
        fail_once(driver, error, lambda call: True)
        outputs.step(driver)
        assert driver.generator is not before
        assert driver.stats().kv_pages_used == 0
        failed = outputs["a"].error
        assert isinstance(failed, EngineError)
        assert (failed.retryable, failed.fatal) == (True, False)
        outputs.run(driver)
        for name in "bc":
            assert outputs[name].tokens == expected[name].tokens
            assert outputs[name].error is None
        assert_page_table_holds(driver)

    def test_in_the_middle_of_a_prefill(self, driver: GenerationDriver) -> None:
        prompt = [5] * (9 * PAGE)
        [expected] = generate(
            driver, request("a", prompt, 5, prompt_logprobs=1)
        ).values()
        outputs = Outputs()
        driver.submit(request("a", prompt, 5, prompt_logprobs=1))
        outputs.step(driver)
        fail_once(driver, AssertionError("pages"), lambda call: True)
        outputs.run(driver)
        assert outputs["a"].tokens == expected.tokens
        assert outputs["a"].scored_ids == prompt[1:]
        assert outputs["a"].prefilled == expected.prefilled

    def test_a_request_is_queued_again_only_once(
        self, driver: GenerationDriver
    ) -> None:
        model = driver.generator.model

        def before(call: Call) -> None:
            if not call.logits:
                raise AssertionError("this prompt")

        driver.submit(request("a", PROMPT, 5))
        model.before_call = before
        outputs = Outputs()
        outputs.step(driver)
        assert "a" not in outputs
        outputs.step(driver)
        assert outputs["a"].error is not None
        model.before_call = lambda call: None
        assert not driver.has_work()
        assert len(generate(driver, request("b", PROMPT, 5))["b"].tokens) == 5

    def test_those_in_line_stay_in_line(self, driver: GenerationDriver) -> None:
        names = [str(number) for number in range(7)]
        for name in names:
            driver.submit(request(name, (*PROMPT, int(name)), 4))
        fail_once(driver, AssertionError(), lambda call: call.rows == 4)
        outputs = Outputs().run(driver)
        assert [name for name in names if outputs[name].error is None] == names[3:]


class TestTheProcess:
    """A CUDA error is sticky: only a new process has a working context."""

    @pytest.mark.parametrize(
        "error",
        [
            ILLEGAL_ACCESS,
            RuntimeError("CUDA driver error: invalid argument"),
            RuntimeError("Triton Error [CUDA]: an illegal memory access"),
            RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"),
            torch.AcceleratorError("unspecified launch failure"),
        ],
    )
    def test_it_is_given_up(self, driver: GenerationDriver, error: Exception) -> None:
        driver.submit(request("a", PROMPT, 5))
        fail_once(driver, error, lambda call: True)
        with pytest.raises(EngineError) as raised:
            driver.step()
        assert raised.value.fatal
        assert raised.value.retryable
        assert raised.value.__cause__ is error

    def test_when_every_step_fails(self, driver: GenerationDriver) -> None:
        def before(call: Call) -> None:
            raise AssertionError("always")

        driver.generator.model.before_call = before
        events: list[EngineEvent] = []
        for name in "ab":
            driver.submit(request(name, PROMPT, 5))
            events += driver.step()
        driver.submit(request("c", PROMPT, 5))
        with pytest.raises(EngineError) as raised:
            driver.step()
        assert raised.value.fatal
        assert all(isinstance(event, Failed) for event in events)


@pytest.mark.parametrize(
    "error",
    [
        OUT_OF_MEMORY,
        AssertionError("CUDA error: in no RuntimeError"),
        RuntimeError("shape '[1, 2]' is invalid for input of size 3"),
        ValueError("softcap"),
    ],
)
def test_what_the_process_survives(error: Exception) -> None:
    assert not failures.is_sticky(error)
