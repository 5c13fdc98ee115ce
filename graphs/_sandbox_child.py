"""What a sandboxed program's process runs, before the program: walls of the kernel, limits, an audit hook.

`_sandbox` starts this file as a process of its own, and says what each wall is worth. It imports only what Python has
loaded anyway, so that a run takes some 30 ms more than its program.
"""

# ruff: noqa: PTH112, PTH115, PTH118, PTH120, PTH123 -- the child has no pathlib

import errno
import os
import sys
from types import CodeType, ModuleType

TYPE_CHECKING = False  # as typing has it, which would take longer to import than all of the above
if TYPE_CHECKING:
    import ctypes

DATA = "data"  # where a program finds the user's files, seen from its working folder
PROGRAM = "program.py"
MAX_ERROR = 2_000  # characters
MAX_FILE = 16 * 2**20  # of one file that a program writes; its output is one
_MAX_PATH = 1_000  # a deeper tree could not be removed by shutil.rmtree, which calls itself

# --------------------------------------------------------------------------------------------------------------- walls

# Denied by number, as (x86_64, aarch64), where a number is missing the machine has no such call. Everything that
# starts, stops or looks into processes, reaches out of the machine, or gives a way round the other walls.
_DENIED = {
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242), "execve": (59, 221), "execveat": (322, 281), "fork": (57, None), "vfork": (58, None),
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "mount": (165, 40), "umount2": (166, 39),
    "unshare": (272, 97), "setns": (308, 268), "pivot_root": (155, 41), "chroot": (161, 51), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "io_uring_setup": (425, 425), "open_by_handle_at": (304, 265),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "iopl": (172, None), "ioperm": (173, None),
}  # fmt: skip
# These answer "done" and do nothing: Landlock does not cover them, and shutil.copy calls them on files of its own.
_IGNORED = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
}  # fmt: skip
_CLONE, _CLONE3, _TGKILL = (56, 220), (435, 435), (234, 131)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # place in the pairs above; the kernel's number

# What a program may read besides its own folder and the standard library: what that library needs.
_SYSTEM = ("/usr/share/zoneinfo", "/dev/null", "/dev/urandom")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/etc/ld.so.cache")


def _build_walls(root: str, seconds: float, memory: int, parent: int) -> list[str]:
    """Put up every wall that this machine has; returns the names of those that stand."""
    walls: list[str] = []
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 -- only here, and out of reach afterwards

        libc = ctypes.CDLL(None, use_errno=True)
        users, network, messages = 0x10000000, 0x40000000, 0x08000000  # CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC
        if libc.unshare(users | network | messages) == 0:
            walls.append("namespace")
        # After unshare, which would reset it: no run outlives the process that wanted its result.
        libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
        if os.getppid() != parent:
            os._exit(1)
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS, which both of the following require
        walls += ["landlock"] * _landlock(libc, root) + ["seccomp"] * _seccomp(libc)
        for name in [name for name in sys.modules if name.split(".")[0] in {"ctypes", "_ctypes"}]:
            del sys.modules[name]
    if _limit(seconds, memory, forks="seccomp" in walls):
        walls.append("limits")
    return walls


def _limit(seconds: float, memory: int, *, forks: bool) -> bool:
    """Set the limits that every Unix has; returns whether memory is among those that could be set."""
    try:
        import resource  # noqa: PLC0415 -- Windows has none
        import signal  # noqa: PLC0415
    except ImportError:
        return False
    signal.setitimer(signal.ITIMER_REAL, seconds + 5)  # where nothing else ends us if our parent is gone
    # Time is taken by the parent; this is for threads in C code, which use more than a second of it in a second.
    limits = {"RLIMIT_CPU": int(2 * seconds) + 2, "RLIMIT_FSIZE": MAX_FILE, "RLIMIT_NOFILE": 64, "RLIMIT_CORE": 0}
    if not forks:
        limits["RLIMIT_NPROC"] = 1  # it counts threads too, and means nothing to root: the second choice
    held = False
    for name, value in {**limits, "RLIMIT_AS": memory}.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
            held = name == "RLIMIT_AS"
        except (AttributeError, OSError, ValueError):  # not known here, or above what we may use ourselves
            held = False
    return held


