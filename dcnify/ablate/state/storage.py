"""Optuna's storages: opened for many workers, and their errors in one line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcnify.errors import DcnifyError, InputError
from dcnify.words import first_line

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

HEARTBEAT, GRACE = 10, 60
"""Seconds between two signs of life of a worker, and without one until its trial is taken again."""


def without_password(url: str) -> str:
    """The URL of a storage as it may be shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        raise InputError(
            f"--storage {url}: expected the URL of a database, such as "
            "postgresql://user@host/database"
        ) from None


def open_storage(url: str, *, create: bool = True) -> RDBStorage:
    """Open a storage by its URL.

    SQLite has no row locks: there, a transaction locks the file at its beginning. Without that, two
    workers that look at the same trial both take it.

    Args:
        url: as SQLAlchemy takes it.
        create: make an SQLite file that is not there.

    Raises:
        InputError: it cannot be reached, or a package is missing.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise InputError(
            "an ablation needs the package optuna: pip install 'dcnify[ablate]'"
        ) from None
    from optuna.storages import RDBStorage
    from sqlalchemy import event

    shown, sqlite = without_password(url), url.startswith("sqlite")
    if sqlite and not create and not Path(url.partition("///")[2]).is_file():
        raise InputError(f"{shown}: there is no such file")
    options: dict[str, Any] = {"pool_pre_ping": True}
    if sqlite:
        options["connect_args"] = {"timeout": 60}
    try:
        with in_words(shown), quiet():
            storage = RDBStorage(
                url, engine_kwargs=options, heartbeat_interval=HEARTBEAT, grace_period=GRACE
            )
    except ImportError as error:
        missing = getattr(error.__cause__ or error, "name", None) or "its driver"
        raise InputError(f"{shown} needs the package {missing}: pip install {missing}") from None
    if sqlite:
        event.listen(storage.engine, "connect", _begin_by_hand)
        event.listen(storage.engine, "begin", _lock_at_once)
        storage.engine.dispose()  # connections from before
    return storage


def _begin_by_hand(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")  # a commit does not wait for the disk
    connection.execute("PRAGMA synchronous=NORMAL")


def _lock_at_once(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from announcing studies, and from calling heartbeats an experiment."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


@contextmanager
def in_words(where: str) -> Iterator[None]:
    """Turn what a database raises into one line."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        origin = getattr(cause, "orig", None) or cause or error
        words = f"{where}: the storage cannot be used: {first_line(origin)}"
        kind = DcnifyError if "disk" in words else InputError
        raise kind(words) from error


def has_password(url: str) -> bool:
    """Whether the URL of a storage holds a password, or stars in its place."""
    from sqlalchemy.engine import make_url

    return make_url(url).password is not None
