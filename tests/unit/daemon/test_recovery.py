"""When to start again, and when to stop waiting."""

from neuron.daemon.recovery import MAX_RESTARTS, WINDOW_S, LifeSigns, RestartPolicy


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_restarts_wait_longer_each_time_and_end() -> None:
    policy = RestartPolicy(Clock())
    delays = [policy.next_delay() for _ in range(MAX_RESTARTS)]
    known = [delay for delay in delays if delay is not None]
    assert len(known) == MAX_RESTARTS
    assert known == sorted(set(known))
    assert policy.next_delay() is None


def test_old_restarts_are_forgiven() -> None:
    clock = Clock()
    policy = RestartPolicy(clock)
    for _ in range(MAX_RESTARTS):
        policy.next_delay()
    clock.now += WINDOW_S + 1
    assert policy.next_delay() is not None


def test_a_worker_that_has_yet_to_beat_does_not_stall() -> None:
    clock = Clock()
    life = LifeSigns(10, clock)
    clock.now += 60
    assert not life.stalled(has_work=True)


def test_an_idle_worker_does_not_stall() -> None:
    clock = Clock()
    life = LifeSigns(10, clock)
    life.beat(busy=False)
    clock.now += 60
    assert not life.stalled(has_work=False)
    assert life.heartbeat_age == 60


def test_heartbeats_alone_do_when_nothing_runs() -> None:
    clock = Clock()
    life = LifeSigns(10, clock)
    for _ in range(10):
        clock.now += 5
        life.beat(busy=False, steps=7)
        assert not life.stalled(has_work=True)
    clock.now += 11
    assert life.stalled(has_work=True)


def test_a_busy_worker_must_also_step() -> None:
    clock = Clock()
    life = LifeSigns(10, clock)
    for step in range(10):
        clock.now += 5
        life.beat(busy=True, steps=step)
        assert not life.stalled(has_work=True)
    for _ in range(3):
        clock.now += 5
        life.beat(busy=True, steps=9)
    assert life.stalled(has_work=True)
    life.beat(busy=True, steps=10)
    assert not life.stalled(has_work=True)