def _landlock(libc: "ctypes.CDLL", root: str) -> bool:
    """Let the kernel refuse every path but ours: nothing can be executed, only the working folder can be written."""
    import ctypes  # noqa: PLC0415 -- as above
    import struct  # noqa: PLC0415

    create, add, restrict = 444, 445, 446  # the same numbers on every machine
    version = libc.syscall(create, None, 0, 1)
    if version < 1:
        return False
    kinds = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    every = 2**kinds - 1  # all rights that this kernel knows: what is not granted below is refused
    # All of TCP from version 4 on; signals and abstract sockets from 6 on.
    attributes = struct.pack("=QQQ", every, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = libc.syscall(create, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    # The kernel's bits: write to a file; read files, list folders; remove folders and files, make folders, files and
    # links, move, cut short. A rule for a single file may hold those that a file has.
    write, read, change = (sum(1 << bit for bit in bits) for bits in ((1,), (2, 3), (4, 5, 7, 8, 12, 13, 14)))
    on_files = sum(1 << bit for bit in (1, 2, 14))
    work = (os.path.join(root, "work"), (read | write | change) & every)
    readable = [os.path.join(root, DATA), *sys.path, os.path.dirname(os.path.dirname(os.__file__)), *_LIBRARIES]
    for path, rights in [work, ("/dev/null", read | write), *((path, read) for path in (*readable, *_SYSTEM))]:
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed = rights if os.path.isdir(path) else rights & on_files
        libc.syscall(add, rules, 1, struct.pack("=Qi", allowed, fd), 0)
        os.close(fd)
    held = libc.syscall(restrict, rules, 0) == 0
    os.close(rules)
    return held


def _seccomp(libc: "ctypes.CDLL") -> bool:
    """Let the kernel refuse the system calls named above; threads and abort() are left."""
    import ctypes  # noqa: PLC0415 -- as above
    import struct  # noqa: PLC0415

    place, machine = _MACHINES.get(os.uname().machine, (0, 0))
    if not machine:
        return False
    load, equal, at_least, any_bit, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000, 0x80000000
    number, architecture, first_argument = 0, 4, 16  # offsets of what the kernel shows to a filter
    steps = [(load, 0, 0, architecture), (equal, 1, 0, machine), (answer, 0, 0, kill), (load, 0, 0, number)]
    steps += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, refuse | errno.EPERM)]  # the second set of numbers of x86
    # ENOSYS: the C library then starts its threads with clone, whose flags a filter can see.
    for calls, code in ((_DENIED.values(), errno.EPERM), (_IGNORED.values(), 0), ((_CLONE3,), errno.ENOSYS)):
        for call in calls:
            if (n := call[place]) is not None:
                steps += [(equal, 0, 1, n), (answer, 0, 0, refuse | code)]
    for call, test, value in ((_CLONE, any_bit, 0x10000), (_TGKILL, equal, os.getpid())):  # a thread; ourselves
        steps += [(equal, 0, 4, call[place]), (load, 0, 0, first_argument), (test, 0, 1, value)]
        steps += [(answer, 0, 0, allow), (answer, 0, 0, refuse | errno.EPERM)]
    steps.append((answer, 0, 0, allow))
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(steps), ctypes.addressof(buffer))
    return libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# ---------------------------------------------------------------------------------------------------------- audit hook

