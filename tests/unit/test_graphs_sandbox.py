"""A program of a language model gets nothing but its folder, whatever stands around it.

Most tests run twice: with all walls of this machine, and with the audit hook alone, as on a system that has no others.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from graphs import _sandbox
from graphs import _sandbox_child as child
from orchestra import RequestError

LINUX = sys.platform == "linux"
UNIX = os.name == "posix"
SECRET = "xk-7d1f-not-yours"


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    """The folder in which programs get their working folders: nothing may be left there."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The child's program for a system without any of Linux's walls and limits: the same text with those calls gone."""
    text = Path(child.__file__).read_text()
    for call, instead in (('sys.platform == "linux"', "False"), ("    if _limit(", "    if False and _limit(")):
        assert text.count(call) == 1
        text = text.replace(call, instead)
    path = tmp_path_factory.mktemp("bare") / "child.py"
    path.write_text(text)
    return str(path)


@pytest.fixture(params=["walls", "hook"])
def walls(request, bare, monkeypatch):
    """What stands around the programs of a test: all that this machine has, or the audit hook alone."""
    if request.param == "hook":
        monkeypatch.setattr(_sandbox, "_CHILD", bare)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "user"
    (folder / "inner").mkdir(parents=True)
    (folder / "trips.csv").write_text("day,km\n1,12\n2,30\n")
    (folder / "inner" / "notes ü.md").write_text("Grüße")
    (folder / ".env").write_text(f"KEY={SECRET}")
    return folder


async def run(code, *, data=None, **limits):
    return await _sandbox.run_python(textwrap.dedent(code), data=data, **limits)


async def test_a_program_reads_its_data_prints_and_writes_files(walls, data):
    ran = await run(
        """
        import csv, os, sys, statistics
        rows = list(csv.DictReader(open("data/trips.csv")))
        print(statistics.mean(float(row["km"]) for row in rows), open("data/inner/notes ü.md").read())
        print(sorted(os.listdir("data")), file=sys.stderr)
        os.makedirs("out/deep")
        for name in ("out/deep/ä.txt", "b.txt"):
            with open(name, "w") as file:
                file.write("x")
        """,
        data=data,
    )
    assert (ran.output, ran.error) == ("21.0 Grüße\n['inner', 'trips.csv']\n", "")
    assert ran.files == ("b.txt", "out/deep/ä.txt")
    assert 0 < ran.seconds < 5


async def test_one_file_can_be_the_data(data):
    ran = await run("print(open('data/trips.csv').readline())", data=data / "trips.csv")
    assert ran.output == "day,km\n\n"


async def test_missing_data_is_the_requests_fault(tmp_path):
    with pytest.raises(RequestError, match="no such folder"):
        await run("print(1)", data=tmp_path / "nowhere")


async def test_common_code_of_the_standard_library_works(walls):
    ran = await run(
        """
        import collections, csv, dataclasses, datetime, decimal, io, itertools, json, pathlib, pickle, random, re
        import sys, shutil, statistics, string, tempfile, textwrap, threading, typing, urllib.parse, zoneinfo
        from concurrent.futures import ThreadPoolExecutor

        @dataclasses.dataclass
        class Point:
            x: int

        pathlib.Path("a").write_text("1")
        shutil.copy2("a", "b")
        pathlib.Path("b").rename("c")
        with tempfile.TemporaryDirectory() as folder:
            pathlib.Path(folder, "x").touch()
        with ThreadPoolExecutor(2) as pool:
            print(list(pool.map(str, range(3))), pickle.loads(pickle.dumps(Point(1))), __name__, sys.argv)
        print(sorted(p.name for p in pathlib.Path().glob("*")), eval("1+1"))
        """,
    )
    assert ran.error == ""
    assert ran.output == "['0', '1', '2'] Point(x=1) __main__ ['program.py']\n['a', 'c'] 2\n"


