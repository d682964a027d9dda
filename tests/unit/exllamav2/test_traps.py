"""What exllamav2 0.3.2 does by itself and must not do here.

Its asserts, its defaults and the errors of its page table, as far as they show without
a GPU. Sticky CUDA errors are in `test_driver_failures`, pages that an open end would
reserve in `test_driver_preemption`.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from neuron.engines.base import EngineError, SamplingParams
from neuron.engines.exllamav2.host import probe
from neuron.engines.exllamav2.levers import Levers
from tests.goldens.tiny_models import tensors, write_folder
from tests.unit.exllamav2.torch_engine import (
    GenerationDriver,
    assert_page_table_holds,
    driving,
)
from tests.unit.reference.support import Outputs, generate, loaded, request, tiny

pytestmark = [
    pytest.mark.cuda_stack,
    pytest.mark.timeout(2 * cuda_stack.BUILD_DEADLINE_S),
]

PAGE = 16
PROMPT = tuple(range(3, 23))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for 640 tokens."""
    model = tiny("llama-gqa-tied-linear")
    config = model.config | {"max_position_embeddings": 640}
    return write_folder(tmp_path_factory.mktemp("tiny"), config, tensors(model))


@pytest.fixture
def driver(folder: Path) -> Iterator[GenerationDriver]:
    with driving(folder, cache_tokens=640, page_size=PAGE, chunk=PAGE) as driver:
        yield driver