_EVENTS = {
    "open a network connection": (
        "socket.", "urllib.", "http.client.", "ftplib.", "smtplib.", "imaplib.", "poplib.", "nntplib.", "telnetlib.",
    ),
    "start another process": (
        "subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.",
        "webbrowser.", "_winapi.CreateProcess",
    ),
    "signal a process": ("os.kill", "signal.pthread_kill"),
    "change its limits": ("resource.setrlimit", "resource.prlimit"),
    "call into C": ("ctypes.", "sqlite3.enable_load_extension", "sqlite3.load_extension"),
}  # fmt: skip
_READING = frozenset({"os.chdir", "os.getxattr", "os.listdir", "os.listxattr", "os.scandir"})
_WRITING = {  # event: which of its arguments are paths, each with the folder's descriptor that it may start from
    "os.chflags": ((0, None),), "os.chmod": ((0, 2),), "os.chown": ((0, 3),), "os.link": ((0, 2), (1, 3)),
    "os.mkdir": ((0, 2),), "os.remove": ((0, 1),), "os.removexattr": ((0, None),), "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),), "os.setxattr": ((0, None),), "os.symlink": ((1, 2),), "os.truncate": ((0, None),),
    "os.utime": ((0, 3),), "sqlite3.connect": ((0, None),),
}  # fmt: skip
# Modules that lead round the hook: to C functions, or to an interpreter of their own, which has no hook.
_CLOSED = frozenset({"_ctypes", "_interpreters", "_testcapi", "_testinternalcapi", "_xxsubinterpreters", "ctypes"})
# C code that does by itself what the hook doesn't see then; open where a wall stands behind the hook.
_BEHIND = {
    "landlock": frozenset({"_dbm", "_gdbm", "_sqlite3", "readline"}),  # opens files: `ATTACH DATABASE`
    "seccomp": frozenset({"_posixsubprocess"}),  # forks; asyncio needs to import it, and no more
}


class Refused(PermissionError):
    """What a program tried and may not."""


def _guard(root: str, walls: list[str]) -> None:
    """Let Python refuse what a program may not do. Nothing can remove the hook again."""
    work = os.path.realpath(os.path.join(root, "work"))
    readable = [os.path.realpath(path) for path in (work, os.path.join(root, DATA), *sys.path, *_SYSTEM)]
    closed = _CLOSED.union(*(modules for wall, modules in _BEHIND.items() if wall not in walls))
    events = [(prefixes, what) for what, prefixes in _EVENTS.items()]
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def check(path: object, *, write: bool, start: object = None) -> None:
        if isinstance(path, int):
            return  # a descriptor: its file was checked when it was opened
        given = os.fsdecode("." if path is None else path)  # type: ignore[arg-type]
        real = os.path.realpath(os.path.join(_opened(start), given) if isinstance(start, int) and start >= 0 else given)
        allowed = [work, "/dev/null"] if write else readable
        if len(real) > _MAX_PATH or not any(real == one or real.startswith(one + os.sep) for one in allowed):
            raise Refused(f"tried to {'write' if write else 'read'} {given[:200]}, which is outside of its folder")

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            mode, flags = args[1], args[2]
            wanted = isinstance(mode, str) and any(letter in mode for letter in "wax+")
            check(args[0], write=wanted or (isinstance(flags, int) and bool(flags & writing)))
        elif event == "import":
            if args[0] in closed:
                raise Refused(f"tried to import {args[0]}, which is closed to it")
        elif event in _READING:
            check(args[0], write=False)
        elif event == "sqlite3.connect" and args[0] == ":memory:":
            return
        elif event in _WRITING:
            for path, start in _WRITING[event]:
                check(args[path], write=True, start=None if start is None else args[start])
        elif event == "socket.__new__" and args[1] == 1:
            return  # AF_UNIX: asyncio's event loop wakes itself up through a pair of these
        else:
            for prefixes, what in events:
                if event.startswith(prefixes):
                    raise Refused(f"tried to {what} ({event})")

    sys.addaudithook(hook)


