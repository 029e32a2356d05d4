"""AppWorld's engine made cheap at run time: nothing on disk is patched and nothing observable changes.

In comes a task id, out a `Template`: a built world that a process may fork as often as it likes. Runs in AppWorld's
virtualenv. What is saved, in the order of gain (measured on one core; see tests/bench/bench_world.py):

- the engine's ASGI app is driven in the calling thread (its routes are synchronous): no portal thread, no thread pool;
- one SQL dialect and one compiled-statement cache for all databases;
- nothing is written after a turn: the tracked changes are handed over instead (`Template.new_changes`);
- what a world builds anew each time but always alike is built once: FastAPI app, IPython shell, module scan of the
  time freeze, look-ups of the safety guard.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import ctypes
import encodings
import faulthandler
import functools
import gc
import importlib
import io
import os
import pathlib
import pkgutil
import random
import sys
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from actor.world.call import Ask, CallClient, answer_call

HUGE_PAGE = 2 << 20
CALLS_LIMIT = 4 << 20  # bytes of one turn's API calls in the log
MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25


def accelerate() -> None:
    """Patches the imported engine, once per process and before its first world."""
    warnings.filterwarnings("ignore", message="The HMAC key is")  # the engine's own keys: nothing to be done about it
    _quicken_imports()
    _inline_threads()
    _remember_database_details()
    _remember_main_app()
    _share_sql()
    _build_once()
    _freeze_once()


def accelerate_grading() -> None:
    """What of it a process needs that only evaluates."""
    _remember_database_details()
    _share_sql()
    _freeze_once()


# ------------------------------------------------------------------------------------------------ one world, built


class Template:
    """One open world of a process. `close` it before the next is opened: the engine holds one world per process."""

    def __init__(self, task_id: str) -> None:
        from appworld import AppWorld  # noqa: PLC0415  # paths are cached on import: APPWORLD_ROOT comes first

        self.task_id = task_id
        self.world: Any = AppWorld(task_id=task_id, experiment_name="none", load_ground_truth=False)
        self._test_client = self.world.requester.client
        self.world.requester.client = CallClient(self._test_client, functools.partial(answer_call, self.app))
        _quicken_guard(self.world.safety_guard)
        apps = dict.fromkeys([*self.world.task.allowed_apps, "admin", "supervisor"])
        self._databases = {app: importlib.import_module(f"appworld.apps.{app}.models").SQLModel.db for app in apps}
        self._seen = {app: len(database.tracker.changes) for app, database in self._databases.items()}
        for app in apps:  # a process remembers logged-out tokens beyond its world, and seeded tokens repeat
            if manager := getattr(importlib.import_module(f"appworld.apps.{app}.apis"), "logging_manager", None):
                manager.blacklisted_tokens.clear()
        self._random = random.getstate()
        self._logged = 0  # API calls

    @property
    def app(self) -> Any:
        """The engine's ASGI app."""
        return self._test_client.app

    def adopt(self) -> None:
        """First thing in a forked child: CPython reseeds `random` there, which would break the engine's seed."""
        random.setstate(self._random)

    def ask_through(self, ask: Ask) -> None:
        """From now on API calls are answered by `ask`, which reaches the process that holds the databases."""
        self.world.requester.client.ask = ask

    def hide_databases(self) -> None:
        """The model classes lose this process's copies, which count for nothing: no cell edits them that way."""
        self._hidden = [(database.engine, database.connection) for database in self._databases.values()]
        for database in self._databases.values():
            database.engine = database.connection = None

    def execute(self, code: str) -> tuple[str, bool]:
        """Runs one cell; the engine's message, and whether the cell failed."""
        results: list[Any] = []
        run = type(self.world)._shell_run_cell  # noqa: SLF001

        def run_and_note(code: str) -> Any:
            results.append(run(self.world, code))
            return results[-1]

        self.world._shell_run_cell = run_and_note  # noqa: SLF001
        message = str(self.world.execute(code))
        succeeded = bool(results) and results[-1] is not None and results[-1].success
        return message, not succeeded and message.startswith("Execution failed.")

    def new_changes(self) -> dict[str, Any] | None:
        """The database changes since the last call (first: since the task's start); None when there are none."""
        from appworld.apps.model_lib import ModelHashHandler  # noqa: PLC0415

        changes = {}
        for app, database in self._databases.items():
            found = database.tracker.changes
            if len(found) > self._seen[app]:
                changes[app] = found[self._seen[app] :]
                self._seen[app] = len(found)
        if not changes:
            return None
        hashes = ModelHashHandler.data[self.world.models_to_db_home_path]
        return {"changes": changes, "hashes": {app: dict(values) for app, values in hashes.items() if values}}

    def new_calls(self) -> bytes:
        """The API calls since the last call, each a line as the engine logs it. Model-written code can change them."""
        from appworld.common.utils import JsonPlus  # noqa: PLC0415
        from fastapi.encoders import jsonable_encoder  # noqa: PLC0415

        lines, size = [], 0
        try:
            for call in self.world.requester.requests[self._logged :]:
                lines.append(str(JsonPlus.dumps(jsonable_encoder(call))).encode() + b"\n")
                size += len(lines[-1])
                if size > CALLS_LIMIT:
                    lines.pop()
                    break
            self._logged = len(self.world.requester.requests)
        except Exception:  # noqa: BLE001  # a log that a cell has spoilt is its own affair
            return b""
        return b"".join(lines)

    def statements(self) -> dict[str, int]:
        """How many statements have changed each app's database."""
        return {app: len(database.tracker.changes) for app, database in self._databases.items()}

    def completed(self) -> bool:
        """Whether the task was marked complete (the engine's `task_completed` without the API call)."""
        row = self._databases["supervisor"].connection.execute("SELECT status FROM tasks LIMIT 1").fetchone()
        return row is not None and row[0] in ("success", "fail")

    def close(self) -> None:
        """Frees the world, so that another can be opened."""
        self.world.requester.client = self._test_client
        self.world.close()
        type(self.world).close_all()


