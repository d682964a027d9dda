"""exllamav2's dynamic generator with a page table of ours to steer, and one forward.

Of the library its page table, page hashing, reuse and prefill are used. Its own loop
is not: it reserves pages for all that a job may become, prefills every waiting prompt
in one step, copies the logits of a whole batch to pageable memory and samples there.
"""

from collections.abc import Iterator, Sequence
from operator import is_not
from typing import TYPE_CHECKING, Any, Protocol

import torch
from exllamav2.compat import safe_move_tensor
from exllamav2.ext import exllamav2_ext as ext_c
from exllamav2.generator.dynamic import ExLlamaV2DynamicGenerator

from neuron.engines.exllamav2.job import PagedJob
from neuron.engines.exllamav2.vision import SeenImage

if TYPE_CHECKING:
    from neuron.engines.exllamav2.loading import LoadedModel


class DecodeSteps(Protocol):
    """Passes of a batch of sequences, computed in another way than the library's own.

    They have the cache's last page for themselves.
    """

    def forward(
        self, ids: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor
    ) -> torch.Tensor:
        """Logits [rows, tokens, padded vocab] on the device; the next call may
        overwrite them.

        Args:
            ids: int64 [rows, tokens] on the CPU, the same number of each sequence.
            lengths: int32 [rows] on the CPU: tokens in the cache before these.
            table: int32 [rows, pages] on the CPU: where each sequence's pages are,
                those for `ids` among them; 0 beyond. To be left as it is.
        """


class PagedGenerator(ExLlamaV2DynamicGenerator):  # type: ignore[misc]
    """Page table and forward passes of one loaded model."""

    def __init__(
        self, loaded: "LoadedModel", slots: int, steps: DecodeSteps | None = None
    ) -> None:
        """
        Args:
            loaded: model and cache; its adapters go into every pass.
            slots: sequences that run at a time.
            steps: compute decode steps; the library's own pass where None.
        """
        self._spare_pages = 0 if steps is None else 1
        super().__init__(
            loaded.model,
            loaded.cache,
            loaded.tokenizer,
            max_batch_size=slots,
            max_q_size=1,
            max_sampling_threads=1,
            filter_background_eval=False,
        )
        # Nothing is sampled on the host here, and no page is ever moved.
        self.logits_pinned = self.defrag_buffer = None
        self.vocab: int = loaded.config.vocab_size
        # To the library, an empty list is one with adapters.
        self.current_loras = loaded.loras or None
        self._decode = self._forward if steps is None else steps.forward
        self._known_rows: list[torch.Tensor] = []
        self._known_table = torch.empty(0, 0, dtype=torch.int32)

    def reset_page_table(self) -> None:
        """Forget what is in the cache; nobody may hold a page."""
        self.max_pages = self.cache.max_seq_len // self.page_size - self._spare_pages
        super().reset_page_table()

    @property
    def pages_free(self) -> int:
        """Pages nobody holds, cached ones among them."""
        return len(self.unreferenced_pages)

    @property
    def pages_used(self) -> int:
        return len(self.referenced_pages)

    def job(
        self, tokens: Sequence[int], pages: int, images: Sequence[SeenImage] = ()
    ) -> PagedJob:
        """A run of `tokens` that will start with `pages`; it has none yet."""
        job = PagedJob(tokens, pages, self.page_size, images)
        job.prepare_for_queue(self, self.job_serial)
        self.job_serial += 1
        return job

    def prefill(self, job: PagedJob, most: int) -> int:
        """Compute at most `most` tokens, a multiple of the page size, or less to end
        at a page's end. Returns by how many the job is further, cached ones included.
        """
        before = job.computed
        self.max_chunk_size = most
        job.prefill([])
        return job.computed - before

    def decode(
        self, jobs: Sequence[PagedJob], tokens: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """Logits [jobs, tokens, padded vocab] after each of the jobs' next tokens."""
        batch = self._batch(jobs, tokens)
        offsets = [job.turned_back for job in jobs]
        if any(offsets):
            # Recorded steps take a token's position for the number of those before it.
            return self._forward(
                *batch, rope_offsets=torch.tensor(offsets, dtype=torch.int32)
            )
        return self._decode(*batch)

    def score(self, job: PagedJob, tokens: Sequence[int]) -> Iterator[torch.Tensor]:
        """Compute the next tokens of one job; logits [some, padded vocab] after each.

        They come in groups, all of which have to be taken: those of a whole chunk would
        need gigabytes.
        """
        ids, lengths, table = self._batch([job], [tokens])
        [state] = self._forward_chunk(
            ids, lengths, table, last_id_only=True, return_last_state=True
        )["last_state"]
        for group in state.split(self.model.config.max_output_len):
            yield self._head(group[None])[0]

    def wipe(self, pages: Sequence[int]) -> None:
        """Zero what is in the cache: not even 0 · NaN must get out of there."""
        for tensor in self.cache.all_tensors():
            for page in pages:
                start = page * self.page_size
                tensor[:, start : start + self.page_size].zero_()

    def _batch(
        self, jobs: Sequence[PagedJob], tokens: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(ids, lengths, table), as `DecodeSteps` takes them."""
        ids = torch.tensor(tokens, dtype=torch.long)
        lengths = torch.tensor([job.computed for job in jobs], dtype=torch.int32)
        return ids, lengths, self._table(jobs)

    def _table(self, jobs: Sequence[PagedJob]) -> torch.Tensor:
        """The jobs' pages; kept until a job or one of its pages is another."""
        rows = [job.row for job in jobs]
        known = self._known_rows
        if len(rows) != len(known) or any(map(is_not, rows, known)):
            widest = max(map(len, rows))
            table = torch.zeros((len(rows), widest), dtype=torch.int32)
            for into, row in zip(table, rows, strict=True):
                into[: len(row)] = row
            self._known_rows, self._known_table = rows, table
        return self._known_table

    def _forward(
        self,
        ids: torch.Tensor,
        lengths: torch.Tensor,
        table: torch.Tensor,
        rope_offsets: torch.Tensor | None = None,
    ) -> torch.Tensor:
        result = self._forward_chunk(ids, lengths, table, rope_offsets)
        logits: torch.Tensor = result["logits"]
        return logits

    def _forward_chunk(
        self,
        ids: torch.Tensor,
        lengths: torch.Tensor,
        table: torch.Tensor,
        rope_offsets: torch.Tensor | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        params = self.get_paged_params(
            len(ids), table, lengths, ids.shape[1], rope_offsets=rope_offsets
        )
        result: dict[str, Any] = self.model.forward_chunk(
            input_ids=ids,
            attn_params=params,
            cache=self.cache,
            loras=self.current_loras,
            **more,
        )
        return result

    def _head(self, state: torch.Tensor) -> torch.Tensor:
        """Logits [1, tokens, padded vocab] from what enters the last norm."""
        model = self.model
        norm, head = model.modules[model.head_layer_idx - 1 :]
        state = safe_move_tensor(state, norm.device_idx)
        logits: torch.Tensor = head.forward(
            safe_move_tensor(norm.forward(state), head.device_idx),
            loras=self.current_loras,
        )
        if model.config.final_logit_softcapping:
            ext_c.softcap_(logits, model.config.final_logit_softcapping)
        return logits