def _opened(folder: int) -> str:
    """The path behind a descriptor: shutil.rmtree names what it removes as seen from such a folder."""
    try:
        return os.readlink(f"/proc/self/fd/{folder}")
    except OSError:
        import fcntl  # noqa: PLC0415 -- macOS says it this way

        return os.fsdecode(fcntl.fcntl(folder, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0"))


# ------------------------------------------------------------------------------------------------------------- the run


def _main() -> None:
    """Run the program of the folder given, and report in that folder's file `report`: the walls, then what failed."""
    root, seconds, memory, parent = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    with open(os.path.join(root, PROGRAM), "rb") as file:
        source = file.read().decode().removeprefix("\ufeff")
    report = os.open(os.path.join(root, "report"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    too_much = f"needed more than {memory // 2**20} MB".encode()  # ready before there is no memory left
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what is printed before a kill is kept
    walls = _build_walls(root, seconds, memory, parent)
    os.write(report, " ".join(walls).encode() + b"\n")
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__dict__.update(__file__=PROGRAM, exit=sys.exit, quit=sys.exit)  # the site module would bring the two
    sys.argv = [PROGRAM]
    try:
        program = compile(source, PROGRAM, "exec", dont_inherit=True)
        _guard(root, walls)
        _run(program, main)
    except MemoryError as error:
        os.write(report, too_much)
        lines = [number for number, _ in _places(error)]
        os.write(report, f" (line {lines[-1]})".encode() if lines else b"")
    except BaseException as error:  # noqa: BLE001 -- SystemExit and what a program makes up
        os.write(report, _told(error, source.splitlines()).encode(errors="replace"))


def _run(program: CodeType, main: ModuleType) -> None:
    exec(program, main.__dict__)  # noqa: S102 -- this is the place for it
    out = sys.__stdout__  # not what the program may have put in its place
    if out and not out.closed:
        out.flush()  # here a full file is still an error that can be told


def _told(error: BaseException, lines: list[str]) -> str:
    """What went wrong, for the author of the program: the reason, and the places in the program it came from."""
    if isinstance(error, SystemExit):
        code = error.code if error.code is not None else 0
        return (f"ended with exit code {code}" if code else "") if isinstance(code, int) else str(code)[:MAX_ERROR]
    try:
        told = [f"{type(error).__name__}: {error}"[:MAX_ERROR].removesuffix(": ")]
    except Exception:  # noqa: BLE001 -- a program's own exception may fail to describe itself
        told = [type(error).__name__]
    if isinstance(error, SyntaxError) and error.filename == PROGRAM and error.lineno:
        line = lines[error.lineno - 1] if error.lineno <= len(lines) else ""
        return f"does not compile: line {error.lineno}: {error.msg}\n    {line.strip()[:200]}"
    refused: BaseException | None = error
    while refused and not isinstance(refused, Refused):
        refused = refused.__cause__ or refused.__context__
    if refused is error:
        told = []
    if refused:
        reason = [str(refused)]
    elif isinstance(error, OSError) and error.errno == errno.EFBIG:
        reason = [f"wrote more than {MAX_FILE // 2**20} MB into one file, or as output"]
    else:
        reason = []
    places = _places(error)
    trace = [f"  … {len(places) - 5} more"] if len(places) > 5 else []
    for number, name in places[-5:]:
        text = lines[number - 1].strip()[:200] if 0 < number <= len(lines) else ""
        trace += [f"  line {number}, in {name}", f"    {text}"]
    return "\n".join([*reason, *trace, *told])


def _places(error: BaseException) -> list[tuple[int, str]]:
    """The lines of the program that an error came through, outermost first, each with its function."""
    found: list[tuple[int, str]] = []
    trace = error.__traceback__
    while trace:
        code = trace.tb_frame.f_code
        if code.co_filename == PROGRAM:
            found.append((trace.tb_lineno, code.co_name))
        trace = trace.tb_next
    return found


if __name__ == "__main__":
    _main()