@pytest.mark.skipif(not LINUX, reason="needs the walls")
async def test_behind_walls_more_of_it_works():
    ran = await run(
        """
        import asyncio, sqlite3
        async def main():
            await asyncio.sleep(0)
            print(sqlite3.connect(":memory:").execute("SELECT 1").fetchone())
        asyncio.run(main())
        """,
    )
    if {"landlock", "seccomp"} <= set(ran.walls):
        assert (ran.output, ran.error) == ("(1,)\n", "")


async def test_the_same_program_prints_the_same_each_time(walls):
    ran = await asyncio.gather(*(run("print({'a', 'b', 'c', 'd', 'e'}, hash('x'))") for _ in range(3)))
    assert len({r.output for r in ran}) == 1


# ---- what a program must not do

ATTEMPTS = [
    ("import socket; socket.create_connection(('127.0.0.1', 9))", "open a network connection"),
    ("import socket; socket.socket()", "open a network connection"),
    ("import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')", "open a network connection"),
    ("import socket; socket.gethostbyname('localhost')", "open a network connection"),
    ("import os; os.system('true')", "start another process"),
    ("import os; os.execv('/bin/sh', ['sh'])", "start another process"),
    ("print(open('/etc/passwd').read())", "read /etc/passwd"),
    ("import pathlib; print(pathlib.Path('/etc/passwd').read_text())", "read /etc/passwd"),
    ("print(open(b'/etc/passwd').read())", "read /etc/passwd"),
    ("print(open('../../../../../../../../etc/passwd').read())", "read ../"),
    ("import os; print(os.listdir('/'))", "read /"),
    ("import os; os.chdir('..')", "read .."),
    ("open('../x', 'w').write('x')", "write ../x"),
    ("open('data/trips.csv', 'a').write('x')", "write data/trips.csv"),
    ("import os; os.remove('data/trips.csv')", "write data/trips.csv"),
    ("import os; os.rename('data/trips.csv', 'mine')", "write data/trips.csv"),
    ("import os; os.chmod('data/trips.csv', 0)", "write data/trips.csv"),
    ("import shutil; shutil.rmtree('../data')", "write "),
    ("import ctypes", "import ctypes"),
    ("import _ctypes", "import _ctypes"),
    ("import _xxsubinterpreters", "import _xxsubinterpreters"),
]
UNIX_ATTEMPTS = [
    ("import os\nwhile True: os.fork()", "start another process"),
    ("import os; os.posix_spawn('/bin/true', ['true'], {})", "start another process"),
    ("import os; os.kill(os.getppid(), 9)", "signal a process"),
    ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))", "change its limits"),
    ("import os; print(os.read(os.open('/etc/passwd', 0), 9))", "read /etc/passwd"),
    ("import os; print(open(f'/proc/{os.getppid()}/environ').read())", "read /proc"),
    ("import os; os.symlink('/etc/passwd', 'x'); print(open('x').read())", "read x"),
    ("import os\nwhile True: os.mkdir('d' * 50); os.chdir('d' * 50)", "write "),
]


async def test_what_a_program_tries_is_refused_and_said(walls, data):
    attempts = ATTEMPTS + UNIX_ATTEMPTS * UNIX
    before = (data / "trips.csv").read_bytes(), (data / "trips.csv").stat().st_mode
    ran = await run(
        f"""
        for code in {[code for code, _ in attempts]!r}:
            try:
                exec(code)
                print("done")
            except PermissionError as error:
                print(error)
        """,
        data=data,
    )
    assert ran.error == ""
    for (code, said), answer in zip(attempts, ran.output.splitlines(), strict=True):
        assert answer.startswith(f"tried to {said}"), code
    assert before == ((data / "trips.csv").read_bytes(), (data / "trips.csv").stat().st_mode)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import os\nwhile True: os.fork()",
            "start another process (os.fork)\n  line 2, in <module>\n    while True: os.fork()",
        ),
        (
            "open('/etc/passwd')",
            "read /etc/passwd, which is outside of its folder\n  line 1, in <module>\n    open('/etc/passwd')",
        ),
    ],
)
async def test_a_refusal_ends_a_program_that_does_not_expect_it(walls, code, said):
    assert (await run(code)).error == f"tried to {said}"


