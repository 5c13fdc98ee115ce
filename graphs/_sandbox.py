"""Run a small Python program that a language model wrote, in a process of its own with limits.

The program gets the standard library, its own working folder (which is removed afterwards) and, below `data/` in it, a
copy of the user's files. It gets no packages, no input, none of our environment, no network and no other process.

What holds it, in the order of how much it is worth. `Ran.walls` says which of them stood in a run:

- `seccomp`, `landlock` (Linux): the kernel refuses sockets, new processes, foreign programs and signals; it refuses
  every file but the working folder, the data (to read) and the libraries (to read). Needs no privileges.
- `namespace` (Linux that lets users make them): a network without any interface, and a user who may do nothing.
- `limits` (Linux, macOS): memory, processor time, the size of a file, the number of open files.
- An audit hook, everywhere: Python itself refuses the same things, and says in words what the program tried.

That stops a program which is wrong, wasteful or nosy, also one that a document's text talked the model into. It does
not stop somebody who attacks the kernel; and where only the audit hook stands (macOS, Windows, a kernel without the
above), it does not stop somebody who attacks Python: the hook lives in the process it watches. It sees no path that C
code opens on its own, which is why some modules can't be imported there. Programs of strangers belong in a container
or virtual machine. What can be observed everywhere: that a path exists, how much processor the machine has, the time.
A run leaves nothing behind, unless our own process is killed: then the kernel ends the program, and its folder stays.

`_sandbox_child` is what the child process runs; this is our side of it.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from graphs import _documents, _sandbox_child
from graphs._sandbox_child import DATA, MAX_ERROR, PROGRAM
from graphs._types import Frozen

MAX_CODE = 100_000  # bytes of a program
MAX_OUTPUT = 20_000  # bytes of output that are kept
MAX_WRITTEN = 64 * 2**20  # bytes of all files that a program writes
MAX_FILES = 1_000
MAX_NAMES = 100  # of files that are named in the result

_P = ParamSpec("_P")
_R = TypeVar("_R")
_CHILD = str(Path(_sandbox_child.__file__).resolve())
_POLL = 0.25  # seconds between two looks at what a program has written
_FLAGS = ("-S", "-P", "-s", "-B", "-X", "utf8", "-W", "ignore")  # no packages, nothing from the current folder


class Ran(Frozen):
    """A program, and what came of it.

    Attributes:
        code: the program as it was run.
        output: what it printed, also to the standard error stream; of much, the beginning and the end.
        error: empty if it ran to its end, else why it did not: a traceback's last lines, or a limit it hit.
        seconds: from the request to the result.
        files: names of the files it wrote, as seen from its working folder. They are gone with the folder.
        walls: what held it besides the audit hook; the module's text says what each is worth.
    """

    code: str
    output: str = ""
    error: str = ""
    seconds: float = 0
    files: tuple[str, ...] = ()
    walls: tuple[str, ...] = ()


async def run_python(
    code: str,
    *,
    data: Path | None,
    timeout: float = 10,  # noqa: ASYNC109 -- the program's, and running into it is a result
    memory: int = 256 * 2**20,
) -> Ran:
    """Run a program and wait for its end. What goes wrong in the program is told in the result.

    The data is copied for each run: a link would let the program at the user's own files wherever the kernel does
    not help, and a copy costs little at the sizes that `_documents` reads.

    Args:
        code: a whole program, for the standard library; it prints its result.
        data: a folder (or one file) that the program finds as `data/`: what `_documents.files` lists of it.
        timeout: in seconds, start included.
        memory: bytes of address space, of which Python itself takes about 30 MB.

    Raises:
        RequestError: the data is missing or can't be read.
    """
    started = time.perf_counter()
    source = code.encode(errors="replace")  # half a surrogate pair, which a model's JSON may hold, is no text
    code = source.decode()
    if len(source) > MAX_CODE:
        return Ran(code=code, error=f"the program is longer than {MAX_CODE // 1000} kB")
    root = Path(tempfile.mkdtemp(prefix="orchestra-"))
    try:
        await _in_thread(_furnish, root, source, data)
        stopped, status = await _watch(root, timeout, memory)
        result = await _in_thread(_collect, root, code, stopped, status)
    finally:
        await _in_thread(_remove, root)
    return result.model_copy(update={"seconds": round(time.perf_counter() - started, 3)})


async def _in_thread(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run in a thread and come back when it has ended, even if cancelled: nobody else uses the folder meanwhile."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _furnish(root: Path, source: bytes, data: Path | None) -> None:
    (root / "work").mkdir()
    (root / PROGRAM).write_bytes(source)
    if data is None:
        return
    # Beside the working folder, so that the kernel can tell the two apart; Windows gives links only to administrators.
    target = root / "work" / DATA if os.name == "nt" else root / DATA
    target.mkdir()
    if os.name != "nt":
        (root / "work" / DATA).symlink_to(target)
    found, _ = _documents.files(data)
    for name, path in found.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


async def _watch(root: Path, seconds: float, memory: int) -> tuple[str, int]:
    """Start the program and wait for its end, or bring it about; returns why, and the exit status."""
    work = str(root / "work")
    # PYTHONHASHSEED: the same program prints a set in the same order each time. Windows can't start without its root.
    environment = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC", "MALLOC_ARENA_MAX": "1"}
    environment |= dict.fromkeys(("HOME", "TMPDIR", "TEMP", "TMP"), work)
    environment |= {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    arguments = [_CHILD, str(root), str(seconds), str(memory), str(os.getpid())]
    stopped = ""
    with (root / "output").open("wb") as output:  # a file and no pipe: nobody has to read as fast as it prints
        process = await asyncio.create_subprocess_exec(
            sys.executable, *_FLAGS, *arguments, cwd=work, env=environment, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
    ended = asyncio.ensure_future(process.wait())
    try:
        async with asyncio.timeout(seconds):
            while not stopped and not (await asyncio.wait([ended], timeout=_POLL))[0]:
                stopped = await _in_thread(_excess, root / "work")
    except TimeoutError:
        stopped = f"stopped after {seconds:g} s"
    finally:
        _kill(process)
        status = await ended
    return stopped, status


def _kill(process: asyncio.subprocess.Process) -> None:
    """End a program and whatever it may have started; the group lives on as long as one of them does."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended; macOS says so in the second way
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _excess(work: Path) -> str:
    """Why a program has to be stopped for what it has written so far; empty if it need not be."""
    size = 0
    for count, path in enumerate(_written(work), 1):
        with contextlib.suppress(OSError):  # gone again
            size += path.lstat().st_size
        if count > MAX_FILES:
            return f"stopped after writing more than {MAX_FILES} files"
        if size > MAX_WRITTEN:
            return f"stopped after writing more than {MAX_WRITTEN // 2**20} MB"
    return ""