def settle() -> HugePages:
    """After the warm-up: what exists is never scanned again, and lies in huge pages (fork copies fewer tables)."""
    gc.collect()
    gc.freeze()
    pages = HugePages()
    pages.collapse()
    return pages


class HugePages:
    """Private anonymous memory of this process, in huge pages where the kernel can: a fork copies fewer page tables.

    Every fork undoes some of it: the parent's next write to a shared huge page breaks that one up. It costs the
    children no memory, as they copy by pages of 4 KiB.
    """

    def __init__(self) -> None:
        self._maps = os.open("/proc/self/maps", os.O_RDONLY | os.O_CLOEXEC)  # later it may be out of reach
        self._madvise = ctypes.CDLL(None, use_errno=True).madvise
        self._madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

    def collapse(self) -> int:
        """The number of huge pages that there are now."""
        collapsed = 0
        for start, end in self._private_ranges():
            begin, stop = (start + HUGE_PAGE - 1) // HUGE_PAGE * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
            for page in range(begin, stop, HUGE_PAGE):
                self._madvise(page, HUGE_PAGE, MADV_HUGEPAGE)
                collapsed += self._madvise(page, HUGE_PAGE, MADV_COLLAPSE) == 0
        return collapsed

    def _private_ranges(self) -> Iterator[tuple[int, int]]:
        os.lseek(self._maps, 0, os.SEEK_SET)
        text = b"".join(iter(functools.partial(os.read, self._maps, 1 << 16), b""))
        for line in text.decode("utf-8", errors="replace").splitlines():
            fields = line.split()
            anonymous = len(fields) <= 5 or fields[5] == "[heap]" or fields[5].startswith("[anon")
            if fields[1] == "rw-p" and anonymous:
                start, end = fields[0].split("-")
                yield int(start, 16), int(end, 16)


