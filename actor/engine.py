"""vLLM's engine and what is loaded into it: the only file that asks it anything. Serves stage 2, swapped in stage 12.

    sample(ids, version) ──► one request: its tokens, and what was loaded when each was sampled
    score(ids, version) ──► the probe, on every engine worker, computed and read back from the prefix cache
    load_full / load_adapter ──► another version in place of those loaded, or beside them

vLLM's own label of the full weights, which changes only while the engine is paused, says of each token which weights
sampled it. It must be the one that the request began with, unless `load_full` kept requests over a swap. The prefix
cache is salted with the version and the number of its loading, so no request that begins after a swap reads keys and
values of other weights.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from actor.config import EngineConfig
from actor.engine_load import OnLoad
from actor.engine_process import Starting, engine_arguments, import_vllm, in_thread, one_line, prepare_environment
from actor.engine_start import start_vllm, stop_vllm
from actor.probe import Score
from common.errors import RunError
from common.log import get_logger

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

log = get_logger(__name__)
PROBE_TAIL = 16  # tokens of the probe beyond a whole block of the prefix cache


class EngineFailure(Exception):  # noqa: N818 - named for what it means to the actor: the engine is dead or stuck
    """The engine answers no more. Every request of it is lost; the engine must be started again."""


class RequestFailure(Exception):  # noqa: N818 - as above: one request is lost, no other
    """The engine could not answer one request. The engine works on."""


@dataclass(frozen=True, eq=False)
class Loading:
    """One loading of a version into the engine: its full weights, or an adapter."""

    version: int
    name: str  # never used twice: the engine serves what it knows under a name
    adapter: LoRARequest | None = None


@dataclass(frozen=True)
class Answer:
    """What one request sampled; lists are [n]."""

    ids: list[int]
    log_probs: list[float]  # nats
    loadings: list[Loading]  # what was loaded when the token was sampled
    finish: str  # "stop", "length" or "abort"
    began_with: Loading  # another one among `loadings`: it went on over a swap, with the keys and values that it had


class Engine:
    """A started engine, the versions in it, and its requests. For one event loop."""

    def __init__(self, started: AsyncLLM, config: EngineConfig, stop_ids: Iterable[int]) -> None:
        self.config = config
        self.full = Loading(-1, "default")  # weights; the name is vLLM's label of them
        self.adapters: dict[int, Loading] = {}  # by version
        self._started: AsyncLLM | None = started
        self._stop_ids = list(stop_ids)
        # request ids that the engine has, with the full weights of their beginning, and those loaded since
        self._running: dict[str, list[Loading]] = {}
        self._submitting = 0
        self._failure = ""  # once it is known to be dead or stuck, nobody waits for it any more
        self._changed = asyncio.Event()
        self._numbers = itertools.count(1)

    @classmethod
    async def start(
        cls,
        folder: Path,
        version: int,
        config: EngineConfig,
        *,
        slots: int,
        seed: int,
        stop_ids: Iterable[int],
        on_load: OnLoad | None = None,
    ) -> Engine:
        """Start the engine on the model in `folder`. `on_load` is told each of its steps, in the event loop.

        Raises:
            UsageError: an engine argument that vLLM does not take, a folder that is no model.
            RunError: the engine does not start.
        """
        prepare_environment(config)
        began = perf_counter()
        starting = Starting()
        arguments = engine_arguments(folder, config, slots, seed)
        start = partial(start_vllm, arguments, config.cpus, starting, on_load)
        engine: Engine | None = None
        try:
            async with asyncio.timeout(config.start_seconds):
                started = await in_thread(partial(starting.run, start))
                engine = cls(started, config, stop_ids)
                await engine._label_full(version)
        except BaseException as error:
            await in_thread(starting.give_up if engine is None else engine.stop)
            if isinstance(error, TimeoutError):
                raise RunError(f"vLLM's engine did not start within {config.start_seconds:g} s") from None
            if engine is not None and isinstance(error, Exception):
                raise RunError(f"vLLM's engine ended while it started: {one_line(error)}; see the log") from error
            raise
        log.info("engine_started", seconds=round(perf_counter() - began, 2), policy_version=version, slots=slots)
        return engine

    @staticmethod
    async def prepare(config: EngineConfig) -> None:
        """Import vLLM, which takes seconds and needs no model. `start` does it otherwise."""
        prepare_environment(config)
        await in_thread(import_vllm)

    @property
    def context_tokens(self) -> int:
        """Tokens of the longest sequence."""
        longest: int = self.vllm.model_config.max_model_len
        return longest

    @property
    def vllm(self) -> AsyncLLM:
        """The engine as vLLM has it. Raises EngineFailure when it is stopped, dead or stuck."""
        if self._started is None:
            raise EngineFailure("the engine is stopped")
        if self._failure:
            raise EngineFailure(self._failure)
        return self._started

    def stop(self) -> None:
        """End the engine process. Idempotent. Blocks for a second."""
        if self._started is not None:
            stop_vllm(self._started)
            self._started = None

    # ---- requests

    async def sample(
        self, ids: list[int], version: int, *, temperature: float, max_tokens: int, max_seconds: float | None = None
    ) -> Answer:
        """Sample after `ids` under a loaded version until a stop token, `max_tokens`, or an interruption ("abort").

        After `max_seconds` it interrupts itself.

        Raises:
            EngineFailure: the engine is dead, or has not answered within `request_seconds`.
            RequestFailure: the engine refused this request.
        """
        loading, weights = self._loading_of(version), [self.full]
        params = self._params(temperature=temperature, max_tokens=max_tokens)
        output = (await self._answer(ids, loading, weights, params, max_seconds=max_seconds)).outputs[0]
        ids = list(output.token_ids)
        found = [entry[token].logprob for token, entry in zip(ids, output.logprobs or (), strict=True)]
        # a sum of exponentials that rounds below 1 gives a log-prob that rounds above 0
        log_probs = [min(log_prob, 0.0) for log_prob in found]
        by_name = {one.name: one if loading.adapter is None else loading for one in weights}
        spans = output.weight_versions or ()
        loadings = [by_name[span.version] for span in spans for _ in range(span.start, span.end)]
        assert len(loadings) == len(ids)
        return Answer(ids, log_probs, loadings, str(output.finish_reason), loading)

    async def score(self, ids: list[int], version: int) -> list[Score]:
        """Score a probe [P] at temperature 1 under a loaded version, on every worker. Raises as `sample`.

        One request passes through all ranks of a worker (tensor parallel); each worker (data parallel) gets its own.
        """
        workers = range(self.config.data_parallel)
        return list(await asyncio.gather(*(self._score(ids, version, worker) for worker in workers)))

    async def _score(self, ids: list[int], version: int, worker: int) -> Score:
        # so long that the prefix cache keeps a block of it
        block = self.vllm.vllm_config.cache_config.block_size
        length = max(len(ids), min(block + PROBE_TAIL, self.context_tokens - 1))
        long = list(itertools.islice(itertools.cycle(ids), length))
        loading, params = self._loading_of(version), self._params(temperature=0.0, max_tokens=1, probes=True)
        first, again = [await self._answer(long, loading, [self.full], params, worker=worker) for _ in range(2)]
        computed, read = _scored(first, long), _scored(again, long)
        difference = max((abs(a - b) for a, b in zip(computed[::-1], read[::-1], strict=False)), default=0.0)
        return Score(computed[: len(ids) - 1], first.num_cached_tokens or 0, difference)

    @property
    def under_way(self) -> int:
        """Requests that the engine has, count."""
        return len(self._running)

    async def submitted(self) -> None:
        """Wait until the engine has every request that is on its way to it: only then can it be interrupted."""
        await self._until(lambda: self._submitting == 0)

    async def idle(self) -> None:
        """Wait until no request is under way."""
        await self._until(lambda: not self._submitting and not self._running)

    async def interrupt(self) -> None:
        """End every request with the tokens that it has."""
        await self.submitted()
        await self.vllm.abort(list(self._running))

    # ---- versions

    async def load_full(self, folder: Path, version: int, *, keep: bool = False) -> float:
        """Replace all weights. Returns the seconds. Raises EngineFailure.

        Interrupts what runs; with `keep` requests go on instead, with the keys and values that they have.
        """
        began = perf_counter()
        try:
            async with asyncio.timeout(self.config.request_seconds):
                # "abort" ends requests with the tokens they have, empties the prefix cache and idles the workers
                await self.vllm.pause_generation(mode="keep" if keep else "abort", clear_cache=not keep)
                await self.vllm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
                await self._label_full(version)
                await self.vllm.resume_generation()
        except Exception as error:
            raise self._failed(f"loading version {version} from {folder} failed: {one_line(error)}") from error
        return perf_counter() - began

    async def load_adapter(self, folder: Path, version: int) -> float:
        """Load a LoRA adapter beside those in use. Returns the seconds. Needs `engine.adapter_rank`."""
        if not self.config.adapter_rank:
            raise RunError("the run publishes LoRA adapters: set actor.engine.adapter_rank to their rank")
        from vllm.lora.request import LoRARequest  # noqa: PLC0415 - vLLM is imported when it is started

        began = perf_counter()
        await self.forget(version)
        number = next(self._numbers)
        # nor is an id used twice
        request = LoRARequest(f"v{version}.{number}", number, str(folder))
        try:
            async with asyncio.timeout(self.config.request_seconds):
                await self.vllm.add_lora(request)
        except Exception as error:
            if isinstance(error, TimeoutError) or self._started is None or self._started.errored:
                raise self._failed(f"the engine does not load adapter {folder}: {one_line(error)}") from error
            raise RunError(f"{folder}: the engine refuses this adapter: {one_line(error)}") from error
        self.adapters[version] = Loading(version, request.lora_name, request)
        return perf_counter() - began

    async def forget(self, version: int) -> None:
        """Remove an adapter from the engine, if it is there. Raises EngineFailure."""
        loading = self.adapters.pop(version, None)
        if loading is None or loading.adapter is None:
            return
        try:
            async with asyncio.timeout(self.config.request_seconds):
                await self.vllm.remove_lora(loading.adapter.lora_int_id)
        except EngineFailure:
            raise
        except Exception as error:
            raise self._failed(f"the engine does not remove an adapter: {one_line(error)}") from error

    # ---- the engine's own interface

    async def _label_full(self, version: int) -> None:
        self.full = Loading(version, f"v{version}.{next(self._numbers)}")
        for weights in self._running.values():
            weights.append(self.full)
        await self.vllm.update_weight_version(self.full.name)

    def _params(self, *, temperature: float, max_tokens: int, probes: bool = False) -> Any:
        from vllm import SamplingParams  # noqa: PLC0415 - as above
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        return SamplingParams(
            temperature=temperature,
            max_tokens=max_tokens,
            stop_token_ids=self._stop_ids,
            logprobs=0,
            prompt_logprobs=0 if probes else None,
            # a probe reads the prefix cache as a turn does
            skip_reading_prefix_cache=False,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _loading_of(self, version: int) -> Loading:
        return self.adapters.get(version, self.full)

    def _salt(self, loading: Loading) -> str:
        """What keys and values are found under in the prefix cache, besides their tokens."""
        return loading.name

    async def _answer(
        self,
        ids: list[int],
        loading: Loading,
        weights: list[Loading],
        params: Any,
        *,
        worker: int | None = None,
        max_seconds: float | None = None,
    ) -> RequestOutput:
        """One request to its end. Cancelling it ends it in the engine too.

        `weights` are the full weights that it begins with; those loaded until its end are added. `worker` is a number
        among those of data parallel; none: the one that has the least to do.
        """
        from vllm.inputs.engine import tokens_input  # noqa: PLC0415 - as above

        request_id = f"r{next(self._numbers)}"
        prompt = tokens_input(ids, cache_salt=self._salt(loading))
        self._submitting += 1
        queue = None
        try:
            try:
                queue = await self.vllm.add_request(
                    request_id, prompt, params, lora_request=loading.adapter, data_parallel_rank=worker
                )
                self._running[request_id] = weights
            finally:
                self._submitting -= 1
                self._changed.set()
            async with asyncio.timeout(self.config.request_seconds):
                output: RequestOutput = await self._output(queue, request_id, max_seconds)
        except BaseException as error:
            await self._give_up(request_id, error)
            raise
        finally:
            self._running.pop(request_id, None)
            self._changed.set()
            if queue is not None:
                queue.close()
        names = {span.version for span in output.outputs[0].weight_versions or ()}
        if unknown := names - {one.name for one in weights}:
            raise EngineFailure(f"a request of version {loading.version} ({loading.name}) ran on {sorted(unknown)}")
        return output

    async def _output(self, queue: Any, request_id: str, max_seconds: float | None) -> Any:
        if max_seconds is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(max_seconds):
                    return await queue.get()
            await self.vllm.abort(request_id)  # gives what there is
        return await queue.get()

    async def _give_up(self, request_id: str, error: BaseException) -> None:
        """End a request that failed; raises the error's class as the actor knows it."""
        died = self._started is None or bool(self._failure) or self._started.errored
        if self._started is not None and not died:
            await self._started.abort(request_id)
        if isinstance(error, TimeoutError):
            raise self._failed(f"the engine has not answered for {self.config.request_seconds:g} s") from error
        if isinstance(error, Exception) and died:
            raise self._failed(f"the engine died: {one_line(error)}") from error
        if isinstance(error, Exception):
            raise RequestFailure(f"the engine refused a request: {one_line(error)}") from error

    def _failed(self, reason: str) -> EngineFailure:
        """What to raise now that the engine is known to be dead or stuck."""
        self._failure = self._failure or reason
        return EngineFailure(self._failure)

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


def _scored(output: RequestOutput, ids: list[int]) -> list[float]:
    """Log-probs of a prompt's tokens, nats; of those alone that were not found in the prefix cache."""
    count = len(ids) - 1 - (output.num_cached_tokens or 0)
    assert output.prompt_logprobs is not None
    found = zip(ids[-count:], output.prompt_logprobs[-count:], strict=True)
    # where the cache served more than it says, nothing was computed for the token
    return [entry[token].logprob if entry and token in entry else math.nan for token, entry in found]
