"""Who waits, whose prompt is prefilled, and who decodes."""

from collections import deque

from neuron.engines.exllamav2.sequence import Sequence


class Roster:
    """The requests of one loaded model; each is in one place."""

    def __init__(self, slots: int) -> None:
        """`slots` requests may run at a time."""
        self.waiting: deque[Sequence] = deque()
        """In the order in which they start."""
        self.prefilling: Sequence | None = None
        self.decoding: list[Sequence] = []
        """Oldest first."""
        self._slots = slots

    @property
    def running(self) -> list[Sequence]:
        """Oldest first: who prefills has started last."""
        return [*self.decoding, *filter(None, [self.prefilling])]

    @property
    def everyone(self) -> list[Sequence]:
        """Queued ones first, then the running ones, oldest first."""
        return [*self.waiting, *self.running]

    def find(self, request_id: str) -> Sequence | None:
        of_that_id = (s for s in self.everyone if s.request.id == request_id)
        return next(of_that_id, None)

    @property
    def next(self) -> Sequence | None:
        """Who has waited longest, if there is a slot and nobody prefills."""
        is_free = self.prefilling is None and len(self.decoding) < self._slots
        return self.waiting[0] if is_free and self.waiting else None

    def start(self) -> None:
        """`next` prefills."""
        self.prefilling = self.waiting.popleft()

    def decode(self) -> None:
        """Who prefills decodes."""
        assert self.prefilling is not None
        self.decoding.append(self.prefilling)
        self.prefilling = None

    def drop(self, sequence: Sequence) -> None:
        """The request is over."""
        sequence.close()
        self._leave(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """It waits again, in front of those who came later."""
        self._leave(sequence)
        self.waiting.appendleft(sequence)

    def stop(self) -> list[Sequence]:
        """Nobody runs or has a run any more; returns who did, oldest first."""
        running = self.running
        self.prefilling, self.decoding = None, []
        for sequence in (*self.waiting, *running):
            sequence.job = None
        return running

    def _leave(self, sequence: Sequence) -> None:
        """Out of wherever it is, without its pages."""
        if sequence.job is not None:
            sequence.job.give_back()
            sequence.job = None
        if sequence is self.prefilling:
            self.prefilling = None
        elif sequence in self.decoding:
            self.decoding.remove(sequence)
        else:
            self.waiting.remove(sequence)