# ------------------------------------------------------------------------------------------------ the patches


async def _inline(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


async def _inline_sync(function: Callable[..., Any], *args: Any, **_: Any) -> Any:
    return function(*args)


def _quicken_imports() -> None:
    """Building 485 routes asks 1,700 times whether a type is a model; asked through the ABC, all models are walked."""
    from pydantic import BaseModel  # noqa: PLC0415

    for name in ("fastapi._compat", "fastapi.utils"):
        module: Any = importlib.import_module(name)
        ask = module.lenient_issubclass

        def lenient_issubclass(kind: Any, base: Any, ask: Callable[..., bool] = ask) -> bool:
            return isinstance(kind, type) and BaseModel in kind.__mro__ if base is BaseModel else ask(kind, base)

        module.lenient_issubclass = lenient_issubclass


def _inline_threads() -> None:
    """Routes and dependencies run where they are called: in a forked child there is no pool to run them."""
    for name in (
        "fastapi.concurrency",
        "fastapi.dependencies.utils",
        "fastapi.routing",
        "starlette._exception_handler",
        "starlette.background",
        "starlette.concurrency",
        "starlette.middleware.errors",
        "starlette.routing",
    ):
        importlib.import_module(name).run_in_threadpool = _inline  # type: ignore[attr-defined]
    importlib.import_module("fastapi_login.fastapi_login").run_sync = _inline_sync  # type: ignore[attr-defined]


def _remember_database_details() -> None:
    """What the engine derives from a database engine is a function of it; it asks at every switch."""
    from appworld.apps.model_lib import Database  # noqa: PLC0415

    derive = Database._get_engine_to_details  # noqa: SLF001
    known: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def details(engine: Any) -> Any:
        if engine not in known:
            known[engine] = derive(engine)
        return known[engine]

    Database._get_engine_to_details = staticmethod(details)  # noqa: SLF001


def _remember_main_app() -> None:
    """The FastAPI app of 485 routes depends on nothing but the apps' names."""
    requester = importlib.import_module("appworld.requester")
    requester.build_main_app = functools.cache(requester.build_main_app)  # type: ignore[attr-defined]


def _share_sql() -> None:
    """SQL text is a function of the statement, so all of the in-memory databases may share what was compiled."""
    from sqlalchemy import util  # noqa: PLC0415

    library = importlib.import_module("appworld.apps.model_lib")
    build = library.get_db_engine
    shared: dict[str, Any] = {}

    def get_db_engine(path: str) -> Any:
        engine = build(path)
        if path.startswith(":memory:"):
            with engine.connect():  # the first connection initialises a dialect: let it be the engine's own
                pass
            shared.setdefault("dialect", engine.dialect)
            shared.setdefault("cache", util.LRUCache(20_000))
            engine.dialect = engine.pool._dialect = shared["dialect"]  # noqa: SLF001
            engine._compiled_cache = shared["cache"]  # noqa: SLF001
        return engine

    library.get_db_engine = get_db_engine  # type: ignore[attr-defined]


def _build_once() -> None:
    """One shell per process (only the preamble ever runs in it here), no output folders, no start models."""
    environment = importlib.import_module("appworld.environment")
    task = importlib.import_module("appworld.task")
    test_client = importlib.import_module("starlette.testclient")
    make_shell = environment.InteractiveShellEmbed
    shells: list[Any] = []
    names: dict[str, Any] = {}

    def shell(config: Any = None) -> Any:
        if not shells:
            shells.append(make_shell(config=config))
            names.update(shells[0].user_ns)
            # A failed cell's message comes from its exception: what IPython would print beside it is thrown away.
            shells[0].showtraceback = lambda *_args, **_kwargs: None
        shells[0].user_ns.clear()  # what the world before left there
        shells[0].user_ns.update(names)
        return shells[0]

    def start_models(self: Any) -> types.SimpleNamespace:
        return types.SimpleNamespace(from_db_home_path=self.models_from_db_home_path)

    environment.InteractiveShellEmbed = shell  # type: ignore[attr-defined]
    environment.AppWorld._save_state = lambda _self, _directory: None  # noqa: SLF001
    environment.AppWorld.save_logs = lambda _self: None
    environment.AppWorld._prepare_directories = lambda _self: None  # noqa: SLF001
    task.Task.model_collection = property(start_models)
    # No portal thread: the apps' start-up does nothing unless LOAD_ON_STARTUP is set, and the host does not set it.
    test_client.TestClient.__enter__ = lambda self: self
    test_client.TestClient.__exit__ = lambda _self, *_args: None


def _freeze_once() -> None:
    """An outer freeze: the worlds' own freezes nest in it, and only the first scans every loaded module."""
    from appworld.common.utils import freeze_time  # noqa: PLC0415

    freeze_time(datetime(2023, 1, 1)).start()  # noqa: DTZ001  # the engine's times are naive


def _quicken_guard(guard: Any) -> None:
    """The engine's guard looks 120 functions up twice a cell: here it sets the same ones, looked up once."""
    rules = importlib.import_module("appworld.common.safety_guard")
    names = [(module, name) for module, found in rules.DISALLOWED_MODULE_TO_FUNCTION_NAMES.items() for name in found]
    modules = {module: guard.module_by_path(module) for module, _ in names}
    guard.enable()
    opens = [(builtins, "open"), (io, "open"), (pathlib.Path, "open")]
    special = {(id(owner), name) for owner, name in opens}
    on = [(modules[m], n, getattr(modules[m], n)) for m, n in names if (id(modules[m]), n) not in special]
    on += [(owner, name, getattr(owner, name)) for owner, name in opens]
    guard.disable()
    originals = guard.name_to_function
    off = [(modules[m], n, originals[f"{m}.{n}"]) for m, n in names if originals.get(f"{m}.{n}") is not None]

    def enable() -> None:
        faulthandler.disable()
        for owner, name, function in on:
            setattr(owner, name, function)

    def disable() -> None:
        faulthandler.enable()
        for owner, name, function in off:
            setattr(owner, name, function)

    last_names = {path.rsplit(".", 1)[1] for path in rules.DISALLOWED_FUNCTION_PATHS}
    check = type(guard).is_syntax_safe

    def is_syntax_safe(code: str) -> Any:
        return (True, "") if _plainly_safe(code, last_names) else check(guard, code)

    guard.enable, guard.disable, guard.is_syntax_safe = enable, disable, is_syntax_safe


def _plainly_safe(code: str, last_names: set[str]) -> bool:
    """Whether the engine's slow check must say yes: no import, and no call whose last name is a disallowed one."""
    try:
        tree = ast.parse(code)
    except Exception:  # noqa: BLE001  # as the engine has it: what does not parse is safe to run
        return True
    if "import" in code:
        return False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            last = getattr(function, "attr", None) or getattr(function, "id", None)
            if last in last_names:
                return False
    return True


# ------------------------------------------------------------------------------------------------ its process


def prepare_imports() -> None:
    """Imports what a cell may import while the files can still be read (a confined process may not reach them)."""
    rules = importlib.import_module("appworld.common.safety_guard")
    codecs = {f"encodings.{module.name}" for module in pkgutil.iter_modules(encodings.__path__)}
    for name in sorted(codecs | rules.ALLOWED_MODULE_NAMES | set(rules.DISALLOWED_MODULE_TO_FUNCTION_NAMES)):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def set_paths(root: pathlib.Path, scratch: pathlib.Path) -> None:
    """The engine reads its root when it is imported, and writes nowhere but in `scratch`."""
    if "appworld" in sys.modules:
        raise RuntimeError("the engine was imported before its root was set")
    os.environ.update(APPWORLD_ROOT=str(root), APPWORLD_CACHE=str(scratch), IPYTHONDIR=str(scratch), HOME=str(scratch))
    os.chdir(scratch)
