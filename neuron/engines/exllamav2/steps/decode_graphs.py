"""A whole decode step as one CUDA graph.

exllamav2 launches about a dozen kernels per layer from Python and C++, and
synchronizes the device for each tensor that it copies there; on a server GPU that is
most of a token's time at small batches. Here the step is recorded once per shape with
its inputs in fixed places, and repeated with one copy to the device and one launch.

The library's own small graphs must be off (`config.no_graphs`), since they would be
recorded inside the recording; its GEMM autotuner must be done, since it synchronizes
(`gemm_tuning`); the embedding must be on the device (`device_embedding`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from neuron.engines.exllamav2.steps.graph_capture import Recorder
from neuron.engines.exllamav2.steps.graph_shapes import GraphShapes

Forward = Callable[[Any, Any, Any], Any]
"""(ids [rows, q], lengths [rows], block table [rows, pages]) → logits [rows, q, vocab].

ids are int64, the others int32, all on the device; lengths are those before the step.
"""


@dataclass(frozen=True, slots=True)
class _Shape:
    rows: int
    q_len: int
    width: int

    @property
    def numbers(self) -> int:
        """ids, lengths and block table, one after the other."""
        return self.rows * (self.q_len + 1 + self.width)

    def parts(self, block: Any) -> tuple[Any, Any, Any]:
        """(ids [rows, q_len], lengths [rows], table [rows, width]), as views."""
        lengths = self.rows * self.q_len
        table = lengths + self.rows
        return (
            block[:lengths].view(self.rows, self.q_len),
            block[lengths:table],
            block[table:].view(self.rows, self.width),
        )


@dataclass(frozen=True, slots=True)
class _Recorded:
    inputs: Any
    repeat: Callable[[], None]


class DecodeGraphs:
    """Decode steps of one model on one device, each shape recorded when first needed.

    Rows that a batch lacks to its shape read and write the spare page.
    """

    def __init__(
        self,
        forward: Forward,
        recorder: Recorder,
        shapes: GraphShapes,
        logits: Any,
        *,
        spare_page: int,
    ) -> None:
        """
        Args:
            forward: computes a step.
            recorder: records it.
            shapes: for which it is recorded.
            logits: [rows, q, padded vocab] on the device, for the largest of them;
                where every step leaves its result.
            spare_page: a page of the cache that no sequence ever holds.
        """
        self._forward = forward
        self._recorder = recorder
        self._shapes = shapes
        self._logits = logits
        self._spare = spare_page
        self._recorded: dict[_Shape, _Recorded] = {}

    def __len__(self) -> int:
        return len(self._recorded)

    def forward(self, ids: Any, lengths: Any, table: Any) -> Any:
        """One step for a batch.

        Args:
            ids: int64 [n, q], the tokens to compute, on the CPU or on the device.
            lengths: int32 [n] on the CPU, tokens in the cache before them.
            table: int32 [n, pages] on the CPU.

        Returns:
            Logits [n, q, padded vocab] on the device, overwritten by the next step.
            What this thread launches there next finds them computed.

        Raises:
            ValueError: the batch is larger than the shapes go.
        """
        count, q_len = ids.shape
        rows, width = self._shapes.fit(count, table.shape[1])
        shape = _Shape(rows, q_len, width)
        recorded = self._recorded.get(shape)
        if recorded is None:
            recorded = self._recorded[shape] = self._record(shape)
        host = self._recorder.staging(shape.numbers)
        self._fill(shape, host, ids if ids.is_cpu else 0, lengths, table)
        self._recorder.use_stream()
        recorded.inputs.copy_(host, non_blocking=True)
        if not ids.is_cpu:
            shape.parts(recorded.inputs)[0][:count] = ids
        recorded.repeat()
        return self._logits[:count, :q_len]

    def prepare(
        self, rows: int, q_len: int, progress: Callable[[int, int], None]
    ) -> None:
        """Record every shape for batches of up to `rows`, ahead of serving.

        Args:
            rows: sequences that decode at once.
            q_len: tokens that each computes in a step.
            progress: told (done, total) after each shape.
        """
        most = self._shapes.fit(rows, 1)[0]
        # The largest first: all share their memory, and smaller ones find room in it.
        shapes = [
            _Shape(count, q_len, width)
            for count in reversed(self._shapes.rows)
            if count <= most
            for width in reversed(self._shapes.widths)
        ]
        for done, shape in enumerate(shapes, start=1):
            if shape not in self._recorded:
                self._recorded[shape] = self._record(shape)
            progress(done, len(shapes))

    def _record(self, shape: _Shape) -> _Recorded:
        self._recorder.use_stream()
        inputs = self._recorder.buffer(shape.numbers)
        ids, lengths, table = shape.parts(inputs)
        table.fill_(self._spare)  # Recording computes, and no real page may be touched.
        result = self._logits[: shape.rows, : shape.q_len]
        repeat = self._recorder.record(
            lambda: result.copy_(self._forward(ids.long(), lengths, table))
        )
        return _Recorded(inputs, repeat)

    def _fill(
        self, shape: _Shape, block: Any, ids: Any, lengths: Any, table: Any
    ) -> None:
        count, pages = table.shape
        all_ids, all_lengths, all_pages = shape.parts(block)
        all_ids[:count] = ids
        all_lengths[:count] = lengths
        all_pages[:count, :pages] = table
        all_pages[:count, pages:] = self._spare
        all_ids[count:] = 0
        all_lengths[count:] = 0
        all_pages[count:] = self._spare
