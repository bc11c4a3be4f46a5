"""The running parts of one application: worker, threads, cache and, once loaded, the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

from fastapi import Request
from structlog.typing import FilteringBoundLogger

from models.anonymizer.policy import Policy
from models.identity.errors import SubjectTableError
from models.registry.manifest import ArtifactError
from retrieval.errors import RetrievalError
from service.cache import ReleaseCache
from service.errors import log_failure
from service.idempotency import IdempotentAnswers
from service.metrics import Metrics
from service.ports import Corpus, Engine, EngineFailedError, NotReadyError, Original, Outcome
from service.readiness import Readiness
from service.releases import ReleaseDesk
from service.settings import Settings, derive_key
from service.threads import BoundedCalls, DaemonThreads
from service.worker import InferenceWorker

T = TypeVar("T")

EngineFactory = Callable[[Settings], Engine]


class Runtime:
    """Started and stopped by the application's lifespan; the models are loaded while the socket is already open."""

    def __init__(
        self, settings: Settings, build_engine: EngineFactory, metrics: Metrics, log: FilteringBoundLogger
    ) -> None:
        """Describe the parts; `start` runs them.

        Args:
            settings: the settings.
            build_engine: loads the models; called in the inference thread.
            metrics: counters.
            log: event log.
        """
        self.settings = settings
        self.metrics = metrics
        self.log = log
        self.answers = IdempotentAnswers()
        self._build_engine = build_engine
        self._engine: Engine | None = None
        self._failure: Exception | None = None
        self._loading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the threads and begin to load the models."""
        queue = self.settings.queue
        self.worker = InferenceWorker(
            max_queue_size=queue.max_queue_size,
            max_batch_size=queue.max_batch_size,
            batch_wait_timeout_s=queue.batch_wait_timeout_s,
            on_batch=self.metrics.batch_size.observe,
            on_failure=self._note_failure,
        )
        self.metrics.queue_depth.set_function(lambda: self.worker.depth)
        self.corpus_calls = BoundedCalls(
            DaemonThreads("corpus", queue.num_corpus_threads), queue.max_queue_size + queue.num_corpus_threads
        )
        self.decoding = BoundedCalls(DaemonThreads("decoding"), queue.max_queue_size + 1)
        self.cache = ReleaseCache(self.settings.cache.max_bytes)
        self.readiness = Readiness(
            self.worker,
            self.corpus_calls,
            self.engine,
            interval_s=self.settings.ready_check_interval_s,
            timeout_s=self.settings.ready_check_timeout_s,
        )
        self._loading = asyncio.create_task(self._load(), name="load-models")

    async def stop(self) -> None:
        """Finish what waits, then end the threads and forget every release."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait({self._loading})
        await self.worker.stop(self.settings.shutdown_timeout_s)
        if self._engine is not None:
            try:
                await self.corpus_calls.run(
                    self._engine.corpus.close, time.monotonic() + self.settings.shutdown_timeout_s
                )
            except Exception as error:
                # the store is safe to leave as it is: what was acknowledged is on the disk
                log_failure(self.log, error)
        self.corpus_calls.threads.stop()
        self.decoding.threads.stop()
        self.cache.clear()
        self.log.info("stopped")

    async def loaded(self) -> None:
        """Wait until the models are loaded or have failed to."""
        if self._loading is not None:
            await asyncio.wait({self._loading})

    def engine(self) -> Engine:
        """Give the engine.

        Returns:
            The loaded engine.

        Raises:
            NotReadyError: if it is still loading; the failure's own exception if loading failed.
        """
        if self._failure is not None:
            raise self._failure
        if self._engine is None:
            raise NotReadyError("the models are loading")
        return self._engine

    def deadline(self, timeout_ms: int | None) -> float:
        """Give the deadline of a request that starts now, on the clock of time.monotonic."""
        return time.monotonic() + (timeout_ms or self.settings.limits.default_timeout_ms) / 1000

    async def check_picture(self, data: bytes, deadline_s: float) -> None:
        """Refuse bytes that are no acceptable picture before they take a place in the queue.

        Args:
            data: an upload.
            deadline_s: on the clock of time.monotonic.
        """
        check = self.engine().check_picture
        await self.decoding.run(lambda: check(data), deadline_s)

    async def with_corpus(self, call: Callable[[Corpus], T], deadline_s: float) -> T:
        """Run a call in the corpus thread.

        Args:
            call: gets the corpus.
            deadline_s: on the clock of time.monotonic.

        Returns:
            The call's result.
        """
        corpus = self.engine().corpus
        return await self.corpus_calls.run(lambda: call(corpus), deadline_s)

    async def release(
        self, originals: list[Original], policy: Policy, *, scope: str, deadline_s: float
    ) -> list[Outcome]:
        """Give one outcome per original.

        Args:
            originals: pictures and the subjects somebody named.
            policy: what to do with every face.
            scope: what pseudonyms are stable within.
            deadline_s: on the clock of time.monotonic.

        Returns:
            The outcomes, in order.
        """
        self.engine()
        return await self.desk.release(originals, policy, scope=scope, deadline_s=deadline_s)

    async def _load(self) -> None:
        started = time.monotonic()
        try:
            engine = await self.worker.run(lambda: self._build_engine(self.settings))
            if not isinstance(engine, Engine):
                raise EngineFailedError(f"expected an Engine, got {type(engine).__name__}")
        except Exception as error:
            # messages of artifacts, store and subject table name files and hashes of this installation, never a request
            detail = str(error) if isinstance(error, (ArtifactError, RetrievalError, SubjectTableError)) else None
            self.log.error("models_not_loaded", error=type(error).__name__, detail=detail)
            log_failure(self.log, error)
            self._failure = error if isinstance(error, ArtifactError) else EngineFailedError(type(error).__name__)
            return
        self.desk = ReleaseDesk(
            self.worker,
            self.cache,
            self.metrics,
            master_key=derive_key(self.settings, "subject"),
            epoch=self.settings.key_epoch,
            version="|".join([engine.policy_version, *(f"{model.name}@{model.version}" for model in engine.models)]),
            has_subjects=self.settings.subjects is not None,
        )
        self.metrics.show_models(engine.models)
        self.worker.start(engine.anonymizer)
        self._engine = engine
        self.log.info("models_loaded", duration_s=round(time.monotonic() - started, 2), num_models=len(engine.models))

    def _note_failure(self, error: Exception) -> None:
        self.metrics.worker_failures.inc()
        log_failure(self.log, error)


def runtime_of(request: Request) -> Runtime:
    """Give the runtime of the application that serves a request."""
    runtime: Runtime = request.app.state.runtime
    return runtime
