"""Runs program.py of a folder under limits; the file verdict beside it says what became of it.

    guard FOLDER TOKEN CPU_S MEMORY_BYTES FILE_BYTES

The limits are the system's. The hook refuses to write or change files outside the folder, to use the
network, and to start or signal processes: behind namespaces it is the second wall, without them the
only one. A verdict counts only with the token, so that a program that exits has not passed.
"""
import os
import resource
import sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    "os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr", "os.rename",
    "os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime",
}
NEVER = {
    "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn", "os.system",
    "signal.pthread_kill",
}
NEVER_OF = ("ctypes.", "pty.", "resource.", "shutil.", "socket.", "sqlite3.", "subprocess.")


def hook_of(folder):
    realpath, fsdecode, inside = os.path.realpath, os.fsdecode, folder + os.sep

    def is_inside(path):
        return isinstance(path, int) or path is None or (realpath(fsdecode(path)) + os.sep).startswith(inside)

    def hook(event, arguments):
        if event == "open":
            path, _, flags = arguments
            refused = flags & WRITES and not is_inside(path)
        elif event in CHANGES:
            refused = not all(is_inside(path) for path in arguments if isinstance(path, (str, bytes)))
        else:
            refused = event in NEVER or event.startswith(NEVER_OF)
        if refused:
            raise PermissionError(f"{event} is not allowed here")

    return hook


def main():
    folder, token, cpu_s, memory_bytes, file_bytes = sys.argv[1:]
    folder = os.path.realpath(folder)
    del sys.argv[1:]
    verdict = os.open(os.path.join(folder, "verdict"), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    write, leave = os.write, os._exit

    def say(text):
        write(verdict, f"{token} {text}\n".encode("utf-8", "replace"))
        leave(0)

    with open(os.path.join(folder, "program.py"), encoding="utf-8") as file:
        text = file.read()
    limits = {
        "RLIMIT_CPU": int(cpu_s), "RLIMIT_AS": int(memory_bytes), "RLIMIT_FSIZE": int(file_bytes),
        "RLIMIT_NPROC": 1, "RLIMIT_NOFILE": 64, "RLIMIT_CORE": 0,
    }
    for name, most in limits.items():
        try:
            resource.setrlimit(getattr(resource, name), (most, most))
        except (AttributeError, OSError, ValueError) as error:
            say(f"refused {name}: {error}")
    sys.addaudithook(hook_of(folder))
    try:
        exec(compile(text, "program.py", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        try:
            said = f"{type(error).__name__}: {error}"
        except BaseException:
            said = type(error).__name__
        say("failed " + " ".join(said.split())[:200])
    say("passed")


main()
