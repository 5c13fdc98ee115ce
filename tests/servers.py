"""Real database servers for tests: one that the environment names, else one on this machine, else one started here.

A test that restarts its server gets one of its own, from the installed binaries.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

_STARTS_WITHIN = 60  # seconds


class Server:
    """A database server started here. Its address stays the same over restarts."""

    def __init__(self, command: list[str], url: URL, user: str | None, folder: Path) -> None:
        self.command, self.url, self._user, self.folder = command, url, user, folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(self.command, stdout=log, stderr=log, user=self._user, start_new_session=True)
        log.close()
        deadline = time.monotonic() + _STARTS_WITHIN
        while not answers(self.url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text(errors="replace")[-2000:])
            time.sleep(0.1)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """SIGINT ends PostgreSQL's sessions at once, SIGKILL takes the whole server without a word."""
        if self._process is not None:
            if how == signal.SIGKILL:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, how)
            else:
                self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None


def answers(url: URL) -> bool:
    """Whether a server is there."""
    engine = create_engine(url)
    try:
        with engine.connect():
            return True
    except OperationalError:
        return False
    finally:
        engine.dispose()


@contextlib.contextmanager
def own_postgres() -> Iterator[Server]:
    """A PostgreSQL server of one's own."""
    initdb = _binary("initdb", *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))
    with _folder() as folder:
        user = _unprivileged("postgres", folder)
        data, port = folder / "data", _free_port()
        setup = [str(initdb), "-D", str(data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync"]
        subprocess.run(setup, check=True, capture_output=True, user=user)
        listen = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={folder}"]
        url = URL.create("postgresql+psycopg", "postgres", None, "127.0.0.1", port, "postgres")
        server = Server([str(initdb.with_name("postgres")), "-D", str(data), *listen], url, user, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGINT)


@contextlib.contextmanager
def own_mariadb() -> Iterator[Server]:
    """A MariaDB server of one's own."""
    binary = _binary("mariadbd", Path("/usr/sbin"), Path("/usr/libexec"))
    installer = _binary("mariadb-install-db")
    with _folder() as folder:
        user = _unprivileged("mysql", folder)
        data, port = folder / "data", _free_port()
        name = pwd.getpwuid(os.getuid()).pw_name if user is None else user
        setup = [str(installer), "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        subprocess.run([*setup, f"--user={name}"], check=True, capture_output=True)
        listen = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder}/sock", f"--user={name}"]
        url = URL.create("mysql+pymysql", "root", None, "127.0.0.1", port, "mysql")
        server = Server([str(binary), "--no-defaults", f"--datadir={data}", *listen], url, None, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop(signal.SIGTERM)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL database."""
    user = os.environ.get("PGUSER", "postgres")
    here = URL.create("postgresql+psycopg", user, None, "127.0.0.1", 5432, "postgres")
    with _empty_database("ORCHESTRA_TEST_POSTGRES", here, own_postgres) as url:
        yield url.set(drivername="postgresql").render_as_string(hide_password=False)


@contextlib.contextmanager
def mariadb() -> Iterator[str]:
    """The URL of an empty MariaDB database."""
    here = URL.create("mysql+pymysql", "root", None, "127.0.0.1", 3306, "mysql")
    with _empty_database("ORCHESTRA_TEST_MARIADB", here, own_mariadb) as url:
        yield url.set(drivername="mysql").render_as_string(hide_password=False)


@contextlib.contextmanager
def _empty_database(
    variable: str, here: URL, own: Callable[[], contextlib.AbstractContextManager[Server]]
) -> Iterator[URL]:
    with contextlib.ExitStack() as stack:
        if variable in os.environ:
            server = make_url(os.environ[variable]).set(drivername=here.drivername)
        elif answers(here):
            server = here
        else:
            server = stack.enter_context(own()).url
        name = f"orchestra_test_{uuid.uuid4().hex[:12]}"
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        stack.callback(engine.dispose)
        force = "WITH (FORCE)" if server.drivername.startswith("postgresql") else ""
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield server.set(database=name)
        finally:
            with engine.connect() as connection:
                connection.execute(text(f"DROP DATABASE {name} {force}"))


def _binary(name: str, *folders: Path) -> Path:
    found = shutil.which(name, path=os.pathsep.join([*map(str, folders), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"no server answers on this machine, and {name} is not installed to start one")
    return Path(found)


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="orchestra-server-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _unprivileged(user: str, folder: Path) -> str | None:
    """Servers refuse to run as root: the user to run as, who gets the folder."""
    if os.getuid() != 0:
        return None
    shutil.chown(folder, user)
    return user


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