def _written(work: Path) -> Iterator[Path]:
    """What lies in the working folder, links as well, but nothing behind them."""
    for folder, folders, names in os.walk(work):
        if os.name == "nt" and folder == str(work) and DATA in folders:  # elsewhere it is a link, and not entered
            folders.remove(DATA)
        yield from (Path(folder, name) for name in [*folders, *names])


def _collect(root: Path, code: str, stopped: str, status: int) -> Ran:
    report = root / "report"
    told = report.read_bytes()[: 4 * MAX_ERROR + 1000].decode(errors="replace") if report.exists() else ""
    walls, _, error = told.partition("\n")
    written = (path for path in _written(root / "work") if path.is_file() and not path.is_symlink())
    files = sorted(path.relative_to(root / "work").as_posix().encode(errors="replace").decode() for path in written)
    return Ran(
        code=code,
        output=_output(root / "output"),
        error=stopped or error or _ending(status),
        files=tuple(files[:MAX_NAMES]),
        walls=tuple(walls.split()),
    )


def _output(path: Path) -> str:
    """The beginning and the end: what a program found, it tends to print last."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= MAX_OUTPUT:
            return file.read(MAX_OUTPUT).decode(errors="replace")
        half = MAX_OUTPUT // 2
        start = file.read(half).decode(errors="ignore")  # the cut may go through a character
        file.seek(size - half)
        end = file.read(half).decode(errors="ignore")
    return f"{start}\n[… {size - 2 * half} of {size} bytes are left out here …]\n{end}"


def _ending(status: int) -> str:
    """What an exit status says about a program that could not report any more."""
    if status >= 0:
        return f"ended with exit code {status}" if status else ""
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    known = {
        "SIGKILL": "was killed by the system, which may be short of memory",
        "SIGXCPU": "used too much processor time",
    }
    return known.get(name, f"crashed ({name})")


def _remove(root: Path) -> None:
    # A folder that its maker closed to itself can't be emptied before it is opened.
    for folder, folders, _ in os.walk(root):
        for name in folders:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(root, ignore_errors=True)
