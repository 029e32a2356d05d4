"""vLLM's engine with a policy version in it: the only file that imports vLLM. Used inside stage 2, swapped in stage 12.

    generate(ids) ──► gate ──► request of one version ──► engine process
                       ▲            │ interrupted by a swap: goes on as a new request of the new version
    held() ── shut ────┘            ▼
      load_full / load_adapter, score (the probe), use ── open

A request runs under one version from its first token to its last; a turn that a swap interrupts is continued by a
second request, whose prompt is the first one's prompt and tokens. So a token's version is that of its request, and
vLLM's own label of the weights, which changes only while the engine is paused, must agree. The prefix cache is salted
with the version and the number of its loading, so no request reads keys and values of other weights.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

from actor.config import EngineConfig
from actor.engine_process import engine_arguments, forked_engine, import_vllm, in_thread, one_line, prepare_environment
from common.errors import RunError, UsageError
from common.log import get_logger

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

log = get_logger(__name__)
SwapMode = Literal["in_flight", "between_turns", "between_episodes"]
# their warnings: no Triton and no tcmalloc on CPUs, eager mode as asked for, no tokenizer as asked for, an embedding


class EngineFailure(Exception):  # noqa: N818 - named for what it means to the actor: the engine is dead or stuck
    """The engine answers no more. Every request of it is lost; the engine must be started again."""


class RequestFailure(Exception):  # noqa: N818 - as above: one request is lost, no other
    """The engine could not answer one request. The engine works on."""


@dataclass
class Sampled:
    """What the policy sampled in one turn; all lists are [n]. The stop token is the last when `finish` is "stop"."""

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)  # nats, of the distribution sampled from (temperature applied)
    versions: list[int] = field(default_factory=list)
    finish: str = ""  # "stop" or "length"
    seconds: float = 0.0  # with the engine, not at the gate


class Policy:
    """The engine, the versions loaded into it, and the gate that shuts while they change. For one event loop."""

    def __init__(self, engine: AsyncLLM, config: EngineConfig, mode: SwapMode, stop_ids: Iterable[int]) -> None:
        self.config, self.mode = config, mode
        self.version = -1  # what new requests sample with
        self.sampled_tokens = 0
        self._started: AsyncLLM | None = engine
        self._stop_ids = list(stop_ids)
        self._label = "default"  # vLLM's name for the full weights that are loaded
        self._full_version = -1
        self._adapters: dict[int, LoRARequest] = {}
        self._users: Counter[int] = Counter()  # requests and pinned episodes by version
        self._running: set[str] = set()  # request ids that the engine has
        self._episodes = 0
        self._submitting = 0
        self._probing = False  # alone with the engine
        self._open = asyncio.Event()  # the gate
        self._changed = asyncio.Event()
        self._numbers = itertools.count(1)

    @classmethod
    async def start(
        cls,
        folder: Path,
        version: int,
        config: EngineConfig,
        *,
        mode: SwapMode,
        slots: int,
        seed: int,
        stop_ids: Iterable[int],
    ) -> Policy:
        """Start the engine on the model in `folder`. The gate is shut until `use`.

        Raises:
            UsageError: an engine argument that vLLM does not take, a folder that is no model.
            RunError: the engine does not start.
        """
        prepare_environment(config.cpu_threads)
        began = perf_counter()
        try:
            async with asyncio.timeout(config.start_seconds):
                engine = await in_thread(partial(_start_engine, folder, config, slots, seed))
        except TimeoutError:
            raise RunError(f"vLLM's engine did not start within {config.start_seconds:g} s") from None
        policy = cls(engine, config, mode, stop_ids)
        await policy._label_full(version)
        log.info("engine_started", seconds=round(perf_counter() - began, 2), policy_version=version, slots=slots)
        return policy

    @staticmethod
    async def prepare(config: EngineConfig) -> None:
        """Import vLLM, which takes seconds and needs no model. `start` does it otherwise."""
        prepare_environment(config.cpu_threads)
        await in_thread(import_vllm)

    @property
    def context_tokens(self) -> int:
        """Tokens of the longest sequence."""
        longest: int = self._engine.model_config.max_model_len
        return longest

    def stop(self) -> None:
        """End the engine process. Idempotent. Blocks for a second."""
        self._open.clear()
        if self._started is not None:
            self._started.shutdown(timeout=1.0)
            # its finalizer would do it again, in an interpreter that is half gone
            self._started.shutdown = lambda: None
            self._started = None

    @property
    def _engine(self) -> AsyncLLM:
        if self._started is None:
            raise EngineFailure("the engine is stopped")
        return self._started

    # ---- sampling

    @asynccontextmanager
    async def episode(self) -> AsyncIterator[int | None]:
        """An episode's stay; gives the version to sample its turns with, None when each turn takes the current one."""
        if self.mode != "between_episodes":
            yield None
            return
        await self._until(self._open.is_set)
        version = self.version
        self._users[version] += 1
        self._episodes += 1
        try:
            yield version
        finally:
            self._episodes -= 1
            await self._leave(version)

    async def generate(
        self, ids: Sequence[int], *, temperature: float, max_tokens: int, pinned: int | None = None
    ) -> Sampled:
        """Sample one turn after `ids`. `pinned` is what `episode` gave.

        Raises:
            EngineFailure: the engine is dead, or has not answered within `request_seconds`.
            RequestFailure: the engine refused this request.
        """
        sampled = Sampled()
        while True:
            await self._until(partial(self._may_sample, pinned))
            version = self.version if pinned is None else pinned
            self._users[version] += 1
            began = perf_counter()
            try:
                params = self._params(temperature=temperature, max_tokens=max_tokens - len(sampled.ids))
                output = (await self._answer([*ids, *sampled.ids], version, params)).outputs[0]
            finally:
                sampled.seconds += perf_counter() - began
                await self._leave(version)
            _append(sampled, output, version)
            self.sampled_tokens += len(output.token_ids)
            if output.finish_reason != "abort" or len(sampled.ids) >= max_tokens:
                sampled.finish = "stop" if output.finish_reason == "stop" else "length"
                return sampled

    def _may_sample(self, pinned: int | None) -> bool:
        return not self._probing and (pinned is not None or self._open.is_set())

    async def score(self, ids: Sequence[int], version: int) -> list[float]:
        """Give log p(ids[i+1] | ids[:i+1]) at temperature 1, nats [P-1], under a loaded version. Asks no gate."""
        params = self._params(temperature=0.0, max_tokens=1, prompt_logprobs=0)
        async with self._alone():
            output = await self._answer(list(ids), version, params)
        assert output.prompt_logprobs is not None
        found = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
        return [entry[token].logprob for token, entry in found if entry is not None]

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Within this the engine has no other request, where it can load adapters.

        With LoRA on, vLLM 0.32 dies when prompt log-probs are in one batch with requests that sample.
        """
        self._probing = self.config.adapter_rank > 0
        try:
            if self._probing:
                await self._until(lambda: self._submitting == 0)
                if self.mode == "in_flight":
                    await self._engine.abort(list(self._running))
                await self._until(lambda: not self._running)
            yield
        finally:
            self._probing = False
            self._changed.set()

    # ---- versions

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Within this no trajectory's token is sampled. Turns under way are interrupted, or awaited, as the mode says.

        The gate opens again through `use` alone: after an error it stays shut, since what is loaded is not verified.
        """
        self._open.clear()
        # what is on its way into the engine must be there to be interrupted
        await self._until(lambda: self._submitting == 0)
        if self.mode == "between_turns":
            await self._until(lambda: not self._running)
        elif self.mode == "between_episodes":
            await self._until(lambda: self._episodes == 0)
        yield

    async def load_full(self, folder: Path, version: int) -> float:
        """Replace all weights; for use within `held`. Interrupts what runs. Returns the seconds."""
        began = perf_counter()
        try:
            async with asyncio.timeout(self.config.request_seconds):
                # "abort" ends requests with the tokens they have, empties the prefix cache and idles the workers
                await self._engine.pause_generation(mode="abort")
                await self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
                await self._label_full(version)
                await self._engine.resume_generation()
        except Exception as error:
            raise EngineFailure(f"loading version {version} from {folder} failed: {one_line(error)}") from error
        return perf_counter() - began

    async def load_adapter(self, folder: Path, version: int) -> float:
        """Load a LoRA adapter beside those in use. Returns the seconds. Needs `engine.adapter_rank`."""
        if not self.config.adapter_rank:
            raise RunError("the run publishes LoRA adapters: set actor.engine.adapter_rank to their rank")
        from vllm.lora.request import LoRARequest  # noqa: PLC0415 - vLLM is imported when it is started

        began = perf_counter()
        await self.forget(version)
        number = next(self._numbers)
        # a name and an id are never used twice: the engine would serve what it knows under them
        request = LoRARequest(f"v{version}.{number}", number, str(folder))
        try:
            async with asyncio.timeout(self.config.request_seconds):
                await self._engine.add_lora(request)
        except Exception as error:
            if self._engine.errored:
                raise EngineFailure(f"the engine died on loading adapter {folder}: {one_line(error)}") from error
            raise RunError(f"{folder}: the engine refuses this adapter: {one_line(error)}") from error
        self._adapters[version] = request
        return perf_counter() - began

    async def use(self, version: int) -> None:
        """Sample with a loaded version from now on, and open the gate. Adapters that nobody uses are removed."""
        assert version == self._full_version or version in self._adapters
        old, self.version = self.version, version
        if self.mode == "in_flight" and old in self._adapters:
            # what is on its way into the engine must be there to be interrupted
            await self._until(lambda: self._submitting == 0)
            await self._engine.abort(list(self._running))
        self._open.set()
        self._changed.set()
        for loaded in [other for other in self._adapters if other != version and not self._users[other]]:
            await self.forget(loaded)

    async def forget(self, version: int) -> None:
        """Remove an adapter from the engine, if it is there."""
        adapter = self._adapters.pop(version, None)
        if adapter is not None:
            await self._engine.remove_lora(adapter.lora_int_id)

    def loaded(self) -> set[int]:
        """Versions whose folders the engine may still read."""
        return {self._full_version, self.version, *self._adapters}

    # ---- the engine's own interface

    async def _label_full(self, version: int) -> None:
        self._full_version = version
        self._label = f"v{version}.{next(self._numbers)}"
        await self._engine.update_weight_version(self._label)

    def _params(self, *, temperature: float, max_tokens: int, prompt_logprobs: int | None = None) -> Any:
        from vllm import SamplingParams  # noqa: PLC0415 - as above
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        return SamplingParams(
            temperature=temperature,
            max_tokens=max_tokens,
            stop_token_ids=self._stop_ids,
            logprobs=0,
            prompt_logprobs=prompt_logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def _answer(self, ids: list[int], version: int, params: Any) -> RequestOutput:
        """One request to its end. Cancelling it ends it in the engine too."""
        from vllm.inputs.engine import tokens_input  # noqa: PLC0415 - as above

        request_id = f"r{next(self._numbers)}"
        adapter = self._adapters.get(version)
        label = self._label
        prompt = tokens_input(ids, cache_salt=adapter.lora_name if adapter is not None else label)
        self._submitting += 1
        queue = None
        try:
            try:
                queue = await self._engine.add_request(request_id, prompt, params, lora_request=adapter)
                self._running.add(request_id)
            finally:
                self._submitting -= 1
                self._changed.set()
            async with asyncio.timeout(self.config.request_seconds):
                output: RequestOutput = await queue.get()
        except BaseException as error:
            await self._give_up(request_id, error)
            raise
        finally:
            self._running.discard(request_id)
            if queue is not None:
                queue.close()
        labels = {span.version for span in output.outputs[0].weight_versions or ()}
        if labels - {label}:
            raise EngineFailure(f"a request of version {version} ({label}) ran on weights {sorted(labels)}")
        return output

    async def _give_up(self, request_id: str, error: BaseException) -> None:
        """End a request that failed; raises the error's class as the actor knows it."""
        if self._engine.errored:
            raise EngineFailure(f"the engine died: {one_line(error)}") from error
        await self._engine.abort(request_id)
        if isinstance(error, TimeoutError):
            raise EngineFailure(f"the engine has not answered for {self.config.request_seconds:g} s") from error
        if isinstance(error, Exception):
            raise RequestFailure(f"the engine refused a request: {one_line(error)}") from error

    async def _leave(self, version: int) -> None:
        self._users[version] -= 1
        if not self._users[version]:
            del self._users[version]
            if version != self.version and self._open.is_set():
                await self.forget(version)
        self._changed.set()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()


def _start_engine(folder: Path, config: EngineConfig, slots: int, seed: int) -> AsyncLLM:
    arguments = engine_arguments(folder, config, slots, seed)
    import_vllm()
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415 - `--help` and the tests of others do without
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415
    from vllm.v1.executor import Executor  # noqa: PLC0415

    try:
        vllm_config = AsyncEngineArgs(**arguments).create_engine_config()
    except (TypeError, ValueError, OSError) as error:
        raise UsageError(f"vLLM refuses the engine's configuration for {folder}: {one_line(error)}") from error
    try:
        with forked_engine():
            return AsyncLLM(vllm_config, Executor.get_class(vllm_config), log_stats=False, log_requests=False)
    except Exception as error:
        raise RunError(f"vLLM's engine did not start on {folder}: {one_line(error)}; see the log") from error


def _append(sampled: Sampled, output: Any, version: int) -> None:
    ids = list(output.token_ids)
    if ids:
        sampled.ids += ids
        # a sum of exponentials that rounds below 1 gives a log-prob that rounds above 0
        sampled.log_probs += [min(entry[token].logprob, 0.0) for token, entry in zip(ids, output.logprobs, strict=True)]
        sampled.versions += [version] * len(ids)