async def test_subprocess_is_refused(walls):
    ran = await run("import subprocess; print(subprocess.run(['id'], capture_output=True))")
    assert ran.error.startswith("tried to ")  # where only the hook stands, the import already
    assert "process" in ran.error


async def test_a_refusal_inside_another_error_is_still_named(walls):
    ran = await run("try:\n    open('/etc/passwd')\nexcept OSError as e:\n    raise ValueError('no') from e")
    assert ran.error.startswith("tried to read /etc/passwd")
    assert ran.error.endswith("ValueError: no")


async def test_nothing_of_our_environment_is_there(walls):
    ran = await run("import os; print(sorted(os.environ)); print(os.environ)")
    assert SECRET not in ran.output
    assert "OPENAI_API_KEY" not in ran.output
    assert "PATH'" not in ran.output.splitlines()[0]


async def test_a_hidden_file_is_not_among_the_data(walls, data):
    ran = await run("import os; print([f for _, _, files in os.walk('data/') for f in files])", data=data)
    assert ".env" not in ran.output
    assert "trips.csv" in ran.output


async def test_installed_packages_are_not_there(walls):
    ran = await run("import pydantic")
    assert "ModuleNotFoundError: No module named 'pydantic'" in ran.error


# ---- limits


async def test_what_does_not_end_is_stopped_and_its_output_kept(walls):
    deaf = "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: 0)\nprint('started')\ntime.sleep(60)"
    loop = "print('started')\nwhile True: pass"
    for ran in await asyncio.gather(run(deaf, timeout=0.8), run(loop, timeout=0.8)):
        assert (ran.output, ran.error) == ("started\n", "stopped after 0.8 s")
        assert ran.seconds < 5


@pytest.mark.skipif(not LINUX, reason="macOS doesn't limit memory")
async def test_a_memory_hog_is_stopped():
    hogs = ["x = bytearray(10**9)", "x = []\nwhile True: x.append('x' * 10**6)", "x = 'a' * 10**10"]
    for ran in await asyncio.gather(*(run(f"\n{code}", memory=128 * 2**20) for code in hogs)):
        assert ran.error.startswith("needed more than 128 MB (line ")


async def test_of_much_output_both_ends_are_kept(walls):
    ran = await run("print('first')\nfor i in range(9000): print('ä' * 50)\nprint('last')")
    assert ran.error == ""
    assert ran.output.startswith("first\n")
    assert ran.output.endswith("last\n")
    assert "bytes are left out here" in ran.output
    assert len(ran.output.encode()) < 1.01 * _sandbox.MAX_OUTPUT + 100


@pytest.mark.skipif(not UNIX, reason="needs resource limits")
@pytest.mark.parametrize(
    "code", ["while True: print('y' * 10**5)", "f = open('f', 'wb')\nwhile True: f.write(b'x' * 10**6)"]
)
async def test_a_big_file_ends_the_program(code):
    ran = await run(code)
    assert ran.error.startswith("wrote more than 16 MB into one file, or as output")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("open(str(i), 'wb').write(b'x' * 8 * 2**20)", "more than 64 MB"),
        ("open(str(i), 'wb').close()", "more than 1000 files"),
    ],
)
async def test_many_files_end_the_program(code, said, monkeypatch):
    monkeypatch.setattr(_sandbox, "_POLL", 0.05)
    program = f"import time\ni = 0\nwhile True:\n    i += 1\n    {code}\n    time.sleep(0.0001 if i < 2000 else 9)"
    ran = await run(program if "64" not in said else program.replace("2000", "12"))
    assert said in ran.error
    assert len(ran.files) <= _sandbox.MAX_NAMES


async def test_a_closed_folder_is_removed_too(walls):
    ran = await run("import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').close()\nos.mkdir('x', 0)\nos.chmod('a', 0)")
    assert ran.error == ""


# ---- how a program ends