class TestDefaults:
    def test_the_batch_is_as_large_as_the_slots(self, driver: GenerationDriver) -> None:
        """By default it is 256, with a gigabyte of logits in pageable memory."""
        assert driver.generator.max_batch_size == 4
        assert driver.generator.logits_pinned is None

    def test_neutral_sampling_is_neutral(
        self, driver: GenerationDriver, folder: Path
    ) -> None:
        """The library's own settings cut, cool and penalize."""
        plain = request("a", PROMPT, 40, sampling=SamplingParams(seed=11))
        with loaded(folder, slots=1) as reference:
            expected = generate(reference, plain)["a"].tokens
        assert generate(driver, plain)["a"].tokens == expected

    def test_no_two_jobs_share_settings(self, driver: GenerationDriver) -> None:
        """They keep a sampler's state from token to token."""
        jobs = [driver.generator.job([5, 6], 1) for _ in range(2)]
        assert jobs[0].gen_settings is not jobs[1].gen_settings

    def test_every_stop_id_counts(self, driver: GenerationDriver) -> None:
        """config.json may list several ends, of which the library takes the first."""
        free = generate(driver, request("a", PROMPT, 12))["a"].tokens
        for stop in {free[2], free[7]}:
            stops = frozenset({stop, 95})
            output = generate(driver, request("a", PROMPT, 12, stop_ids=stops))["a"]
            assert output.tokens == free[: free.index(stop) + 1]

    def test_nobody_is_promised_determinism(self) -> None:
        """Kernels differ between batch sizes and add up in no fixed order."""
        assert "deterministic" not in probe.probe().features

    def test_torch_keeps_its_threads(self) -> None:
        """Importing the library would leave the whole process with one."""
        code = (
            "from tests.support import cuda_stack; cuda_stack.use_cpu_extension();"
            "import torch; torch.set_num_threads(3);"
            "from neuron.engines.exllamav2.backend import load_backend;"
            "backend = load_backend(); assert backend.exllamav2.generator;"
            "assert torch.get_num_threads() == 3, torch.get_num_threads()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


class TestAssertions:
    @pytest.mark.parametrize(
        ("param", "fields"),
        [
            ("prompt_ids", {"prompt": []}),
            ("prompt_ids", {"prompt": [5] * 640}),
            ("prompt_ids", {"prompt": [5, 96]}),
            ("prompt_ids", {"prompt": [-1]}),
            ("max_new_tokens", {"count": 0}),
            ("max_new_tokens", {"count": 621}),
            ("min_new_tokens", {"min_new_tokens": -1}),
            ("stop_ids", {"stop_ids": frozenset({96})}),
            ("top_logprobs", {"top_logprobs": -1}),
            ("temperature", {"sampling": SamplingParams(temperature=float("nan"))}),
            ("logit_bias", {"sampling": SamplingParams(logit_bias={96: 1.0})}),
        ],
    )
    def test_what_would_fail_later_is_refused_at_once(
        self, driver: GenerationDriver, param: str, fields: dict[str, Any]
    ) -> None:
        """An assertion in a step would take everybody's page table along."""
        driver.submit(request("good", PROMPT, 9))
        driver.step()
        prompt, count = fields.pop("prompt", PROMPT), fields.pop("count", 9)
        with pytest.raises(EngineError) as refused:
            driver.submit(request("bad", prompt, count, **fields))
        assert refused.value.param == param
        outputs = Outputs().run(driver)
        assert outputs["good"].reason == "length"
        assert "bad" not in outputs

    def test_a_cache_smaller_than_the_context(self, folder: Path) -> None:
        with driving(folder, cache_tokens=4 * PAGE, page_size=PAGE) as driver:
            with pytest.raises(EngineError, match="context length is 65 tokens"):
                driver.submit(request("a", PROMPT, 46))
            output = generate(driver, request("a", PROMPT, 45))["a"]
        assert len(output.tokens) == 45

    def test_a_page_that_another_prompt_is_about_to_compute(
        self, driver: GenerationDriver
    ) -> None:
        """The library asserts that it has been computed already."""
        tokens = [5 + number % 11 for number in range(2 * PAGE + 1)]
        generator = driver.generator
        writes, waits = generator.job([5], 4), generator.job(tokens, 4)
        for job in (writes, waits):
            job.allocate_pages()
        writes.advance(tokens[:PAGE])
        assert generator.pages_used == 8  # each keeps its own
        waits.advance(tokens[:PAGE])
        writes.advance(tokens[PAGE:])
        for job in (writes, waits):
            job.give_back()
        assert_page_table_holds(driver)


class TestPageTable:
    """What is found in the cache must have been computed for the same beginning."""

    def test_output_behind_a_prompt_that_was_all_in_the_cache(
        self, driver: GenerationDriver, folder: Path
    ) -> None:
        """Its first page counts as the beginning of a prompt in the library's own
        bookkeeping, since no prefill came near it."""
        prompt = [5 + number % 7 for number in range(2 * PAGE + 1)]
        output = generate(driver, request("a", prompt, 9))["a"].tokens
        generate(driver, request("b", prompt, 9))
        impostor = request("c", [prompt[-1], *output[:8], 50], 9)
        with driving(folder, page_size=PAGE) as fresh:
            expected = generate(fresh, impostor)["c"]
        found = generate(driver, impostor)["c"]
        assert found.cached == 0
        assert found.tokens == expected.tokens

    def test_a_page_whose_name_was_taken_while_it_was_lent(
        self, driver: GenerationDriver, folder: Path
    ) -> None:
        """Given back unwritten it is nameless, and the library offers its contents as
        the beginning of a prompt."""
        prompt = [5 + number % 11 for number in range(2 * PAGE + 1)]
        generate(driver, request("a", prompt, 1))
        generate(driver, request("newer", [70] * (4 * PAGE), 2))
        lent = driver.generator.job([5], 1)
        lent.allocate_pages()
        # Those unused longest, the prompt's among them; and nothing is written there.
        lent.grow(driver.generator.pages_free - 5)
        generate(driver, request("b", prompt, 1))
        lent.give_back()
        impostor = request("c", [*prompt[PAGE : 2 * PAGE - 1], 50], 9)
        with driving(folder, page_size=PAGE) as fresh:
            expected = generate(fresh, impostor)["c"]
        found = generate(driver, impostor)["c"]
        assert found.cached == 0
        assert found.tokens == expected.tokens

    def test_the_end_of_a_prefix_is_forgotten_first(
        self, driver: GenerationDriver
    ) -> None:
        """Without its beginning the rest of a prefix can never be found."""
        prompt = [5 + number % 11 for number in range(20 * PAGE + 1)]
        generate(driver, request("a", prompt, 1))
        generate(driver, request("b", [70] * (25 * PAGE), 1))
        found = generate(driver, request("c", prompt, 1))["c"]
        assert found.cached is not None
        assert 10 * PAGE <= found.cached < 20 * PAGE

    def test_an_idle_engine_moves_no_pages(self, driver: GenerationDriver) -> None:
        """The library would sort the whole cache before it takes the next request."""
        pages = driver.generator.all_pages
        for number in range(12):
            prompts = ([number, other, *PROMPT * 4] for other in range(4))
            generate(driver, *(request(str(p[1]), p, 5) for p in prompts))
        assert driver.generator.access_serial > 2 * len(pages)
        assert [page.page_index for page in pages] == list(range(len(pages)))

    def test_nothing_is_left_of_requests_that_are_over(
        self, driver: GenerationDriver
    ) -> None:
        """Jobs that stay behind make every step slower, and hold pages for ever."""
        for number in range(30):
            for name in "abc":
                driver.submit(request(name, [number, *PROMPT], 12))
            for _ in range(number % 9):
                driver.step()
            for name in "abc":
                driver.cancel(name)
        generator = driver.generator
        assert (generator.active_jobs, generator.pending_jobs) == ([], [])
        assert not generator.referenced_pages
        assert_page_table_holds(driver)
        assert not driver.has_work()


class TestWaits:
    def test_a_long_prompt_holds_nobody_up(self, folder: Path) -> None:
        """The library prefills a chunk of every waiting prompt in one step."""
        with driving(
            folder, page_size=PAGE, chunk=8 * PAGE, levers=Levers(prefill_chunk=256)
        ) as driver:
            outputs = Outputs()
            driver.submit(request("a", PROMPT, 60))
            outputs.step(driver)
            for name in "bcd":
                driver.submit(request(name, [ord(name) % 90] * 500, 5))
            calls = driver.generator.model.calls
            while driver.stats().waiting:
                calls.clear()
                outputs.step(driver)
                prefills = [call.tokens for call in calls if not call.logits]
                assert sum(prefills) <= 8 * PAGE
                assert sum(call.logits for call in calls) == 1
