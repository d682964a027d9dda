"""exllamav2's dynamic generator with a page table of ours to steer, and one forward.

Of the library its page table, page hashing, reuse and prefill are used. Its own loop
is not: it reserves pages for all that a job may become, prefills every waiting prompt
in one step, copies the logits of a whole batch to pageable memory and samples there.
"""

from collections.abc import Iterator, Sequence
from operator import is_not
from typing import TYPE_CHECKING, Any, Protocol

import torch
from exllamav2 import compat
from exllamav2.ext import exllamav2_ext as ext_c
from exllamav2.generator.dynamic import ExLlamaV2DynamicGenerator

from neuron.engines.exllamav2.job import PagedJob
from neuron.engines.exllamav2.speculation.draft_model import DraftModel
from neuron.engines.exllamav2.vision.eyes import SeenImage

if TYPE_CHECKING:
    from neuron.engines.exllamav2.loading.load import LoadedModel


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
            ids: int64 [rows, tokens], the same number of each sequence; on the CPU, or
                where the logits are.
            lengths: int32 [rows] on the CPU: tokens in the cache before these.
            table: int32 [rows, pages] on the CPU: where each sequence's pages are,
                and beyond them one that is nobody's. To be left as it is.
        """


class PagedGenerator(ExLlamaV2DynamicGenerator):  # type: ignore[misc]
    """Page table and forward passes of one loaded model, and of one that drafts."""

    def __init__(
        self,
        loaded: "LoadedModel",
        slots: int,
        steps: DecodeSteps | None = None,
        draft_steps: DecodeSteps | None = None,
        *,
        guesses: int = 0,
    ) -> None:
        """
        Args:
            loaded: model and cache; its adapters go into every pass.
            slots: sequences that run at a time.
            steps: compute decode steps; the library's own pass where None.
            draft_steps: those of the draft model, likewise.
            guesses: tokens that a decode step may check for each sequence. Without any
                a draft model is none.
        """
        self._spare_pages = 1 if steps is not None or guesses else 0
        draft = loaded.draft if guesses else None
        super().__init__(
            loaded.model,
            loaded.cache,
            loaded.tokenizer,
            max_batch_size=slots,
            max_q_size=1 + guesses,
            draft_model=draft and DraftModel(draft.model, loaded.config.vocab_size),
            draft_cache=draft and draft.cache,
            num_draft_tokens=guesses,
            max_sampling_threads=1,
            filter_background_eval=False,
        )
        self._guesses = guesses
        # Nothing is sampled on the host here, and no page is ever moved.
        self.logits_pinned = self.defrag_buffer = None
        self.vocab: int = loaded.config.vocab_size
        # To the library, an empty list is one with adapters.
        self.current_loras = loaded.loras or None
        self._decode = self._forward if steps is None else steps.forward
        self._draft = self._draft_pass if draft_steps is None else draft_steps.forward
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
        """Logits [jobs, tokens, padded vocab] after each of the jobs' next tokens.

        Where any job has more than one, all go as far as guesses may; what is beyond
        those of a job means nothing, and is written where no job finds it.
        """
        count = 1 if max(map(len, tokens)) == 1 else 1 + self._guesses
        batch = self._batch(
            jobs, [[*some, *[some[-1]] * (count - len(some))] for some in tokens]
        )
        for job in jobs:
            job.overwrite(count)
        offsets = [job.turned_back for job in jobs]
        if any(offsets):
            # Recorded steps take a token's position for the number of those before it.
            return self._forward(
                *batch, rope_offsets=torch.tensor(offsets, dtype=torch.int32)
            )
        return self._decode(*batch)

    def decode_behind(
        self, jobs: Sequence[PagedJob], tokens: torch.Tensor
    ) -> torch.Tensor:
        """As `decode`, behind a step of which the jobs do not know the result yet.

        Args:
            jobs: none of them is `turned_back`; their pages have room for two tokens.
            tokens: int64 [jobs], what that step gives; where the logits are.
        """
        for job in jobs:
            job.overwrite(2)
        lengths = torch.tensor([job.computed + 1 for job in jobs], dtype=torch.int32)
        table = self._table(jobs, int(lengths.max()) + 1)
        return self._decode(tokens[:, None], lengths, table)

    def score(self, job: PagedJob, tokens: Sequence[int]) -> Iterator[torch.Tensor]:
        """Compute the next tokens of one job; logits [some, padded vocab] after each.

        They come in groups, all of which have to be taken: those of a whole chunk would
        need gigabytes.
        """
        if self.draft_model is not None:
            self.draft_prompt(job, tokens, job.computed)
        if self.model.tp_context is not None:
            yield from self._score_in_passes(job, tokens)
            return
        ids, lengths, table = self._batch([job], [tokens])
        [state] = self._forward_chunk(
            ids, lengths, table, last_id_only=True, return_last_state=True
        )["last_state"]
        for group in state.split(self.model.config.max_output_len):
            yield self._head(group[None])[0]

    def _score_in_passes(
        self, job: PagedJob, tokens: Sequence[int]
    ) -> Iterator[torch.Tensor]:
        """As `score`, where layers are split over GPUs: their last state is in system
        memory before the devices have written it, and cannot be given back to them.
        """
        most = self.model.config.max_output_len
        for done in range(0, len(tokens), most):
            ids, lengths, table = self._batch([job], [tokens[done : done + most]])
            yield self._forward(ids, lengths + done, table)[0]

    def draft(
        self, jobs: Sequence[PagedJob], ids: torch.Tensor, lengths: torch.Tensor
    ) -> torch.Tensor:
        """Logits [jobs, tokens, vocab] of the draft model, over what both models have.

        Args:
            jobs: whose they are.
            ids: int64 [jobs, tokens], on the CPU or where the draft's logits are.
            lengths: int32 [jobs] on the CPU: tokens before these.
        """
        known = self.draft_model.known(ids)
        table = self._table(jobs, int(lengths.max()) + ids.shape[1])
        return self._draft(known, lengths, table)[..., : self.draft_model.shared]

    def draft_prompt(self, job: PagedJob, tokens: Sequence[int], start: int) -> None:
        """Let the draft model compute a job's tokens from position `start` on."""
        most: int = self.draft_model.config.max_input_len
        for done in range(0, len(tokens), most):
            ids = torch.tensor([tokens[done : done + most]])
            lengths = torch.tensor([start + done], dtype=torch.int32)
            self.draft_model.forward_chunk(
                input_ids=ids,
                preprocess_only=True,
                attn_params=self.get_paged_params(
                    1, job.row[None], lengths, ids.shape[1]
                ),
                cache=self.draft_cache,
            )

    def wipe(self, pages: Sequence[int]) -> None:
        """Zero what is in the cache: not even 0 · NaN must get out of there."""
        size = self.page_size
        self._wipe([slice(page * size, (page + 1) * size) for page in pages])

    def wipe_guesses(self, job: PagedJob) -> None:
        """As `wipe`, of what a decode step wrote behind a job that comes to nothing."""
        self._wipe(job.behind(1 + self._guesses))
        self.wipe([self.max_pages])  # the spare one

    def _wipe(self, places: Sequence[slice]) -> None:
        for tensor in self.cache.all_tensors():
            for place in places:
                tensor[:, place].zero_()

    def _batch(
        self, jobs: Sequence[PagedJob], tokens: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(ids, lengths, table), as `DecodeSteps` takes them."""
        ids = torch.tensor(tokens, dtype=torch.long)
        lengths = torch.tensor([job.computed for job in jobs], dtype=torch.int32)
        return ids, lengths, self._table(jobs, int(lengths.max()) + ids.shape[1])

    def _table(self, jobs: Sequence[PagedJob], end: int) -> torch.Tensor:
        """The jobs' pages, and beyond them the spare one, for `end` tokens at least.

        Kept until a job or one of its pages is another, or there are not enough.
        """
        rows = [job.row for job in jobs]
        known, needed = self._known_rows, -(-end // self.page_size)
        if (
            len(rows) != len(known)
            or self._known_table.shape[1] < needed
            or any(map(is_not, rows, known))
        ):
            width = max(needed, *map(len, rows))
            nobodys = self.max_pages if self._spare_pages else 0
            table = torch.full((len(rows), width), nobodys, dtype=torch.int32)
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

    def _draft_pass(
        self, ids: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor
    ) -> torch.Tensor:
        params = self.get_paged_params(len(ids), table, lengths, ids.shape[1])
        result = self.draft_model.forward_chunk(
            input_ids=ids.cpu(), attn_params=params, cache=self.draft_cache
        )
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
        state = compat.safe_move_tensor(state, norm.device_idx)
        logits: torch.Tensor = head.forward(
            compat.safe_move_tensor(norm.forward(state), head.device_idx),
            loras=self.current_loras,
        )
        if model.config.final_logit_softcapping:
            ext_c.softcap_(logits, model.config.final_logit_softcapping)
        return logits
