"""Whether there is any guess in a step."""

from tests.support import cuda_stack

cuda_stack.require("torch", "triton", "exllamav2")
cuda_stack.use_cpu_extension()

from neuron.engines.exllamav2.levers import Levers
from tests.unit.exllamav2.speculation.support import (
    GUESSES,
    PROMPT,
    TIMEOUT,
    Driving,
    guesses,
)
from tests.unit.reference.support import generate, request

pytestmark = TIMEOUT


def test_not_for_a_large_batch(by_itself: Driving) -> None:
    with by_itself(levers=Levers(speculate_up_to=2)) as driver:
        two = [request(name, PROMPT, 20) for name in "ab"]
        generate(driver, *two)
        assert guesses(driver)[0] > 0
        before = guesses(driver)
        for name in "abc":
            driver.submit(request(name, PROMPT, 20))
        while driver.stats().running + driver.stats().waiting == 3:
            driver.step()
        assert guesses(driver)[0] - before[0] <= 3 * GUESSES  # until all have begun


def test_never_where_it_is_switched_off(by_itself: Driving) -> None:
    with by_itself(levers=Levers(speculate_up_to=0)) as driver:
        generate(driver, request("a", PROMPT, 20))
        assert guesses(driver) == (0, 0)
        assert driver.generator.draft_model is None
        assert driver.stats().steps == 20