ENDINGS = {
    "raise SystemExit": "",
    "import sys; sys.exit(0)": "",
    "import sys; sys.exit(3)": "ended with exit code 3",
    "exit('not enough rows')": "not enough rows",
    "import os; os._exit(4)": "ended with exit code 4",
    "import os; os._exit(0)": "",
    "x = = 1": "does not compile: line 1: invalid syntax\n    x = = 1",
    "def f():\npass": (
        "does not compile: line 2: expected an indented block after function definition on line 1\n    pass"
    ),
    "1/0": "  line 1, in <module>\n    1/0\nZeroDivisionError: division by zero",
    "import sys; sys.stdout.close()": "",
    "input()": "  line 1, in <module>\n    input()\nEOFError: EOF when reading a line",
    "class E(Exception):\n    def __str__(self): raise E\nraise E": "  line 3, in <module>\n    raise E\nE",
    "": "",
    "# -*- coding: ascii -*-\nx = 'ü'": "",
    "\ufeffx = 1": "",
}


async def test_how_it_ended_is_said():
    ran = await asyncio.gather(*(_sandbox.run_python(code, data=None) for code in ENDINGS))
    assert {r.code: r.error for r in ran} == ENDINGS


async def test_a_traceback_names_the_programs_own_lines_and_not_too_many(walls):
    ran = await run("import json\ndef f(text):\n    return json.loads(text)\nf('{')")
    assert ran.error.startswith(
        "  line 4, in <module>\n    f('{')\n  line 3, in f\n    return json.loads(text)\nJSONDecodeError"
    )
    deep = await run("def f(n): return f(n + 1)\nf(0)")
    assert "more\n" in deep.error
    assert "RecursionError" in deep.error
    assert len(deep.error) < 500


@pytest.mark.skipif(not UNIX, reason="signals")
async def test_a_crash_is_told_by_its_signal():
    ran = await run("import os; os.abort()")
    assert ran.error == "crashed (SIGABRT)"
    assert _sandbox._ending(-9).startswith("was killed by the system")
    assert _sandbox._ending(-250) == "crashed (signal 250)"


@pytest.mark.parametrize("code", ["print('\0')", "x = '" + "(" * 5000, "(" * 5000, "x = '\ud800'"])
async def test_strange_text_is_a_result_as_well(code):
    ran = await _sandbox.run_python(code, data=None)
    assert json.loads(ran.model_dump_json())["code"] == ran.code


async def test_a_program_too_long_is_not_run():
    ran = await _sandbox.run_python("#" * 200_000, data=None)
    assert ran.error == "the program is longer than 100 kB"


async def test_a_forged_report_is_no_more_than_text(walls):
    code = "import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'\\xff' * 50000)\n    except OSError: pass"
    ran = await run(code)
    assert len(ran.error) < 20_000


# ---- beside each other, and cancelled


async def test_eight_at_once_and_the_loop_goes_on(walls, data):
    gaps = []

    async def heartbeat():
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            gaps.append(time.perf_counter() - before)

    beat = asyncio.create_task(heartbeat())
    ran = await asyncio.gather(*(run(f"open('f', 'w').write('x')\nprint({i})", data=data) for i in range(8)))
    beat.cancel()
    assert [r.output for r in ran] == [f"{i}\n" for i in range(8)]
    assert all(r.files == ("f",) and not r.error for r in ran)
    assert max(gaps) < 1  # far more than it takes here, far less than a program may


@pytest.fixture
def started(monkeypatch):
    """The processes that were started."""
    processes = []
    start = asyncio.create_subprocess_exec

    async def recorded(*args, **kwargs):
        processes.append(await start(*args, **kwargs))
        return processes[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recorded)
    return processes


@pytest.mark.parametrize("after", [0, 0.001, 0.01, 0.05])
async def test_cancelled_at_any_time_it_leaves_no_process_and_no_folder(data, started, after):
    task = asyncio.create_task(run("while True: pass", data=data))
    await asyncio.sleep(after)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert all(process.returncode is not None for process in started)


async def test_cancelled_at_work_it_ends(walls, started, scratch):
    task = asyncio.create_task(run("open('here', 'w').close()\nwhile True: pass"))
    while not list(scratch.glob("*/work/here")):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [process.returncode for process in started] == [-9 if UNIX else 1]


