"""A PostgreSQL server on loopback, in a temporary folder, as a process of its own."""

import asyncio
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from prefects import TIMEOUT, free_port, process, until

STRANGER = "nobody"  # PostgreSQL refuses to run as root


def program(name):
    """Where a program of PostgreSQL is, on the path or where Debian puts it; None if it is not here."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


INITDB, POSTGRES = program("initdb"), program("postgres")


class Database:
    """A database's URL, in the form that SQLAlchemy takes, and what is in it."""

    def __init__(self, port):
        self.port, self.password = port, secrets.token_hex(16)
        self.url = f"postgresql+asyncpg://prefect:{self.password}@127.0.0.1:{port}/postgres"

    def query(self, statement):
        return asyncio.run(self._query(statement))

    async def _query(self, statement):
        connection = await asyncpg.connect(self.url.replace("+asyncpg", ""))
        try:
            return [tuple(row) for row in await connection.fetch(statement)]
        finally:
            await connection.close()


@contextmanager
def postgres():
    """A new database that asks for a password; gone in the end."""
    found = Database(free_port())
    user = {"user": STRANGER, "extra_groups": []} if os.getuid() == 0 else {}
    # not in pytest's own folder, which is closed to other users
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "password").write_text(found.password)
        if user:
            for path in (folder, f"{folder}/password"):
                shutil.chown(path, STRANGER)
        made = [
            INITDB,
            "-D",
            "data",
            "-U",
            "prefect",
            "--auth=scram-sha-256",
            "--pwfile=password",
            "--no-locale",
            "-E",
            "UTF8",
        ]
        subprocess.run(made, cwd=folder, check=True, capture_output=True, timeout=TIMEOUT, **user)
        options = ["-D", "data", "-p", found.port, "-h", "127.0.0.1", "-k", "", "-F"]
        with process(POSTGRES, *options, log=f"{folder}/log", cwd=folder, **user) as server:
            until(lambda: listens(found.port), "PostgreSQL")
            yield found
            server.send_signal(signal.SIGINT)  # the fast shutdown
            server.wait(TIMEOUT)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True