@pytest.mark.skipif(not LINUX, reason="the kernel's death signal")
async def test_it_ends_with_its_parent(tmp_path):
    code = f"""
        import asyncio, sys
        sys.path.insert(0, {str(Path(_sandbox.__file__).parents[1])!r})
        from graphs import _sandbox
        start = asyncio.create_subprocess_exec
        async def told(*args, **kwargs):
            process = await start(*args, **kwargs)
            await asyncio.sleep(0.1)
            print(process.pid, flush=True)
            return process
        asyncio.create_subprocess_exec = told
        asyncio.run(_sandbox.run_python("import time; time.sleep(60)", data=None))
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, env=environment)
    pid = int(parent.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(250):
        if not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
            break
        await asyncio.sleep(0.02)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the program outlived its parent")


# ---- the walls without the hook in front of them

PROBE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from graphs import _sandbox_child as child
root, outside = sys.argv[2:4]
import socket, signal, sqlite3, _posixsubprocess
os.chdir(os.path.join(root, "work"))
walls = child._build_walls(root, 9, 2**32, os.getppid())
def tried(action):
    try:
        action()
    except OSError as error:
        return error.errno
    except Exception as error:
        return type(error).__name__
    return 0
actions = {
    "own": lambda: open("own", "w").write("x"),
    "data": lambda: open("data/x").read(),
    "stdlib": lambda: open(os.__file__).read(1),
    "change data": lambda: open("data/x", "a"),
    "remove data": lambda: os.remove("../data/x"),
    "read": lambda: open(outside).read(),
    "change": lambda: open(outside, "a"),
    "remove": lambda: os.remove(outside),
    "list": lambda: os.listdir(os.path.dirname(outside)),
    "attach": lambda: sqlite3.connect(":memory:").execute(f"ATTACH '{outside}.db' AS x").execute("CREATE TABLE x.t(a)"),
    "environment": lambda: open(f"/proc/{os.getppid()}/environ").read(),
    "fork": os.fork,
    "spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "exec": lambda: os.execv(sys.executable, ["python"]),
    "socket": socket.socket,
    "kill": lambda: os.kill(os.getppid(), 0),
    "pidfd": lambda: os.pidfd_open(os.getppid()),
    "chmod": lambda: os.chmod(outside, 0),
}
print(json.dumps([walls, {name: tried(action) for name, action in actions.items()}]))
"""


@pytest.mark.skipif(not LINUX, reason="Linux's walls")
def test_the_kernel_refuses_by_itself(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside.txt"
    for folder in (root / "work", root / "data"):
        folder.mkdir(parents=True)
    (root / "work" / "data").symlink_to(root / "data")
    (root / "data" / "x").write_text("x")
    outside.write_text("mine")
    mode = outside.stat().st_mode
    gallery = str(Path(_sandbox.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PROBE, gallery, str(root), str(outside)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    walls, got = json.loads(done.stdout)
    assert all(got[name] == 0 for name in ("own", "data", "stdlib")), got
    if "landlock" in walls:
        refused = ("change data", "remove data", "read", "change", "remove", "list", "attach", "environment")
        assert all(got[name] for name in refused), got
    if "seccomp" in walls:
        assert all(got[name] for name in ("fork", "spawn", "exec", "socket", "kill", "pidfd")), got
        assert outside.stat().st_mode == mode
    if "landlock" in walls:
        assert outside.read_text() == "mine"
        assert (root / "data" / "x").read_text() == "x"
        assert not outside.with_suffix(".txt.db").exists()


def test_the_numbers_of_system_calls_are_those_of_this_machine():
    headers = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h")
    if not all(header.exists() for header in headers):
        pytest.skip("no kernel headers here")
    special = {"clone": child._CLONE, "clone3": child._CLONE3, "tgkill": child._TGKILL}
    for place, header in enumerate(headers):
        words = [line.split() for line in header.read_text().splitlines() if line.startswith("#define __NR")]
        known = {
            name.removeprefix("__NR_").removeprefix("__NR3264_"): int(number)
            for _, name, number, *_ in words
            if number.isdigit()
        }
        for name, numbers in {**child._DENIED, **child._IGNORED, **special}.items():
            assert name == "fchmodat2" or numbers[place] == known.get(name), name
